"""An evaluation's loader shows progress on a terminal, and nothing elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from semask_d2 import get_cfg
from semask_d2.data.loader import build_test_loader
from tests.helpers.commands import TINY, TOY_CONFIG


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_for_terminals(terminal: bool, toy_data, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    out.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", out)
    assert len(list(build_test_loader(get_cfg(TOY_CONFIG, list(TINY)), "toy_scenes_val"))) == 5
    assert ("toy_scenes_val:" in out.getvalue()) is terminal
