"""Commands `semask compare` and `semask eval`: their tables, result files and errors."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from semask_d2.__main__ import main
from semask_d2.commands.compare import Row, class_table, summary_table
from tests.helpers.commands import ROOT
from tests.helpers.loggers import restored_loggers


def compare(*words: object) -> int:
    with restored_loggers():
        return main(["compare", *map(str, words)])


@pytest.mark.slow
def test_runs_and_files_in_one_table(toy_data, tiny_run: Path, tmp_path: Path, capsys) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_run, other)
    output = tmp_path / "table"
    assert compare(tiny_run, other / "model_best.pth", "--per-class", "--output", output) == 0
    printed = capsys.readouterr().out
    assert "| model" in printed
    assert "| sky" in printed
    rows = json.loads((output / "compare.json").read_text())
    assert [row["checkpoint"] for row in rows] == [str(tiny_run / "model_best.pth"), str(other / "model_best.pth")]
    assert len({row["model"] for row in rows}) == 2
    assert rows[0]["metrics"] == rows[1]["metrics"]
    with open(output / "compare.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["mIoU"]) for row in table] == [row["metrics"]["mIoU"] for row in rows]
    written = json.loads((output / rows[0]["model"] / "inference/toy_scenes_val/metrics.json").read_text())
    assert written["metrics"] == rows[0]["metrics"]
    assert written["checkpoint"] == str(tiny_run / "model_best.pth")
    for row in rows:  # each model has its log
        log = (output / row["model"] / "log.txt").read_text()
        assert log.count("Written to") == 1
        assert row["checkpoint"] in log


def test_models_of_several_tasks_are_in_one_table() -> None:
    rows = [
        Row("a", "a.pth", "labels", {"mIoU": 10.0, "IoU-sky": 11.0, "IoU-box": 12.0}),
        Row("b", "b.pth", "segments", {"PQ": 20.0, "PQ_th": 21.0, "PQ-sky": 22.0}),
        Row("c", "c.pth", "segments", {"PQ": 30.0, "PQ_th": 31.0, "PQ-sky": 32.0}),
    ]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in summary_table(rows).splitlines()]
    assert lines[0] == ["model", "dataset", "mIoU", "PQ", "PQ_th"]
    assert lines[2:] == [
        ["a", "labels", "10.00", "", ""],
        ["b", "segments", "", "20.00", "21.00"],
        ["c", "segments", "", "30.00", "31.00"],
    ]
    first, second = (table.splitlines() for table in class_table(rows).split("\n\n"))
    assert first[0].split() == ["|", "IoU", "|", "a", "|"]
    assert second[0].split() == ["|", "PQ", "|", "b", "|", "c", "|"]
    assert second[2].split() == ["|", "sky", "|", "22.00", "|", "32.00", "|"]


def test_a_missing_run_is_named_before_anything_is_evaluated(tiny_run: Path, tmp_path: Path, capsys) -> None:
    assert compare(tiny_run, tmp_path / "missing", "--output", tmp_path / "table") == 1
    assert f"error: {tmp_path / 'missing'}: no such file or run folder" in capsys.readouterr().err
    assert not (tmp_path / "table").exists()


@pytest.mark.slow
def test_a_run_stands_for_its_config_its_weights_and_its_folder(
    toy_data, tiny_run: Path, tmp_path: Path, capsys
) -> None:
    run = tmp_path / "moved"
    shutil.copytree(tiny_run, run)
    with restored_loggers():
        assert main(["eval", "--weights", str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("toy_scenes_val mIoU ")
    written = json.loads((run / "inference/toy_scenes_val/metrics.json").read_text())
    assert written["checkpoint"] == str(run / "model_best.pth")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "nowhere"], "--weights nowhere: no such file or run folder"),
        (["--weights", "nowhere", "--config-file", "some.yaml"], "--weights nowhere: no such file"),
        (["--weights", "configs"], "--weights configs: no config.yaml there; expected a run folder"),
        (
            ["--weights", "README.md", "MODEL.WEIGHTS", "b.pth"],
            "--weights README.md and MODEL.WEIGHTS b.pth: give only one",
        ),
        ([], "--config-file is missing"),
    ],
)
def test_invalid_sources_are_not_evaluated(words: list[str], message: str, capsys, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["eval", *words]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
