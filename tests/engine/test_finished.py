"""Runs that were killed between their last checkpoint and their end: resuming repeats the end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from semask_d2 import get_cfg
from semask_d2.engine import Trainer
from semask_d2.engine.hooks import SmoothingWindow
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TINY, TOY_CONFIG

OPTIONS = {
    "SOLVER.MAX_ITER": 4,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.EMA.ENABLED": True,
    "TEST.EVAL_PERIOD": 2,
    "TEST.VALIDATION_LOSS": True,
}
SECONDS = ("time", "data_time")


def trained(folder: Path, **options: object) -> Path:
    words = [str(word) for pair in (OPTIONS | options | {"OUTPUT_DIR": folder}).items() for word in pair]
    trainer = Trainer(get_cfg(TOY_CONFIG, [*TINY, *words]))
    trainer.resume_or_load(resume=True)
    trainer.train()
    return folder


@pytest.fixture(scope="module")
def whole(toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(toy_root))
        return trained(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def killed(whole: Path, tmp_path: Path, toy_data: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def forget_the_end(run: Path, *, last_step: bool) -> None:
    """Change a run to the state just after writing `model_final.pth`, before its last evaluation and step."""
    lines = (run / "metrics.json").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["iteration"] < (3 if last_step else 4)]
    assert len(kept) < len(lines)
    (run / "metrics.json").write_text("".join(kept))
    if torch.load(run / "model_best.pth", weights_only=True)["iteration"] == 4:
        (run / "model_best.pth").unlink()
    (run / "report.html").unlink()
    shutil.rmtree(run / "inference")
    for path in (run / "pictures").glob("*"):
        if not path.name.startswith("0000002_"):
            path.unlink()


def lines(run: Path) -> list[dict]:
    contents = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    contents.sort(key=lambda content: content["iteration"])
    return [{key: value for key, value in content.items() if key not in SECONDS} for content in contents]


def files(run: Path) -> dict[str, bytes]:
    """Return a run's files, without logs and anything that contains seconds, dates or the folder's name."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file()
        and path.suffix in (".png", ".json", ".csv")
        and path.name not in ("metrics.json", "curves.png")
    }


def names(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if not path.name.startswith("events.")}


def same(a: object, b: object) -> bool:
    if isinstance(a, dict):
        assert isinstance(b, dict)
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.slow
@pytest.mark.parametrize("last_step", [False, True])
def test_the_end_of_a_finished_run_is_done_again(whole: Path, killed: Path, last_step: bool) -> None:
    forget_the_end(killed, last_step=last_step)
    if last_step:  # killed between the last numbered checkpoint and the final one
        (killed / "model_final.pth").unlink()
        (killed / "last_checkpoint").write_text("model_0000003.pth")
    trained(killed)
    assert lines(killed) == lines(whole)
    assert names(killed) == names(whole)
    assert files(killed) == files(whole)
    for name in ("model_best.pth", "model_final.pth"):
        a, b = (torch.load(run / name, weights_only=True) for run in (killed, whole))
        assert same(a["model"], b["model"])
        assert a["iteration"] == b["iteration"]
        assert a.get("best") == b.get("best")
    assert (killed / "last_checkpoint").read_text() == "model_final.pth"


@pytest.mark.slow
@pytest.mark.parametrize("earlier", [-1.0, None])
def test_a_last_model_that_is_the_best_is_kept(killed: Path, earlier: float | None) -> None:
    forget_the_end(killed, last_step=False)
    path = killed / "model_best.pth"
    if earlier is None:
        path.unlink(missing_ok=True)
    else:
        torch.save({"model": {}, "best": earlier, "iteration": 1}, path)
    trained(killed)
    best = torch.load(path, weights_only=True)
    assert best["best"] >= 0
    assert best["iteration"] == 3
    final = torch.load(killed / "model_final.pth", weights_only=True)
    average = {
        name.removeprefix("module."): value
        for name, value in final["trainer"]["hooks"]["WeightAverage"].items()
        if name != "n_averaged"
    }
    assert same(best["model"], average if best["metric"].startswith("ema/") else final["model"])


@pytest.mark.slow
def test_smoothed_losses_of_a_resumed_run_are_those_of_a_whole_one(whole: Path, killed: Path) -> None:
    for name in ("model_final.pth", "model_best.pth", "model_0000003.pth", "metrics.json"):
        (killed / name).unlink()
    (killed / "last_checkpoint").write_text("model_0000001.pth")
    trained(killed)
    (resumed,), (expected,) = ([line for line in lines(run) if line["iteration"] == 3] for run in (killed, whole))
    assert "total_loss" in resumed
    assert resumed == expected


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"loss": 3}, "'loss': expected a mapping"),
        ({"loss": {"smooth": True, "values": [[1.0]]}}, "expected a list of 2 values"),
        ({"loss": {"smooth": True, "values": [[float("nan"), 1]]}}, "expected a finite number"),
        ({"loss": {"smooth": True, "values": [[1.0, -1]]}}, "of at least 0"),
        ({"loss": {"smooth": "yes", "values": []}}, "expected true or false"),
        ({5: {"smooth": True, "values": []}}, "expected a text, got 5"),
        ([], "expected a mapping"),
    ],
)
def test_damaged_latest_values_are_one_line(state: object, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        SmoothingWindow("metrics.json").load_state_dict(state)
