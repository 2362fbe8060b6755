"""Sum of the semantic decoder against row-by-row interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from semask_d2.modeling.layers.semantic_decoder import decode_semantic_prior, supervised_maps


def resize(maps: np.ndarray, height: int, width: int, align_corners: bool) -> np.ndarray:
    """Resize (..., h, w) bilinearly, rows first."""
    for axis, new in ((-2, height), (-1, width)):
        old = maps.shape[axis]
        at = np.linspace(0, old - 1, new) if align_corners else (np.arange(new) + 0.5) * old / new - 0.5
        maps = np.apply_along_axis(lambda line, at=at, old=old: np.interp(at, np.arange(old), line), axis, maps)
    return maps


def make_maps(*sizes: tuple[int, int]) -> dict[str, Tensor]:
    return {f"sem{i}": torch.randn(2, 3, *size, dtype=torch.float64) for i, size in enumerate(sizes, start=2)}


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(
    "sizes", [((16, 24), (8, 12), (4, 6), (2, 3)), ((13, 18), (7, 9), (4, 5), (2, 3))], ids=["even", "odd"]
)
def test_equals_the_formula(sizes: tuple, align_corners: bool) -> None:
    features = make_maps(*sizes)
    expected = features["sem2"].numpy()
    for doublings, name in enumerate(("sem3", "sem4", "sem5"), start=1):
        x = features[name].numpy()
        for _ in range(doublings):
            x = resize(x, 2 * x.shape[-2], 2 * x.shape[-1], align_corners)
        expected = expected + resize(x, *sizes[0], align_corners)
    prior = decode_semantic_prior(features, align_corners=align_corners)
    torch.testing.assert_close(prior, torch.from_numpy(expected))


def test_doubling_is_not_resizing_at_once() -> None:
    """With aligned corners each doubling matters, as in the released models."""
    features = make_maps((16, 24), (8, 12), (4, 6), (2, 3))
    at_once = features["sem2"].numpy() + sum(resize(features[f"sem{i}"].numpy(), 16, 24, True) for i in (3, 4, 5))
    assert np.abs(decode_semantic_prior(features, align_corners=True).numpy() - at_once).max() > 0.1


def test_no_semantic_maps_no_prior() -> None:
    assert decode_semantic_prior({"res2": torch.zeros(1, 4, 2, 2)}, align_corners=True) is None
    for per_stage in (False, True):
        assert supervised_maps({"res2": torch.zeros(1, 4, 2, 2)}, per_stage=per_stage, align_corners=True) == []


def test_supervised_are_the_sum_or_each_stage() -> None:
    features = make_maps((16, 24), (8, 12), (4, 6), (2, 3))
    (total,) = supervised_maps(features, per_stage=False, align_corners=False)
    assert torch.equal(total, decode_semantic_prior(features, align_corners=False))
    stages = supervised_maps(features, per_stage=True, align_corners=False)
    assert all(x is features[f"sem{i}"] for i, x in enumerate(stages, start=2))
    assert len(stages) == 4
