"""Semantic metrics, compared with the plain formula for each class."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from semask_d2.d2 import MetadataCatalog
from semask_d2.evaluation import ConfusionMatrix, SemanticEvaluator
from semask_d2.utils.errors import UserError
from tests.helpers.processes import process_group

NAMES = ["a", "b", "c", "d"]
maps = hnp.arrays(np.uint8, (6, 5), elements=st.sampled_from([0, 1, 2, 3]))


@given(prediction=maps, truth=hnp.arrays(np.uint8, (6, 5), elements=st.sampled_from([0, 1, 2, 3, 255])))
def test_metrics_equal_the_plain_formula(prediction: np.ndarray, truth: np.ndarray) -> None:
    confusion = ConfusionMatrix(4, ignore_label=255)
    confusion.update(prediction, truth)
    results = confusion.metrics(NAMES)

    valid = truth != 255
    ious, frequencies = [], []
    for i, name in enumerate(NAMES):
        p, t = (prediction == i) & valid, (truth == i) & valid
        if not t.any():  # not in the ground truth: NaN, whatever the prediction
            assert np.isnan(results[f"IoU-{name}"])
            assert np.isnan(results[f"ACC-{name}"])
            continue
        ious.append((p & t).sum() / (p | t).sum())
        frequencies.append(t.sum() / valid.sum())
        assert results[f"IoU-{name}"] == pytest.approx(100 * ious[-1])
        assert results[f"ACC-{name}"] == pytest.approx(100 * (p & t).sum() / t.sum())
    if ious:
        assert results["mIoU"] == pytest.approx(100 * np.mean(ious))
        assert results["fwIoU"] == pytest.approx(100 * np.dot(ious, frequencies))
        assert results["pACC"] == pytest.approx(100 * (prediction == truth)[valid].mean())
    else:
        assert np.isnan(results["mIoU"])


@pytest.fixture
def evaluator():
    name = "evaluator_test"
    MetadataCatalog.get(name).set(stuff_classes=NAMES, ignore_label=255)
    yield SemanticEvaluator(name)
    MetadataCatalog.remove(name)


def test_images_add_up_and_reset_forgets(evaluator, tmp_path) -> None:
    truth = np.array([[0, 1], [255, 1]], np.uint8)
    Image.fromarray(truth).save(tmp_path / "t.png")
    scores = torch.zeros(4, 2, 2)
    scores[0] = 1  # class 0 everywhere
    for _ in range(2):
        evaluator.process([{"sem_seg_file_name": tmp_path / "t.png", "file_name": "i"}], [{"sem_seg": scores}])
    assert evaluator.confusion.counts.tolist()[:2] == [[2, 0, 0, 0], [4, 0, 0, 0]]
    assert evaluator.evaluate()["sem_seg"]["pACC"] == pytest.approx(100 / 3)
    evaluator.reset()
    assert evaluator.confusion.counts.sum() == 0


def test_a_label_map_of_another_size_is_named(evaluator, tmp_path) -> None:
    Image.fromarray(np.zeros((3, 2), np.uint8)).save(tmp_path / "t.png")
    inputs = [{"sem_seg_file_name": tmp_path / "t.png", "file_name": "image.jpg"}]
    with pytest.raises(UserError, match=r"image\.jpg is 2 x 2 but its label file .*t\.png is 2 x 3"):
        evaluator.process(inputs, [{"sem_seg": torch.zeros(4, 2, 2)}])


@pytest.mark.parametrize("wrong", [4, 255, -1])
def test_predicted_ids_that_are_no_class_are_named(evaluator, tmp_path, wrong: int) -> None:
    """Refuse a foreign model's ids, which would count as another pair of classes."""
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "t.png")
    inputs = [{"sem_seg_file_name": tmp_path / "t.png", "file_name": "image.jpg"}]
    with pytest.raises(UserError, match=rf"image\.jpg: the model predicts the class ids \[{wrong}\].*classes 0\.\.3"):
        evaluator.process(inputs, [{"sem_seg": torch.tensor([[0, wrong], [1, 3]])}])
    scores = torch.zeros(6, 2, 2)
    scores[5] = 1
    with pytest.raises(UserError, match=r"class ids \[5\]"):
        evaluator.process(inputs, [{"sem_seg": scores}])
    assert not evaluator.confusion.counts.any()


