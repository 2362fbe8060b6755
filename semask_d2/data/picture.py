"""Image of 8 bits with any number of channels, held as Pillow images, whose filters resize it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

RGB = 3  # channels of a color image; more or fewer are kept as they are in files


class Picture:
    """Upright image: one Pillow image of mode RGB, or one of mode L for each of another number of channels."""

    def __init__(self, parts: Sequence[Image.Image]):
        self.parts = tuple(parts)

    @classmethod
    def of_pixels(cls, pixels: np.ndarray) -> Picture:
        """Return the picture of pixels (H, W, C) uint8."""
        if pixels.shape[2] == RGB:
            return cls([Image.fromarray(pixels)])
        return cls([Image.fromarray(np.ascontiguousarray(channel)) for channel in np.moveaxis(pixels, 2, 0)])

    @classmethod
    def of_pillow(cls, image: Image.Image, channels: int) -> Picture | None:
        """Return the picture of a decoded Pillow image of 8 bits; None if it does not have `channels`.

        Any image is converted to RGB for three channels, dropping transparency, and a gray one to mode L for one.
        """
        if channels == RGB:
            return cls([image if image.mode == "RGB" else image.convert("RGB")])
        if channels == 1 and (bands_of(image) == 1 or image.mode in ("LA", "La")):
            image = image.convert("L")
        return cls(image.split()) if bands_of(image) == channels else None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.parts[0].size

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.parts[0].width

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.parts[0].height

    def turned(self, turn: Image.Transpose | None) -> Picture:
        """Return the picture turned or mirrored; None does nothing."""
        return self if turn is None else Picture([part.transpose(turn) for part in self.parts])

    def pixels(self, shown: Callable[[Image.Image], Image.Image] = lambda part: part) -> np.ndarray:
        """Return the pixels (H, W, C) uint8 of what `shown` returns for each part, such as a part resized."""
        arrays = [np.asarray(shown(part)) for part in self.parts]
        return arrays[0] if arrays[0].ndim == RGB else np.stack(arrays, axis=2)


def bands_of(image: Image.Image) -> int:
    """Return the number of channels that a Pillow image stands for: 3 for a palette of colors."""
    return RGB if image.mode in ("P", "PA") else len(image.getbands())
