"""Predictor on many images and large ones: batches, windows, and a warning if details are lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semask_d2 import Predictor, get_cfg
from semask_d2.modeling.meta_arch import SlidingWindows
from semask_d2.modeling.meta_arch.score_maps import ScoreMap
from semask_d2.utils.errors import UserError


def make_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_images_go_through_the_model_in_batches(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor.from_run(tiny_run)
    images = [make_image(50, 70, seed) for seed in range(5)]
    expected = [predictor(image).labels for image in images]
    sizes = []
    predict = predictor.model.predict
    monkeypatch.setattr(predictor.model, "predict", lambda x, **kwargs: sizes.append(len(x)) or predict(x, **kwargs))
    predictions = predictor(images, batch_size=2)
    assert sizes == [2, 2, 1]
    assert all(np.array_equal(a.labels, b) for a, b in zip(predictions, expected, strict=True))
    with pytest.raises(UserError, match="batch_size: expected at least 1, got 0"):
        predictor(images, batch_size=0)


def test_an_image_far_larger_than_the_test_size_causes_one_warning(tiny_run: Path, caplog) -> None:
    predictor = Predictor.from_run(tiny_run)  # its test size is 64
    predictor([make_image(250, 256)])
    assert "TEST.SLIDING" not in caplog.text
    predictor([make_image(300, 400), make_image(310, 400)])
    assert caplog.text.count("An image of 400 x 300 pixels is segmented at a short side of 64") == 1
    assert caplog.text.count("TEST.SLIDING.ENABLED True") == 1


def test_windows_segment_an_image_at_full_size_without_whole_scores(tiny_run, caplog, monkeypatch) -> None:
    options = ["MODEL.WEIGHTS", str(tiny_run / "model_best.pth"), "INPUT.MIN_SIZE_TEST", "0"]
    options += ["TEST.SLIDING.ENABLED", "True", "TEST.SLIDING.SIZE", "[64,96]"]
    predictor = Predictor(get_cfg(tiny_run / "config.yaml", options))
    assert isinstance(predictor.model, SlidingWindows)
    image = make_image(150, 200)
    expected = predictor(image, scores=True, priors=True)
    assert expected.priors["sem2"].shape == (38, 50)
    monkeypatch.setattr(ScoreMap, "scores", None)
    assert np.array_equal(predictor(image).labels, expected.labels)
    assert not caplog.records
