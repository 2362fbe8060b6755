"""What an evaluation leaves on disk: metrics, a table of classes, every image, and a picture of the confusion matrix.

`metrics.json`, `classes.csv`, `images.json` and `confusion.png`, in a folder per data set. What is not a number, as the
IoU of a class that the truth lacks, is null, and empty in the table.
"""

from __future__ import annotations

import csv
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from semask_d2.data.image_io import save_picture
from semask_d2.evaluation.confusion import ConfusionMatrix, mean_of_present
from semask_d2.utils.files import atomic_write

logger = logging.getLogger(__name__)

FOLDER = "inference"
NUMBERED_CLASSES = 25  # up to which the cells of the picture hold their percentages


class EvaluatedModel(NamedTuple):
    """Which weights were evaluated: their file, the iterations they were trained, and whether they are an average."""

    checkpoint: str | None = None
    iteration: int | None = None
    averaged: bool = False


@dataclass
class ImageResult:
    """One image's metrics in percent; `classes` has the IoU of those that the truth holds."""

    file_name: str
    sem_seg_file_name: str
    mIoU: float
    pixel_accuracy: float
    classes: dict[str, float]

    @classmethod
    def of(cls, image: str, labels: str, confusion: ConfusionMatrix, class_names: list[str]) -> ImageResult:
        """The metrics of an image's own confusion matrix."""
        iou, total = 100 * confusion.iou, confusion.counts.sum()
        accuracy = 100 * confusion.counts.diagonal().sum() / total if total else math.nan
        present = {class_names[i]: float(iou[i]) for i in np.flatnonzero(~np.isnan(iou))}
        return cls(image, labels, mean_of_present(iou), float(accuracy), present)


@dataclass
class DatasetResult:
    """All that was measured on a data set. `class_metrics` are each class's in percent, by the metric's name."""

    dataset: str
    model: EvaluatedModel
    metrics: dict[str, float]
    class_names: list[str]
    class_colors: list[list[int]]
    class_metrics: dict[str, np.ndarray]
    ignore_label: int
    confusion: ConfusionMatrix
    images: list[ImageResult]

    def write(self, folder: Path) -> None:
        """Write the four files into `folder`."""
        rows = self.class_rows()
        write_json(
            folder / "metrics.json",
            {
                "dataset": self.dataset,
                "checkpoint": self.model.checkpoint,
                "iteration": self.model.iteration,
                "averaged": self.model.averaged,
                "images": len(self.images),
                "metrics": self.metrics,
                "classes": [
                    {**row, "color": list(map(int, color))} for row, color in zip(rows, self.class_colors, strict=True)
                ],
                "ignore_label": self.ignore_label,
                "confusion": self.confusion.counts.tolist(),
            },
        )
        write_json(folder / "images.json", [asdict(image) for image in self.images])
        with atomic_write(folder / "classes.csv") as file:
            table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows({key: "" if is_nan(value) else value for key, value in row.items()} for row in rows)
        try:
            save_picture(folder / "confusion.png", draw_confusion(self.confusion.counts, self.class_names))
        except Exception as error:  # it is for looking at, and ends no training
            logger.warning("No picture of the confusion matrix: %s: %s", type(error).__name__, error)

    def class_rows(self) -> list[dict[str, Any]]:
        """A row per class: its name, metrics and labeled pixels."""
        pixels = self.confusion.counts.sum(1)
        return [
            {"name": name, **{key: float(x[i]) for key, x in self.class_metrics.items()}, "pixels": int(pixels[i])}
            for i, name in enumerate(self.class_names)
        ]


def is_nan(value: Any) -> bool:
    """Whether a value is a number that is none."""
    return isinstance(value, float) and math.isnan(value)


def write_json(path: Path, content: Any) -> None:
    """Write JSON in which NaN is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(x) for key, x in value.items()}
        if isinstance(value, list):
            return [plain(x) for x in value]
        return None if is_nan(value) else value

    with atomic_write(path) as file:
        json.dump(plain(content), file, allow_nan=False)


def draw_confusion(counts: np.ndarray, class_names: list[str]) -> np.ndarray:
    """Each true class (row) by the classes it was taken for, in percent of its pixels: RGB uint8 (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and only rank 0 needs it
    from matplotlib.figure import Figure

    count = len(class_names)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(30.0, 4 + 0.35 * count)
    letters = max(3.0, min(9.0, 300 / count))
    figure = Figure(figsize=(side, side), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, vmin=0, vmax=100, cmap="Blues")
    names = [name if len(name) <= 22 else f"{name[:21]}." for name in class_names]
    axes.set_xticks(range(count), names, rotation=90, fontsize=letters)
    axes.set_yticks(range(count), names, fontsize=letters)
    axes.set(xlabel="predicted", ylabel="truth", title="percent of the true class's pixels")
    if count <= NUMBERED_CLASSES:
        for row, column in np.argwhere(shares >= 0.5):
            share = shares[row, column]
            color = "white" if share > 50 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=color, fontsize=letters)
    figure.colorbar(image, ax=axes, shrink=0.6)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
