"""The files that an evaluation writes, and predictions in the formats of benchmarks."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semask_d2.d2 import MetadataCatalog
from semask_d2.evaluation import EvaluatedModel, SemanticEvaluator, submission
from semask_d2.evaluation.submission import SubmissionWriter
from tests.helpers.evaluation_files import assert_written_alike

NAMES = ["a", "b", "c"]


@pytest.fixture
def evaluator(tmp_path: Path):
    name = "results_test"
    MetadataCatalog.get(name).set(stuff_classes=NAMES, stuff_colors=[[1, 2, 3], [4, 5, 6], [7, 8, 9]], ignore_label=255)
    yield SemanticEvaluator(name, output_dir=tmp_path / "inference", boundary=True)
    MetadataCatalog.remove(name)


def process(evaluator: SemanticEvaluator, folder: Path, name: str, truth: list, prediction: list) -> dict:
    path = folder / f"{name}.png"
    Image.fromarray(np.array(truth, np.uint8)).save(path)
    inputs = {"file_name": f"{name}.jpg", "sem_seg_file_name": str(path)}
    evaluator.process([inputs], [{"sem_seg": torch.tensor(prediction)}])
    return inputs


def test_the_files_hold_what_was_measured(evaluator: SemanticEvaluator, tmp_path: Path) -> None:
    evaluator.evaluated = EvaluatedModel("weights.pth", 7)
    process(evaluator, tmp_path, "one", [[0, 0], [1, 255]], [[0, 1], [1, 1]])
    process(evaluator, tmp_path, "two", [[255, 255]], [[0, 1]])
    metrics = evaluator.evaluate()["sem_seg"]
    folder = tmp_path / "inference" / "results_test"
    content = json.loads((folder / "metrics.json").read_text())
    assert content["metrics"]["mIoU"] == pytest.approx(metrics["mIoU"]) == pytest.approx(50)
    assert content["metrics"]["IoU-c"] is None  # not in the ground truth
    assert {key: content[key] for key in ("dataset", "task", "checkpoint", "iteration", "averaged", "images")} == {
        "dataset": "results_test",
        "task": "semantic",
        "checkpoint": "weights.pth",
        "iteration": 7,
        "averaged": False,
        "images": 2,
    }
    assert content["confusion"] == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert content["ignore_label"] == 255
    first, _, last = content["classes"]
    assert (first["name"], first["color"], first["pixels"], first["IoU"], first["accuracy"]) == (
        "a",
        [1, 2, 3],
        2,
        50,
        50,
    )
    assert first["boundary IoU"] == pytest.approx(metrics["BoundaryIoU-a"])
    assert first["trimap IoU"] == pytest.approx(metrics["TrimapIoU-a"])
    assert (last["IoU"], last["pixels"]) == (None, 0)

    images = json.loads((folder / "images.json").read_text())
    assert [image["file_name"] for image in images] == ["one.jpg", "two.jpg"]
    assert images[0]["sem_seg_file_name"] == str(tmp_path / "one.png")
    assert images[0]["classes"] == {"a": 50.0, "b": 50.0}
    assert images[0]["mIoU"] == 50
    assert images[0]["pixel_accuracy"] == pytest.approx(200 / 3)
    assert (images[1]["mIoU"], images[1]["pixel_accuracy"], images[1]["classes"]) == (None, None, {})

    with open(folder / "classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == NAMES
    assert float(rows[0]["IoU"]) == 50
    assert rows[2]["IoU"] == ""
    with Image.open(folder / "confusion.png") as picture:
        assert min(picture.size) > 300
    assert_written_alike(folder, tmp_path / "again")


def test_averaged_weights_have_a_folder_of_their_own(evaluator: SemanticEvaluator, tmp_path: Path) -> None:
    evaluator.evaluated = EvaluatedModel(averaged=True)
    process(evaluator, tmp_path, "one", [[0]], [[0]])
    evaluator.evaluate()
    assert json.loads((tmp_path / "inference/ema/results_test/metrics.json").read_text())["averaged"]
    assert not (tmp_path / "inference/results_test").exists()


def measured(evaluator: SemanticEvaluator, folder: Path, model: EvaluatedModel, prediction: int) -> None:
    evaluator.begin(model)
    evaluator.reset()
    process(evaluator, folder, "one", [[0]], [[prediction]])
    evaluator.evaluate()


def test_results_of_another_model_move_the_earlier_ones_aside(
    evaluator: SemanticEvaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "inference/results_test"
    monkeypatch.setattr("semask_d2.evaluation.result_files.draw_confusion", lambda *_: np.zeros((4, 4, 3), np.uint8))

    def held() -> list:
        """Return checkpoint, iteration and accuracy of the current results, and of all that were moved."""
        folders = [folder, *sorted(folder.glob("previous_*"))]
        contents = [json.loads((x / "metrics.json").read_text()) for x in folders]
        return [(x["checkpoint"], x["iteration"], x["metrics"]["pACC"]) for x in contents]

    measured(evaluator, tmp_path, EvaluatedModel(None, 100), 0)
    measured(evaluator, tmp_path, EvaluatedModel(None, 200), 1)
    assert held() == [(None, 200, 0)]  # a training continues
    measured(evaluator, tmp_path, EvaluatedModel("model_best.pth", 100), 0)
    assert held() == [("model_best.pth", 100, 100), (None, 200, 0)]
    measured(evaluator, tmp_path, EvaluatedModel(str(Path("model_best.pth").resolve()), 100), 1)
    assert held()[0][1:] == (100, 0)  # the same file by another path
    assert len(held()) == 2
    measured(evaluator, tmp_path, EvaluatedModel("model_best.pth", 300), 0)  # has been trained further
    assert [x[1:] for x in held()] == [(300, 100), (200, 0), (100, 0)]
    assert {x.name for x in (folder / "previous_2").iterdir()} == {x.name for x in folder.iterdir() if x.is_file()}
    measured(evaluator, tmp_path, EvaluatedModel("model_best.pth", 300, sizes="in windows"), 0)  # other test sizes
    assert len(held()) == 4
    (folder / "metrics.json").write_text("{")
    measured(evaluator, tmp_path, EvaluatedModel("model_best.pth", 300), 0)
    assert (folder / "previous_4/metrics.json").read_text() == "{"


def test_a_picture_that_fails_is_a_warning(evaluator, tmp_path, monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("semask_d2.evaluation.result_files.draw_confusion", lambda *_: 1 / 0)
    process(evaluator, tmp_path, "one", [[0]], [[0]])
    evaluator.evaluate()
    assert "No plot of the confusion matrix: ZeroDivisionError" in caplog.text
    assert (tmp_path / "inference/results_test/metrics.json").exists()


@pytest.mark.parametrize(
    ("dataset", "image", "name", "ids"),
    [
        ("ade20k_sem_seg_val", "images/validation/ADE_val_00000001.jpg", "ADE_val_00000001.png", [1, 2, 150]),
        (
            "cityscapes_fine_sem_seg_val",
            "leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png",
            "frankfurt_000000_000294_gtFine_labelIds.png",
            [7, 8, 33],
        ),
        (
            "coco_stuff10k_sem_seg_test",
            "images/test/COCO_train2014_000000000077.jpg",
            "COCO_train2014_000000000077.png",
            [1, 2, 182],
        ),
        ("camvid_sem_seg_val", "images/val/Seq05VD_f00000.png", "Seq05VD_f00000.png", [0, 1, 10]),
    ],
)
def test_predictions_have_the_releases_ids_and_names(dataset, image, name, ids, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(submission, "get_dataset_dicts", lambda _: [{"file_name": image}])
    last = len(MetadataCatalog.get(dataset).stuff_classes) - 1
    SubmissionWriter(tmp_path, dataset).write(image, np.array([[0, 1, last]]))
    with Image.open(tmp_path / name) as written:
        assert written.mode == "L"
        assert np.asarray(written).tolist() == [ids]


def test_images_of_one_stem_get_files_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ["/data/x/a.jpg", "/data/x/a.png", "/data/y/a.jpg", "/data/y/b.jpg"]
    monkeypatch.setattr(submission, "get_dataset_dicts", lambda _: [{"file_name": file} for file in files])
    writer = SubmissionWriter(tmp_path, "mine")
    for number, file in enumerate(files):
        writer.write(file, np.full((1, 1), number))
    saved = {str(path.relative_to(tmp_path)): np.asarray(Image.open(path)).item() for path in tmp_path.rglob("*.png")}
    assert saved == {"x/a.jpg.png": 0, "x/a.png.png": 1, "y/a.png": 2, "y/b.png": 3}


def test_predictions_are_written_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MetadataCatalog.get("saved_test").set(stuff_classes=NAMES, ignore_label=255)
    monkeypatch.setattr(submission, "get_dataset_dicts", lambda _: [{"file_name": "one.jpg"}])
    process(SemanticEvaluator("saved_test", output_dir=tmp_path, save_predictions=True), tmp_path, "one", [[0]], [[2]])
    assert np.asarray(Image.open(tmp_path / "saved_test/predictions/one.png")).tolist() == [[2]]
    MetadataCatalog.remove("saved_test")
