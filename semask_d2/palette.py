"""Colours for classes that have none of their own."""

from __future__ import annotations

import colorsys

GOLDEN_ANGLE = 137.508 / 360


def distinct_colors(count: int) -> list[tuple[int, int, int]]:
    """`count` different RGB colours: hues a golden angle apart, in three shades in turn."""
    shades = ((0.85, 0.95), (0.6, 0.7), (0.95, 0.5))
    colors = (colorsys.hsv_to_rgb(i * GOLDEN_ANGLE % 1, *shades[i % 3]) for i in range(count))
    return [tuple(round(255 * channel) for channel in color) for color in colors]
