"""Nested values as one dict."""

from __future__ import annotations

from semask_d2.d2 import CfgNode
from semask_d2.utils.nested import flattened


def test_keys_are_joined_down_to_what_is_no_mapping() -> None:
    assert flattened(CfgNode({"A": {"B": {"C": 1}, "D": []}, "E": "x"})) == {"A.B.C": 1, "A.D": [], "E": "x"}
    assert flattened({"sem_seg": {"mIoU": 1.5}, "seconds": 2}, "/") == {"sem_seg/mIoU": 1.5, "seconds": 2}
    assert flattened({"empty": {}}) == {}
