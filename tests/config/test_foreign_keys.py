"""Arguments and keys of other projects get a hint."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import semask_d2
from semask_d2.config import all_keys, get_cfg
from semask_d2.config.foreign_keys import HINTS
from tests.helpers.refusals import refusal

NAME = "toy_scenes/semask_swin_mini_m2f"


@pytest.mark.parametrize(
    ("argument", "value", "hint"),
    [
        ("num_labels", 3, "Write num_classes=N"),
        ("pretrained", True, 'Write weights="config"'),
        ("classes", 3, "Write num_classes=N, or class_names"),
        ("token", "hf_x", "Log in with `hf auth login`"),
        ("ignore_mismatched_sizes", True, "Leave it out: create_model"),
        ("outputs", "scores", "It is an argument of export_model"),
        ("encoder_weights", "imagenet", 'Write weights="config"'),
        ("device_map", "auto", 'Write device="cuda"'),
    ],
)
def test_arguments_of_others(argument: str, value: object, hint: str, tiny_run: Path) -> None:
    for call in (
        lambda: semask_d2.create_model(NAME, **{argument: value}),
        lambda: semask_d2.from_pretrained(tiny_run, **{argument: value}),
    ):
        assert f'unknown config key "{argument}". {hint}' in str(refusal(call))


@pytest.mark.parametrize(("key", "hint"), [("_base_", "Write _BASE_"), ("optimizer", "Write SOLVER.OPTIMIZER")])
def test_keys_of_mmsegmentation(key: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"{key}: [x.yaml]\n")
    assert f'unknown config key "{key}". {hint}' in str(refusal(lambda: get_cfg(tmp_path / "x.yaml")))


def test_hints_name_keys_that_exist() -> None:
    keys = set(re.findall(r"\b(?:SOLVER|TEST|DATASETS|MODEL)\.[A-Z_.]*[A-Z]\b", " ".join(HINTS.values())))
    assert len(keys) > 5
    assert keys <= set(all_keys(get_cfg()))


def test_a_folder_instead_of_a_datasets_file(tmp_path: Path) -> None:
    message = refusal(lambda: get_cfg(f"{NAME}.yaml", data=tmp_path))
    assert message is not None
    assert message.startswith(f"{tmp_path}: this is a folder")
    assert f"semask init-data {tmp_path}" in message
