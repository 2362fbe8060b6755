"""Boundary and trimap IoU, compared with repeated erosion by class and with distances by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import binary_erosion

from semask_d2.evaluation import BoundaryMetrics
from semask_d2.evaluation import boundary as module
from semask_d2.evaluation.boundary import boundary_distance

NAMES = ["a", "b", "c"]
SHAPE = (9, 11)
predictions = hnp.arrays(np.int64, SHAPE, elements=st.sampled_from([0, 0, 0, 1, 2]))
truths = hnp.arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 0, 0, 1, 1, 2, 255]))


def boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """Return the mask minus its `distance`-fold erosion by a 3 x 3 square, the outside being empty (Cheng et al.)."""
    return mask & ~binary_erosion(mask, np.ones((3, 3)), iterations=distance)


def near_another(truth: np.ndarray, distance: int) -> np.ndarray:
    """Return the labeled pixels with a labeled pixel of another class within `distance` rows and columns."""
    near = np.zeros(truth.shape, bool)
    for y, x in np.argwhere(truth != 255):
        part = truth[max(0, y - distance) : y + distance + 1, max(0, x - distance) : x + distance + 1]
        near[y, x] = ((part != 255) & (part != truth[y, x])).any()
    return near


def share(part: int, whole: int) -> float:
    return 100 * part / whole if whole else np.nan


@given(pairs=st.lists(st.tuples(predictions, truths), min_size=1, max_size=2), distance=st.integers(1, 3))
@settings(max_examples=60)
def test_is_the_plain_formula(pairs: list, distance: int) -> None:
    metrics = BoundaryMetrics(3, ignore_label=255)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "boundary_distance", lambda shape: distance)
        for prediction, truth in pairs:
            metrics.update(prediction, truth)
    by_class = metrics.by_class()
    for c in range(3):
        inter = union = trimap_inter = trimap_union = 0
        present = trimap_present = False
        for prediction, truth in pairs:
            valid = truth != 255
            p, t = boundary((prediction == c) & valid, distance), boundary(truth == c, distance)
            inter, union, present = inter + (p & t).sum(), union + (p | t).sum(), present or t.any()
            band = near_another(truth, distance)
            p, t = (prediction == c) & band, (truth == c) & band
            trimap_inter, trimap_union = trimap_inter + (p & t).sum(), trimap_union + (p | t).sum()
            trimap_present = trimap_present or t.any()
        expected = {
            "boundary IoU": share(inter, union if present else 0),
            "trimap IoU": share(trimap_inter, trimap_union if trimap_present else 0),
        }
        for name, value in expected.items():
            assert by_class[name][c] == pytest.approx(value, nan_ok=True)
    means = metrics.metrics(NAMES)
    for name, values in zip(("BoundaryIoU", "TrimapIoU"), by_class.values(), strict=True):
        assert means[f"{name}-b"] == pytest.approx(values[1], nan_ok=True)
        expected_mean = np.mean(values[~np.isnan(values)]) if (~np.isnan(values)).any() else np.nan
        assert means[f"m{name}"] == pytest.approx(expected_mean, nan_ok=True)


def test_the_band_is_two_percent_of_the_diagonal() -> None:
    assert boundary_distance((300, 400)) == 10
    assert boundary_distance((4, 3)) == 1


def test_an_outline_that_is_off_by_more_than_the_band_scores_nothing() -> None:
    truth = np.zeros((100, 100), np.uint8)
    truth[20:80, 20:80] = 1
    prediction = np.zeros((100, 100), np.int64)
    prediction[30:70, 30:70] = 1
    metrics = BoundaryMetrics(2, ignore_label=255)
    metrics.update(prediction, truth)
    assert metrics.by_class()["boundary IoU"][1] == 0
    metrics = BoundaryMetrics(2, ignore_label=255)
    metrics.update(truth.astype(np.int64), truth)
    assert metrics.metrics(["a", "b"])["mBoundaryIoU"] == metrics.metrics(["a", "b"])["mTrimapIoU"] == 100
