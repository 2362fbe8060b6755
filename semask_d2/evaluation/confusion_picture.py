"""The plot of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NUMBERED_CLASSES = 25  # with more classes, cells show no percentages


def draw_confusion(counts: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Draw each true class (row) by predicted class (column), in percent of its pixels: RGB uint8 (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and only rank 0 needs it
    from matplotlib.figure import Figure

    count = len(names)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(30.0, 4 + 0.35 * count)
    letters = max(3.0, min(9.0, 300 / count))
    figure = Figure(figsize=(side, side), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, vmin=0, vmax=100, cmap="Blues")
    labels = [name if len(name) <= 22 else f"{name[:21]}." for name in names]
    axes.set_xticks(range(count), labels, rotation=90, fontsize=letters)
    axes.set_yticks(range(count), labels, fontsize=letters)
    axes.set(xlabel="predicted", ylabel="truth", title="percent of the true class's pixels")
    if count <= NUMBERED_CLASSES:
        for row, column in np.argwhere(shares >= 0.5):
            share = shares[row, column]
            color = "white" if share > 50 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=color, fontsize=letters)
    figure.colorbar(image, ax=axes, shrink=0.6)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
