"""RGB colors of classes and segments."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Sequence
from typing import Any

Color = tuple[int, int, int]

GOLDEN_ANGLE = 137.508 / 360
NEAR = 100  # RGB distance below which two colors are hard to distinguish over a photograph


def is_color(value: Any) -> bool:
    """Return whether a value is a list [r, g, b] of integers from 0 to 255."""
    return isinstance(value, list) and len(value) == 3 and all(type(x) is int and 0 <= x <= 255 for x in value)


def distinct_colors(count: int, unlike: Iterable[Sequence[int]] = ()) -> list[Color]:
    """Return `count` different RGB colors: hues a golden angle apart, cycling through three shades.

    If possible, none is near a color of `unlike`.
    """
    shades = ((0.85, 0.95), (0.6, 0.7), (0.95, 0.5))
    others = [tuple(map(int, color)) for color in unlike]
    colors = (colorsys.hsv_to_rgb(i * GOLDEN_ANGLE % 1, *shades[i % 3]) for i in range(count + 60 * bool(others)))
    rounded = [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in colors]
    return sorted(rounded, key=lambda color: any(math.dist(color, other) < NEAR for other in others))[:count]
