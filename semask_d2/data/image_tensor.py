"""From pictures to the tensors that models take."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semask_d2.data.augmentation import View, resize_image, resized_shape


def image_tensor(pixels: np.ndarray, image_format: str) -> Tensor:
    """RGB pixels (H, W, 3) uint8 -> (3, H, W) uint8, in `image_format` order ("RGB" or "BGR")."""
    if image_format == "BGR":
        pixels = pixels[:, :, ::-1]
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


def resized_tensor(picture: Image.Image, short_edge: int, max_size: int, image_format: str) -> Tensor:
    """An RGB picture as evaluation shows it to a model: resized as `resized_shape` says, (3, H, W) uint8."""
    shape = resized_shape(picture.height, picture.width, short_edge, max_size)
    return image_tensor(resize_image(picture, View.whole(*shape)), image_format)
