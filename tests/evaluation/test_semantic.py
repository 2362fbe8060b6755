"""The metrics, against the plain per-class formula."""

from __future__ import annotations

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
        if not t.any():  # absent from the truth: no number, whatever was predicted
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
    with pytest.raises(UserError, match=r"t\.png.*2 x 3.*image\.jpg.*2 x 2"):
        evaluator.process(inputs, [{"sem_seg": torch.zeros(4, 2, 2)}])


def test_a_data_set_without_class_names_is_named() -> None:
    with pytest.raises(UserError, match=r'"evaluator_bare" has no class names.*set\(stuff_classes='):
        SemanticEvaluator("evaluator_bare")
    MetadataCatalog.remove("evaluator_bare")
