"""Multi-scale evaluation with flips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from semask_d2.data.image_io import read_image
from semask_d2.evaluation import MultiScaleFlip
from semask_d2.modeling.meta_arch import ForeignSegmenter


class Sides(nn.Module):
    """Scores that depend on the position in the image and on the image's size."""

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
