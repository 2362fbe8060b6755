"""Images in and scores out: what every meta-architecture does before its backbone and after its head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from semask_d2.d2 import ImageList


class Normalizer(nn.Module):
    """Pixel mean and standard deviation as buffers that follow the model's device and stay out of checkpoints."""

    def __init__(self, pixel_mean: Sequence[float], pixel_std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Sequence[Tensor], size_divisibility: int) -> ImageList:
        """Images (3, H_i, W_i) in 0..255 -> one normalised batch, zero-padded right and bottom."""
        images = [(image.to(self.mean.device, non_blocking=True) - self.mean) / self.std for image in images]
        return ImageList.from_tensors(images, size_divisibility)


def output_size(inputs: dict, image_size: tuple[int, int]) -> tuple[int, int]:
    """The size that the caller wants the scores in: `height` and `width` of its dict, else the image's own."""
    return inputs.get("height", image_size[0]), inputs.get("width", image_size[1])


def image_names(batched_inputs: list[dict]) -> list[str]:
    """What to call each image of a batch in a message."""
    return [x.get("file_name", f"image {i} of the batch") for i, x in enumerate(batched_inputs)]
