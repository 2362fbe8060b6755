"""Tests of multi-scale evaluation with flips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from semask_d2.__main__ import main
from semask_d2.data.image_io import read_image
from semask_d2.evaluation import MultiScaleFlip
from semask_d2.modeling.meta_arch import ForeignSegmenter
from tests.helpers.loggers import restored_loggers
from tests.helpers.tiny_model import tiny_cfg


class Sides(nn.Module):
    """A model whose scores depend on the position in the image and on the image's size."""

    def forward(self, batch):
        return [{"sem_seg": self.scores(inputs)} for inputs in batch]

    def scores(self, inputs):
        _, height, width = inputs["image"].shape
        scores = inputs["image"][:2].float() / 255 + torch.linspace(0, 1, width) * height / 100
        size = (inputs["height"], inputs["width"])
        return F.interpolate(scores[None], size=size, mode="bilinear")[0]


@pytest.mark.parametrize("softmax", [False, True])
def test_is_the_mean_over_sizes_and_flips(tmp_path, softmax: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    model = ForeignSegmenter(Sides())
    model.scores_are_probabilities = not softmax
    augmented = MultiScaleFlip(model, short_sides=(10, 20), max_size=100, flip=True, image_format="RGB")
    (output,) = augmented([{"file_name": str(tmp_path / "a.png"), "height": 20, "width": 30}])

    views = []
    for height, width in ((10, 15), (20, 30)):
        picture = Image.fromarray(read_image(tmp_path / "a.png")).resize((width, height), Image.Resampling.BILINEAR)
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        for flip in (False, True):
            scores = Sides()([{"image": image.flip(2) if flip else image, "height": 20, "width": 30}])[0]["sem_seg"]
            scores = scores.softmax(0) if softmax else scores
            views.append(scores.flip(2) if flip else scores)
    torch.testing.assert_close(output["sem_seg"], torch.stack(views).mean(0))


@pytest.mark.parametrize(
    ("options", "sides"),
    [
        ({"INPUT__MIN_SIZE_TEST": 64}, (32, 48, 64, 80, 96, 112)),
        ({"INPUT__MIN_SIZE_TEST": 0}, (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)),
        ({"TEST__AUG__MIN_SIZES": [40, 50]}, (40, 50)),
    ],
)
def test_sizes_follow_the_test_size_unless_the_config_sets_them(options: dict, sides: tuple) -> None:
    assert MultiScaleFlip.from_config(tiny_cfg(**options), nn.Identity()).short_sides == sides


def test_factors_are_of_the_images_own_size(tmp_path) -> None:
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    seen = []

    class Seen(Sides):
        def scores(self, inputs):
            seen.append(tuple(inputs["image"].shape[1:]))
            return super().scores(inputs)

    model = MultiScaleFlip(Seen(), short_sides=(0.5, 1.0), max_size=100, flip=False, image_format="RGB")
    model.predict([{"file_name": str(tmp_path / "a.png"), "height": 20, "width": 30}])
    assert seen == [(10, 15), (20, 30)]


def test_windows_at_several_scales(tmp_path) -> None:
    """Windows change nothing if one covers every view, and change the result if not."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    inputs = [{"file_name": str(tmp_path / "a.png"), "height": 40, "width": 60}]

    class Uneven(Sides):  # so that the position of a pixel in a window matters
        def scores(self, inputs):
            return super().scores(inputs) * torch.tensor([1.0, 3.0])[:, None, None]

    results = []
    for size in (None, [120, 120], [24, 24]):
        options = {"TEST__SLIDING__ENABLED": size is not None, "TEST__SLIDING__SIZE": size or [0, 0]}
        cfg = tiny_cfg(INPUT__MIN_SIZE_TEST=40, TEST__AUG__MIN_SIZES=[20, 40], **options)
        results.append(MultiScaleFlip.from_config(cfg, Uneven())(inputs)[0]["sem_seg"])
    assert torch.equal(results[0], results[1])
    assert results[2].shape == results[0].shape
    assert not torch.allclose(results[2], results[0])


def test_sizes_and_passes_are_logged(toy_data, tiny_run, tmp_path, caplog) -> None:
    words = ["--weights", str(tiny_run), "--output", str(tmp_path), "TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES"]
    with restored_loggers():
        assert main(["eval", *words, "[32, 48]", "DATALOADER.NUM_WORKERS", "0"]) == 0
    log = (tmp_path / "log.txt").read_text()
    assert "Test-time augmentation: shorter sides 32, 48, also flipped, 4 passes per image" in log
