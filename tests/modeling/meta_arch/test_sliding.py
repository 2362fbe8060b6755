"""Sliding windows against the plain sum over windows of full score maps."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from semask_d2 import build_model, get_cfg
from semask_d2.config import with_defaults
from semask_d2.modeling.layers.semantic_decoder import SEMANTIC_MAPS
from semask_d2.modeling.meta_arch import ForeignSegmenter, Segmenter, SlidingWindows, score_maps, with_sliding
from semask_d2.modeling.meta_arch.score_maps import ScoreMap, row_elements, rows_of
from semask_d2.modeling.meta_arch.sliding import window_starts, window_weights
from semask_d2.utils.errors import UserError
from tests.helpers.commands import ROOT, TINY
from tests.helpers.tiny_model import make_inputs, randomize, tiny_cfg

FPN = ROOT / "configs/toy_scenes/semask_swin_mini_fpn.yaml"


class Corner(Segmenter):
    """Segmenter whose scores depend on a pixel and its place in the window; semantic maps are cells of the image."""

    prior_strides: ClassVar[dict[str, int]] = {name: 4 * 2**i for i, name in enumerate(SEMANTIC_MAPS)}

    def __init__(self, *, probabilities: bool):
        super().__init__()
        self.scores_are_probabilities = probabilities
        self.windows = 0

    def whole(self, image: Tensor) -> Tensor:
        scores = (
            image.double() / 255 + torch.linspace(0, 1, image.shape[2]) + torch.linspace(0, 2, image.shape[1])[:, None]
        )
        return (scores * torch.tensor([1.0, 2.0, -1.0])[:, None, None]).float()

    def lazy_predictions(self, batched_inputs, *, priors=False):
        for inputs in batched_inputs:
            self.windows += 1
            scores = self.whole(inputs["image"])
            size = tuple(scores.shape[1:])
            image = inputs["image"].float()[None]
            maps = {f"sem{i}": F.avg_pool2d(image, 2**i, ceil_mode=True)[0] for i in range(2, 6)}
            yield ScoreMap(rows_of(scores), size, row_elements(3, size), scores.device), maps if priors else None


def blended(model: Corner, image: Tensor, size: tuple[int, int], overlap: float, blending: str) -> Tensor:
    """Compute the weighted mean of full maps over windows."""
    _, height, width = image.shape
    h, w = min(size[0], height), min(size[1], width)
    total, weights = torch.zeros(3, height, width, dtype=torch.float64), torch.zeros(height, width, dtype=torch.float64)
    for top in window_starts(height, h, overlap):
        for left in window_starts(width, w, overlap):
            scores = model.whole(image[:, top : top + h, left : left + w]).double()
            scores = scores if model.scores_are_probabilities else scores.softmax(0)
            for y in range(h):
                for x in range(w):
                    weight = min(y + 1, h - y) * min(x + 1, w - x) if blending == "linear" else 1
                    total[:, top + y, left + x] += weight * scores[:, y, x]
                    weights[top + y, left + x] += weight
    return total / weights


@pytest.mark.parametrize("blending", ["linear", "mean"])
@pytest.mark.parametrize("probabilities", [True, False])
@pytest.mark.parametrize(("height", "width"), [(37, 50), (12, 50), (37, 9)])
def test_scores_are_the_blended_windows(height, width, probabilities, blending, monkeypatch) -> None:
    monkeypatch.setattr(score_maps, "BAND_ELEMENTS", 500)  # bands of a few rows
    (inputs,) = make_inputs((height, width), labels=False)
    model = Corner(probabilities=probabilities)
    sliding = with_defaults(SlidingWindows, model=model, size=(16, 20), overlap=0.4, blending=blending)
    (result,) = sliding.predict([inputs], scores=True)
    expected = blended(model, inputs["image"], (16, 20), 0.4, blending)
    actual = result.scores.double() if probabilities else result.scores.double().exp()
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    model.windows = 0
    assert torch.equal(sliding.predict_labels([inputs])[0], result.labels)
    tops, lefts = (window_starts(n, min(n, s), 0.4) for n, s in ((height, 16), (width, 20)))
    assert model.windows == len(tops) * len(lefts)  # each window once, although bands cut through them
    assert torch.equal(result.scores.argmax(0), result.labels)


def test_scores_are_resized_to_the_requested_size() -> None:
    (inputs,) = make_inputs((37, 50), labels=False)
    model = Corner(probabilities=True)
    sliding = with_defaults(SlidingWindows, model=model, size=(16, 20))
    (result,) = sliding.predict([inputs | {"height": 90, "width": 61}], scores=True)
    whole = blended(model, inputs["image"], (16, 20), 0.33, "linear").float()
    expected = F.interpolate(whole[None], size=(90, 61), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(result.scores, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", ["mask", "fpn"])
def test_an_image_within_one_window_is_segmented_directly(config: str) -> None:
    cfg = tiny_cfg() if config == "mask" else get_cfg(FPN, list(TINY))
    model = randomize(build_model(cfg)).eval()
    inputs = make_inputs((64, 96), (50, 70), labels=False)
    sliding = with_defaults(SlidingWindows, model=model, size=(64, 96))
    with torch.no_grad():
        actual, expected = (x.predict(inputs, scores=True, priors=True) for x in (sliding, model))
        for result, plain in zip(actual, expected, strict=True):
            assert torch.equal(result.scores, plain.scores)
            assert torch.equal(result.labels, plain.labels)
            assert all(torch.equal(result.priors[name], plain.priors[name]) for name in plain.priors)


@pytest.mark.parametrize("config", ["mask", "fpn"])
def test_whole_models_in_windows(config: str) -> None:
    """Pixels that only one window covers have the scores of this window."""
    cfg = tiny_cfg() if config == "mask" else get_cfg(FPN, list(TINY))
    model = randomize(build_model(cfg)).eval()
    (inputs,) = make_inputs((64, 100), labels=False)
    with torch.no_grad():
        (result,) = with_defaults(SlidingWindows, model=model, size=(64, 64), overlap=0.3).predict(
            [inputs], scores=True
        )
        (left,) = model.predict([{"image": inputs["image"][:, :, :64]}], scores=True)
    expected = left.scores if config == "mask" else left.scores.log_softmax(0)
    torch.testing.assert_close(result.scores[:, :, :36], expected[:, :, :36], rtol=1e-4, atol=1e-5)


def test_semantic_maps_of_windows_match_those_of_the_image() -> None:
    (inputs,) = make_inputs((128, 192), labels=False)
    model = Corner(probabilities=True)
    (result,) = with_defaults(SlidingWindows, model=model, size=(64, 64), overlap=0.5).predict([inputs], priors=True)
    ((_, whole),) = model.lazy_predictions([inputs], priors=True)
    for name, prior in whole.items():
        assert torch.equal(result.priors[name], prior)


sides = st.integers(1, 300)


@given(sides=st.tuples(sides, sides), overlap=st.floats(0, 0.9), blending=st.sampled_from(["linear", "mean"]))
def test_windows_cover_a_side_and_weights_add_up_to_one(sides: tuple, overlap: float, blending: str) -> None:
    window, length = sorted(sides)
    starts = window_starts(length, window, overlap)
    assert starts[0] == 0
    assert starts[-1] == length - window
    steps = [b - a for a, b in pairwise(starts)]
    assert all(0 < step <= max(1, window * (1 - overlap) + 1) for step in steps)
    torch.testing.assert_close(window_weights(length, window, starts, blending).sum(0), torch.ones(length))


class Logits(nn.Module):
    def forward(self, batch):
        return [{"sem_seg": x["image"].float()} for x in batch]


def test_models_of_other_projects_use_windows_too() -> None:
    (inputs,) = make_inputs((40, 50), labels=False)
    (result,) = with_defaults(SlidingWindows, model=ForeignSegmenter(Logits()), size=(16, 16)).predict(
        [inputs], scores=True
    )
    assert result.scores.shape == (3, 40, 50)
    assert (
        result.labels == inputs["image"].float().argmax(0)
    ).float().mean() > 0.99  # except where rounding creates ties


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SIZE", [0.5, 10], r"TEST\.SLIDING\.SIZE: expected two sides in pixels"),
        ("SIZE", [64], r"TEST\.SLIDING\.SIZE: expected two sides in pixels"),
        ("OVERLAP", 0.95, r"TEST\.SLIDING\.OVERLAP: expected a fraction from 0 to 0\.9, got 0\.95"),
        ("BLENDING", "max", r"TEST\.SLIDING\.BLENDING: expected \"linear\" or \"mean\", got 'max'"),
    ],
)
def test_invalid_settings_are_named(key: str, value: object, message: str) -> None:
    cfg = tiny_cfg(TEST__SLIDING__ENABLED=True)
    cfg.TEST.SLIDING[key] = value
    with pytest.raises(UserError, match=message):
        with_sliding(cfg, nn.Identity())


def test_windows_have_the_crop_size_by_default() -> None:
    cfg = tiny_cfg(TEST__SLIDING__ENABLED=True, INPUT__CROP__SIZE=[48, 96])
    model = with_sliding(cfg, nn.Identity())
    assert isinstance(model, SlidingWindows)
    assert model.size == (48, 96)
    assert not isinstance(with_sliding(tiny_cfg(), nn.Identity()), SlidingWindows)
