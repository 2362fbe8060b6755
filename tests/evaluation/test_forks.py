"""Evaluation with predictions of forks: the same results and files as in one process, and errors in one line."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from semask_d2 import get_cfg
from semask_d2.engine import Trainer
from semask_d2.engine.failures import explain
from semask_d2.evaluation import EvaluatedModel
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TINY
from tests.helpers.forks import two_forks_for_few_items

# torch warns where there is a single core
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(autouse=True)
def several_forks() -> Iterator[None]:
    """Let two forks predict however few images there are."""
    with two_forks_for_few_items():
        yield


def evaluate(folder: Path, workers: int, task: str = "", **patches) -> dict:
    """Evaluate the tiny model of a task with random weights."""
    words = [*TINY, "DATALOADER.NUM_WORKERS", str(workers), "OUTPUT_DIR", str(folder)]
    cfg = get_cfg(f"toy_scenes{task}/semask_swin_mini_msfapn_m2f.yaml", words)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).train()
    for name, value in patches.items():
        setattr(model, name, value)
    if not workers:
        torch.set_num_threads(1)  # as in a fork: products of several threads are rounded differently
    results = Trainer.test(cfg, model, evaluated=EvaluatedModel("weights.pth", 3))
    assert model.training
    return results


@pytest.mark.parametrize("task", ["", "_panoptic", "_instance"])
def test_forks_measure_what_one_process_does(task: str, toy_data: Path, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    results = [evaluate(tmp_path / str(workers), workers, task) for workers in (1, 0)]
    assert repr(results[0]) == repr(results[1])
    paces = [message for message in caplog.messages if "images per second" in message]
    assert len(paces) == 2
    assert all(re.match(rf"toy_scenes{task}_val: 5 images in \d+\.\d s, \d+\.\d\d images per second", x) for x in paces)
    (line,) = [message for message in caplog.messages if "processes of one thread" in message]
    assert line.startswith("2 processes of one thread, of ")
    for path in sorted((tmp_path / "0").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "1" / path.relative_to(tmp_path / "0")).read_bytes(), path
    (images,) = (tmp_path / "1").rglob("images.json")
    assert len(json.loads(images.read_text())) == 5


def refuse(inputs, **_) -> None:
    raise UserError(f"{inputs[0]['file_name']}: too small")


def run_out_of_memory(inputs, **_) -> None:
    torch.empty(2**60)


def end_process(inputs, **_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory runs out


def test_a_killed_fork_is_one_line(toy_data: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        evaluate(tmp_path, 1, predict=end_process)
    line = explain(caught.value)
    assert line is not None
    assert line.startswith("a data-loading process was killed, usually for lack of memory: lower DATALOADER")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("predict", "text"),
    [
        (refuse, r"\S+/0000\.jpg: too small"),
        (run_out_of_memory, r"\S+/0000\.jpg: out of memory in one of several processes: .* DATALOADER.NUM_WORKERS 0.*"),
    ],
)
def test_an_error_of_a_fork_is_one_line(predict, text: str, toy_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        evaluate(tmp_path, 1, predict=predict)
    assert re.fullmatch(text, explain(caught.value))


def test_unreadable_images_are_left_out(toy_data: Path, tmp_path: Path, monkeypatch, caplog) -> None:
    from semask_d2.data.datasets.toy_scenes import TOY_SCENES

    pairs = TOY_SCENES.load("val")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    broken = {**pairs[0], "file_name": str(tmp_path / "broken.jpg")}
    monkeypatch.setattr("semask_d2.data.loader.get_dataset_dicts", lambda name: [broken, *pairs[1:]])
    evaluate(tmp_path, 1)
    assert any("1 unreadable image(s) skipped" in message for message in caplog.messages)
    (images,) = tmp_path.rglob("images.json")
    assert [Path(x["file_name"]).name for x in json.loads(images.read_text())] == [f"000{i}.jpg" for i in range(1, 5)]
