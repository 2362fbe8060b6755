"""Options of other programs get a hint, and no option may be abbreviated."""

from __future__ import annotations

import re

import pytest

from semask_d2.__main__ import COMMANDS, command_parser, main
from semask_d2.commands.foreign_options import OPTIONS
from semask_d2.config import all_keys, get_cfg
from tests.helpers.commands import ROOT


def refused(words: list[str], capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as exit_info:
        main(words)
    assert exit_info.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["train", "--config-file", "x.yaml", "--work-dir", "out"], "--work-dir: write --output DIR"),
        (["train", "--work-dir=out"], "--work-dir: write --output DIR"),
        (["train", "--cfg-options", "model.x=1"], "--cfg-options: write SOLVER.MAX_ITER 1000"),
        (["eval", "--weights", "run", "--out", "r.pkl"], "--out: write --output; `semask eval` always writes"),
        (["eval", "--weights", "run", "--eval", "mIoU"], "--eval: write nothing: mIoU"),
        (["eval", "--weights", "run", "--show-dir", "x"], "--show-dir: write semask predict --input IMAGES"),
        (["predict", "--input", "x.jpg", "--checkpoint", "x.pth"], "--checkpoint: write --weights SOURCE"),
        (["train", "--per_device_train_batch_size", "2"], "write SOLVER.IMS_PER_BATCH N at the end, over all GPUs"),
    ],
)
def test_options_of_others_get_a_hint(words: list[str], hint: str, capsys: pytest.CaptureFixture) -> None:
    line = refused(words, capsys)
    assert line.startswith(f"semask {words[0]}: error: ")
    assert hint in line


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "--weights", "run", "--outp", "x"],
        ["eval", "--weig", "run"],
        ["train", "--config", "x.yaml"],
        ["export", "--output", "x.onnx", "--form", "onnx"],
    ],
)
def test_no_option_is_abbreviated(words: list[str], capsys: pytest.CaptureFixture) -> None:
    assert "unrecognized arguments" in refused(words, capsys)


def test_no_parser_of_a_script_accepts_abbreviations() -> None:
    files = [path for folder in ("tools", "datasets", "benchmarks") for path in (ROOT / folder).glob("*.py")]
    pattern = re.compile(r"ArgumentParser\((.*?)\n?    \)\n", re.DOTALL)
    calls = [call for path in files for call in pattern.findall(path.read_text())]
    assert len(calls) > 8
    assert all("allow_abbrev=False" in call for call in calls)


def test_hints_name_options_and_keys_that_exist() -> None:
    options = {word for name in COMMANDS for word in command_parser(name)._option_string_actions}
    hints = " ".join(OPTIONS.values())
    assert set(re.findall(r"--[a-z-]+", hints)) <= options
    keys = set(re.findall(r"\b(?:SOLVER|TEST|DATASETS|MODEL)\.[A-Z_.]*[A-Z]\b", hints))
    assert keys
    assert keys <= set(all_keys(get_cfg()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "x.yaml", "x.pth"], "x.yaml: arguments have names: write --config-file x.yaml --weights x.pth"),
        (["train", "x.py", "--resume"], "x.py: Python configs are not read"),
        (["web", "facebook/model"], "write --weights facebook/model"),
        (["train", "--config-file", "x.yaml", "now"], "now: expected an option or a setting"),
        (
            ["eval", "--weights", "run", "--device", "cpu", "--output", "o", "SEED"],
            "settings: expected KEY VALUE pairs, got an odd number of words: SEED\n",
        ),
        (["export", "--output", "x.onnx", "SEED", "1", "TEST.AUG.FLIP"], "odd number of words: SEED 1 TEST.AUG.FLIP\n"),
    ],
)
def test_misplaced_words(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