def labeled_inputs(folder: Path, count: int, unreadable: set[int]) -> list[dict]:
    """Return `count` images with label files of class 1; files with an index in `unreadable` are damaged or missing."""
    inputs = [{"file_name": f"{i}.jpg", "sem_seg_file_name": str(folder / f"{i}.png")} for i in range(count)]
    for i, x in enumerate(inputs):
        Image.fromarray(np.ones((2, 2), np.uint8)).save(x["sem_seg_file_name"])
        if i in unreadable and i % 2:
            Path(x["sem_seg_file_name"]).unlink()
        elif i in unreadable:
            Path(x["sem_seg_file_name"]).write_bytes(b"no image")
    return inputs


def test_an_image_whose_label_file_cannot_be_read_is_left_out_and_counted(evaluator, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO)
    labels = torch.ones(2, 2, dtype=torch.int64)
    for x in labeled_inputs(tmp_path, 5, {1, 2}):
        evaluator.process([x], [{"sem_seg": labels}])
    assert evaluator.evaluate()["sem_seg"]["pACC"] == 100
    assert evaluator.confusion.counts.sum() == 3 * 4
    assert "1.jpg left out of the metrics" in caplog.text
    assert "1.png does not exist" in caplog.text
    assert "2.jpg left out of the metrics" in caplog.text
    assert "2.png cannot be read as a label file" in caplog.text
    assert "evaluator_test, 3 images, 2 more left out because their label file is unreadable, each class" in caplog.text

    evaluator.reset()
    for x in labeled_inputs(tmp_path, 2, {0, 1}):
        evaluator.process([x], [{"sem_seg": labels}])
    with pytest.raises(UserError, match="evaluator_test: no labeled pixel to evaluate; every image or its label file"):
        evaluator.evaluate()


def test_a_label_file_in_colors_or_with_wrong_ids_is_an_error_still(evaluator, tmp_path) -> None:
    inputs = [{"sem_seg_file_name": str(tmp_path / "t.png"), "file_name": "image.jpg"}]
    for pixels, message in ((np.zeros((2, 2, 3), np.uint8), "is an RGB file"), (np.full((2, 2), 9, np.uint8), "id 9")):
        Image.fromarray(pixels).save(tmp_path / "t.png")
        with pytest.raises(UserError, match=rf"t\.png .*{message}"):
            evaluator.process(inputs, [{"sem_seg": torch.zeros(4, 2, 2)}])


def evaluate_share(rank: int, folder: Path) -> None:
    """Run as one of two processes: evaluate half of six images, and write the log and the accuracy."""
    with process_group(folder / "meeting", rank, 2):
        logging.basicConfig(filename=folder / f"log{rank}.txt", level=logging.INFO)
        MetadataCatalog.get("evaluator_two").set(stuff_classes=NAMES, ignore_label=255)
        evaluator = SemanticEvaluator("evaluator_two")
        for i in range(3 * rank, 3 * rank + 3):
            x = {"file_name": f"{i}.jpg", "sem_seg_file_name": str(folder / f"{i}.png")}
            evaluator.process([x], [{"sem_seg": torch.full((2, 2), i % 2)}])
        (folder / f"accuracy{rank}").write_text(str(evaluator.evaluate()["sem_seg"]["pACC"]))


@pytest.mark.slow
def test_unreadable_label_files_are_counted_over_processes(tmp_path) -> None:
    labeled_inputs(tmp_path, 6, {0, 3, 4, 5})  # some of the first process's, all of the second's
    torch.multiprocessing.spawn(evaluate_share, (tmp_path,), nprocs=2)
    for rank in range(2):
        assert float((tmp_path / f"accuracy{rank}").read_text()) == 50
        log = (tmp_path / f"log{rank}.txt").read_text()
        assert "2 images, 4 more left out because their label file is unreadable" in log


def test_a_data_set_without_class_names_is_named() -> None:
    with pytest.raises(UserError, match=r'"evaluator_bare" has no class names.*set\(stuff_classes='):
        SemanticEvaluator("evaluator_bare")
    MetadataCatalog.remove("evaluator_bare")


def test_the_sum_over_processes_leaves_the_matrix_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second evaluation must not count the other processes twice."""
    monkeypatch.setattr("semask_d2.evaluation.semantic.comm.get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda counts: counts.mul_(2))
    confusion = ConfusionMatrix(2, ignore_label=255)
    confusion.update(np.array([[0, 1]]), np.array([[0, 1]]))
    for _ in range(2):
        assert confusion.summed_over_processes().counts.tolist() == [[2, 0], [0, 2]]
    assert confusion.counts.tolist() == [[1, 0], [0, 1]]
