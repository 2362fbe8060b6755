"""Experiment trackers, offline: recorded values, resumed runs, and messages about failures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semask_d2.config import get_cfg
from semask_d2.config.checks import check_training
from semask_d2.d2 import CfgNode
from semask_d2.engine import trackers
from semask_d2.engine.trackers import Tracker, build_trackers, read_ids, write_id
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TOY_CONFIG
from tests.helpers.detectron2_names import EventStorage


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    return get_cfg(TOY_CONFIG, ["OUTPUT_DIR", str(tmp_path / "run")])


@pytest.fixture
def storage() -> Iterator[EventStorage]:
    with EventStorage(5) as storage:
        yield storage


class Recorder(Tracker):
    """A tracker that records in memory."""

    library = "json"  # any module that exists

    def begin(self, run_id: str | None) -> None:
        self.run, self.seen = run_id or "number 1", []

    @property
    def run_id(self) -> str:
        return self.run

    def put_scalars(self, scalars, iteration) -> None:
        self.seen.append((iteration, dict(scalars)))

    def put_image(self, name, image, iteration) -> None:
        self.seen.append((iteration, name, image.shape))

    def end(self) -> None:
        self.seen.append("end")


def test_each_value_and_picture_arrives_once(cfg: CfgNode, storage: EventStorage) -> None:
    tracker = Recorder(cfg)
    storage.put_scalar("loss", 3.0)
    storage.put_scalar("mIoU", 40.0, smoothing_hint=False, cur_iter=4)
    storage.put_image("predictions/a", torch.zeros(3, 4, 6, dtype=torch.uint8))
    tracker.write()
    tracker.write()
    storage.iter = 6
    storage.put_scalar("loss", 1.0)
    tracker.write()
    tracker.close()
    assert tracker.seen == [
        (4, {"mIoU": 40.0}),
        (5, {"loss": 3.0}),
        (5, "predictions/a", (4, 6, 3)),
        (6, {"loss": 2.0}),  # the median, as in metrics.json
        "end",
    ]


def test_a_resumed_run_goes_on_in_its_trackers_run(cfg: CfgNode, storage: EventStorage) -> None:
    Recorder(cfg).write()
    ids = Path(cfg.OUTPUT_DIR, "trackers.json")
    assert json.loads(ids.read_text()) == {"json": "number 1"}
    ids.write_text('{"json": "number 7", "other": "2"}')
    tracker = Recorder(cfg)
    tracker.write()
    assert tracker.run == "number 7"
    assert json.loads(ids.read_text()) == {"json": "number 7", "other": "2"}
    ids.write_text("damaged")
    tracker = Recorder(cfg)
    tracker.write()
    assert tracker.run == "number 1"


def test_a_tracker_that_fails_later_ends_no_training(
    cfg: CfgNode, storage: EventStorage, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Recorder(cfg)
    tracker.write()

    def fail(*_: object) -> None:
        raise ConnectionError("no route")

    tracker.put_scalars = tracker.end = fail
    for iteration in (7, 8):
        storage.put_scalar("loss", 1.0, cur_iter=iteration)
        tracker.write()
    tracker.close()
    assert caplog.text.count("json is switched off after an error: ConnectionError: no route") == 1
    assert "json could not finish its run: ConnectionError: no route" in caplog.text


def test_a_tracker_that_does_not_start_is_one_line(cfg: CfgNode, storage: EventStorage) -> None:
    tracker = Recorder(cfg)
    tracker.begin = lambda run_id: (_ for _ in ()).throw(ValueError("no\nkey"))
    with pytest.raises(UserError, match=r'TRACKERS: "json" does not start \(ValueError: no key\)'):
        tracker.write()
    tracker.close()


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 10**5, "[1]", "{", "\xff", '{"wandb": 3}', '{"wandb": "../../x"}', '{"wandb": "a\\u0000"}'),
        *('{"wandb": ["x"]}', f'{{"wandb": "{"x" * 200}"}}', f'{{"wandb": {"9" * 5000}}}'),
    ],
)
def test_a_strangers_numbers_of_runs_are_left_out(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "trackers.json").write_bytes(text.encode("latin-1"))
    assert read_ids(tmp_path) == {}
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path / 'trackers.json'}")
    assert len(record.getMessage()) < 500
    write_id(tmp_path, "mlflow", "0a1b-2")
    assert read_ids(tmp_path) == {"mlflow": "0a1b-2"}


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_library_names_its_extra(cfg: CfgNode, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    cfg.TRACKERS = [name]
    with pytest.raises(UserError, match=rf'TRACKERS: "{name}" needs its library .*pip install {name}$'):
        build_trackers(cfg)


@pytest.mark.parametrize("value", [["tensorboard"], ["wandb", "wandb"], "wandb"])
def test_other_trackers_are_refused(cfg: CfgNode, value: object) -> None:
    cfg.TRACKERS = value
    with pytest.raises(UserError, match=r'TRACKERS: expected a list of "wandb", "mlflow", or \[\], got'):
        check_training(cfg)


def test_none_is_the_default(cfg: CfgNode) -> None:
    assert cfg.TRACKERS == []
    assert build_trackers(cfg) == []


def put_values(storage: EventStorage) -> None:
    storage.put_scalar("loss", 3.0)
    storage.put_scalar("sem_seg/IoU-door; a, b", 40.0, smoothing_hint=False)
    storage.put_scalar("sem_seg/IoU-gone", float("nan"), smoothing_hint=False)
    storage.put_image("predictions/a", torch.full((3, 4, 6), 9, dtype=torch.uint8))


@pytest.mark.slow
def test_mlflow_has_values_pictures_and_settings_of_both_halves(
    cfg: CfgNode, storage: EventStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    address = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.chdir(tmp_path)  # it writes images and files to the current folder
    cfg.TRACKERS = ["mlflow"]
    for iteration in (5, 6):
        (tracker,) = build_trackers(cfg)
        storage.iter = iteration
        put_values(storage)
        tracker.write()
        tracker.close()
        storage.clear_images()
    client = mlflow.MlflowClient(address)
    (run,) = client.search_runs(["0"])
    assert (run.info.run_id, run.info.status, run.info.run_name) == (tracker.run_id, "FINISHED", "run")
    history = client.get_metric_history(run.info.run_id, "sem_seg/IoU-door_ a_ b")
    assert [(metric.step, metric.value) for metric in history] == [(5, 40.0), (6, 40.0)]
    assert run.data.params["SOLVER.OPTIMIZER"] == "ADAMW"
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files >= {"config.yaml", "images"}


@pytest.mark.slow
def test_wandb_has_values_pictures_and_settings(
    cfg: CfgNode, storage: EventStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    cfg.TRACKERS = ["wandb"]
    (tracker,) = build_trackers(cfg)
    Path(cfg.OUTPUT_DIR).mkdir()
    put_values(storage)
    tracker.write()
    summary = dict(tracker.run.summary)
    settings = dict(tracker.run.config)
    number = tracker.run_id
    tracker.close()
    assert summary["loss"] == 3.0
    assert summary["sem_seg/IoU-door; a, b"] == 40.0
    assert summary["iteration"] == 5
    assert "predictions/a" in summary
    assert settings["SOLVER.OPTIMIZER"] == "ADAMW"
    (folder,) = Path(cfg.OUTPUT_DIR, "wandb").glob("offline-run-*")
    assert folder.name.endswith(number)
    assert len(list(folder.rglob("*.png"))) == 1
    (again,) = build_trackers(cfg)
    again.write()
    assert again.run_id == number
    again.close()


def test_wandb_gets_the_iteration_as_a_field(cfg: CfgNode, storage: EventStorage, monkeypatch) -> None:
    logged: list[dict] = []
    run = SimpleNamespace(id="n", log=logged.append, define_metric=lambda *_, **__: None)
    monkeypatch.setattr(
        trackers, "import_extra", lambda library: SimpleNamespace(init=lambda **_: run, Image=np.asarray)
    )
    cfg.TRACKERS = ["wandb"]
    (tracker,) = build_trackers(cfg)
    storage.put_scalar("loss", 3.0)
    tracker.write()
    assert logged == [{"loss": 3.0, "iteration": 5}]
