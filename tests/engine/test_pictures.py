"""The images that training writes: predictions and curves."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from semask_d2 import Predictor
from semask_d2.data.datasets import get_dataset_dicts
from semask_d2.engine import pictures
from semask_d2.engine.pictures import CurveWriter, PredictionPictures, report_training
from semask_d2.utils.runs import read_metrics
from tests.helpers.detectron2_names import EventStorage
from tests.helpers.evaluation_files import write_evaluation

METRIC = "sem_seg/mIoU"


@pytest.fixture
def hook(tiny_run: Path, toy_data: Path, tmp_path: Path) -> PredictionPictures:
    """Return a hook with a model in training, at the eighth of ten iterations."""
    predictor = Predictor.from_run(tiny_run)
    cfg = predictor.cfg
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.TEST.PICTURES = 3
    hook = PredictionPictures(cfg, predictor.model.train(), METRIC)
    hook.trainer = SimpleNamespace(iter=7, max_iter=10, storage=EventStorage(7))
    return hook


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "pictures").iterdir())


@pytest.mark.slow
def test_each_evaluation_draws_the_same_images(hook: PredictionPictures, tmp_path: Path) -> None:
    hook.after_step()
    assert not (tmp_path / "pictures").exists()
    hook.trainer.storage.put_scalar(METRIC, 1.0)
    hook.after_step()
    hook.after_step()  # no new evaluation
    first = ["0000008_0000.png", "0000008_0002.png", "0000008_0004.png"]
    assert names(tmp_path) == first
    hook.trainer.iter = hook.trainer.storage.iter = 10
    hook.trainer.storage.put_scalar(METRIC, 2.0)
    hook.after_train()
    assert names(tmp_path) == [*first, "0000010_0000.png", "0000010_0002.png", "0000010_0004.png"]
    assert Image.open(tmp_path / "pictures" / first[0]).width > 4 * 300  # a row of four panels
    assert hook.model.training
    assert [(name, step) for name, _, step in hook.trainer.storage._vis_data] == [
        (f"predictions/{stem}", step) for step in (7, 10) for stem in ("0000", "0002", "0004")
    ]


@pytest.mark.slow
def test_the_worst_images_are_drawn_where_the_evaluation_names_them(hook: PredictionPictures, tmp_path: Path) -> None:
    dicts = get_dataset_dicts("toy_scenes_val")
    folder = write_evaluation(tmp_path, "toy_scenes_val", dicts, Predictor.of_model(hook.cfg, hook.model.eval()))
    images = json.loads((folder / "images.json").read_text())
    ranked = [Path(x["file_name"]).stem for x in sorted(images, key=lambda x: x["mIoU"])]
    hook.trainer.storage.put_scalar(METRIC, 1.0)
    hook.after_step()
    drawn = [f"0000008_worst{rank}_{stem}.png" for rank, stem in enumerate(ranked[:3], start=1)]
    assert [name for name in names(tmp_path) if "worst" in name] == drawn
    assert [name for name, *_ in hook.trainer.storage._vis_data[3:]] == [f"worst predictions/{i}" for i in (1, 2, 3)]


def test_worst_images_of_another_dataset_are_passed_over(hook: PredictionPictures, tmp_path: Path) -> None:
    write_evaluation(tmp_path, "a", get_dataset_dicts("toy_scenes_val")[:2], Predictor.of_model(hook.cfg, hook.model))
    assert pictures.worst_samples(tmp_path / "inference/a", [{"file_name": "elsewhere.jpg"}], 3) == []
    assert pictures.worst_samples(tmp_path / "inference/b", get_dataset_dicts("toy_scenes_val"), 3) == []


@pytest.mark.slow
def test_a_training_is_reported_with_the_model_as_it_is(hook: PredictionPictures, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(hook.cfg.dump())
    predictor = Predictor.of_model(hook.cfg, hook.model)
    write_evaluation(tmp_path, "toy_scenes_val", get_dataset_dicts("toy_scenes_val")[:2], predictor)
    report_training(hook.cfg, hook.model.train())
    assert "<figcaption>ground truth" in (tmp_path / "report.html").read_text()
    assert hook.model.training


def test_a_report_that_fails_is_a_line_in_the_log(
    hook: PredictionPictures, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report_training(hook.cfg, hook.model)
    assert f"No report: UserError: {tmp_path}: no config.yaml there" in caplog.text
    assert hook.model.training


def test_a_failure_is_a_line_in_the_log(
    hook: PredictionPictures, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of paint")

    monkeypatch.setattr(pictures, "draw_example", fail)
    hook.trainer.storage.put_scalar(METRIC, 1.0)
    with caplog.at_level(logging.WARNING):
        hook.after_step()
    assert "No pictures of predictions: RuntimeError: out of paint" in caplog.text
    assert hook.model.training


def write_metrics(folder: Path) -> None:
    lines = [
        json.dumps({"iteration": i, "total_loss": 9.0 - i, "loss_ce": 1.0, "loss_ce_0": 1.0, "lr": 0.1})
        for i in range(4)
    ]
    lines += [json.dumps({"iteration": 2, METRIC: 40.0}), json.dumps({"iteration": 3, "total_loss": 1.0}), '{"iterat']
    (folder / "metrics.json").write_text("\n".join(lines))


def test_metrics_join_by_iteration_and_the_later_record_counts(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    records = read_metrics(tmp_path / "metrics.json")
    assert list(records) == [0, 1, 2, 3]
    assert records[2][METRIC] == 40.0
    assert records[2]["total_loss"] == 7.0
    assert records[3]["total_loss"] == 1.0


def test_curves_are_drawn_after_an_evaluation_or_at_the_end(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    path = tmp_path / "pictures/curves.png"
    writer = CurveWriter(tmp_path, METRIC)
    with EventStorage() as storage:
        writer.write()
        assert not path.exists()
        storage.put_scalar(METRIC, 40.0)
        writer.write()
    assert Image.open(path).width == 3 * 700
    path.unlink()
    writer.close()
    assert not path.exists()  # nothing new
    CurveWriter(tmp_path, METRIC).close()
    assert path.exists()


def test_curves_without_metrics_do_not_stop_a_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        CurveWriter(tmp_path, METRIC).close()
    assert "No learning curves: FileNotFoundError" in caplog.text
