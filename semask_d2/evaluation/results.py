"""What an evaluation leaves on disk: metrics, a table of classes, every image, and a picture of the confusion matrix.

`metrics.json`, `classes.csv`, `images.json` and, of labels, `confusion.png`, in a folder per data set. What is not a
number, as the IoU of a class that the truth lacks, is null, and empty in the table.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from semask_d2.data.image_io import save_picture
from semask_d2.evaluation.confusion import ConfusionMatrix
from semask_d2.utils.files import atomic_write, move_aside, require_enclosed, require_regular

logger = logging.getLogger(__name__)

FOLDER = "inference"
AVERAGED = "ema"  # in it the files of averaged weights, and before the names of their metrics
METRICS_FILE, IMAGES_FILE, CLASSES_FILE, CONFUSION_FILE = "metrics.json", "images.json", "classes.csv", "confusion.png"
PREDICTIONS = "predictions"  # the folder of what a benchmark takes
RESULT_FILES = (METRICS_FILE, IMAGES_FILE, CLASSES_FILE, CONFUSION_FILE, f"{PREDICTIONS}/**/*.png")
NUMBERED_CLASSES = 25  # up to which the cells of the picture hold their percentages


class Task(NamedTuple):
    """How a task is measured: Detectron2's name for its results, its main metric, that of a class, what has classes."""

    group: str
    metric: str
    class_metric: str
    counted: str


TASKS = {
    "semantic": Task("sem_seg", "mIoU", "IoU", "pixels"),
    "panoptic": Task("panoptic_seg", "PQ", "PQ", "segments"),
    "instance": Task("segm", "AP", "AP", "instances"),
}


class EvaluatedModel(NamedTuple):
    """Which weights were evaluated: their file, the iterations they were trained, and whether they are an average.

    The model of a training has no file. `sizes` says in words at which sizes images were tested.
    """

    checkpoint: str | None = None
    iteration: int | None = None
    averaged: bool = False
    sizes: str | None = None


@dataclass
class ImageResult:
    """One image: its file, that of its truth by the data set's key, metrics, and the main metric of its classes."""

    file_name: str
    truth: dict[str, str]
    metrics: dict[str, float]
    classes: dict[str, float]

    def entry(self) -> dict[str, Any]:
        """What `images.json` has of it."""
        return {"file_name": self.file_name, **self.truth, **self.metrics, "classes": self.classes}


@dataclass
class DatasetResult:
    """All that was measured on a data set.

    `class_metrics` are each class's in percent, by the metric's name, and `class_counts` (K,) how many pixels, segments
    or instances the truth has of it. Only labels have a confusion matrix.
    """

    dataset: str
    task: str
    model: EvaluatedModel
    metrics: dict[str, float]
    class_names: list[str]
    class_colors: list[list[int]]
    class_metrics: dict[str, np.ndarray]
    class_counts: np.ndarray
    images: list[ImageResult]
    confusion: ConfusionMatrix | None = None

    def write(self, folder: Path) -> None:
        """Write the files into `folder`."""
        rows = self.class_rows()
        content = {
            "dataset": self.dataset,
            "task": self.task,
            "checkpoint": self.model.checkpoint,
            "iteration": self.model.iteration,
            "averaged": self.model.averaged,
            "sizes": self.model.sizes,
            "images": len(self.images),
            "metrics": self.metrics,
            "classes": [
                {**row, "color": list(map(int, color))} for row, color in zip(rows, self.class_colors, strict=True)
            ],
        }
        if self.confusion is not None:
            content |= {"ignore_label": self.confusion.ignore_label, "confusion": self.confusion.counts.tolist()}
        write_json(folder / METRICS_FILE, content)
        write_json(folder / IMAGES_FILE, [image.entry() for image in self.images])
        with atomic_write(folder / CLASSES_FILE) as file:
            table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows({key: "" if is_nan(value) else value for key, value in row.items()} for row in rows)
        if self.confusion is not None:
            try:
                save_picture(folder / CONFUSION_FILE, draw_confusion(self.confusion.counts, self.class_names))
            except Exception as error:  # it is for looking at, and ends no training
                logger.warning("No picture of the confusion matrix: %s: %s", type(error).__name__, error)

    def class_rows(self) -> list[dict[str, Any]]:
        """A row per class: its name, its metrics, and how often the truth has it."""
        return [
            {
                "name": name,
                **{key: float(x[i]) for key, x in self.class_metrics.items()},
                TASKS[self.task].counted: int(self.class_counts[i]),
            }
            for i, name in enumerate(self.class_names)
        ]


def keep_earlier(folder: Path, model: EvaluatedModel) -> None:
    """Move the files of other results in `folder` to `previous_N` in it, so that nothing overwrites them.

    Results of one checkpoint at the same sizes replace each other, and so do those of one training. What no evaluation
    writes stays where it is.
    """
    require_enclosed(folder, (*RESULT_FILES, PREDICTIONS, f"{PREDICTIONS}/**/*"))
    file = folder / METRICS_FILE
    if not file.is_file():
        return
    try:
        earlier = json.loads(require_regular(file).read_text(encoding="utf-8"))
        checkpoint, iteration = earlier["checkpoint"], earlier["iteration"]
        if checkpoint is None and model.checkpoint is None:
            return
        sizes = earlier.get("sizes")
        if (_real(checkpoint), iteration, sizes) == (_real(model.checkpoint), model.iteration, model.sizes):
            return
        whose = checkpoint or f"the training's model after {iteration} iterations"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        whose = "an unknown model"
    old = result_files(folder)
    logger.info("%s held the results of %s: moved to %s", folder, whose, move_aside(folder, old))


def result_files(folder: Path) -> list[Path]:
    """The files in a data set's folder that an evaluation writes."""
    return [path for pattern in RESULT_FILES for path in folder.glob(pattern)]


def _real(checkpoint: str | None) -> str | None:
    return None if checkpoint is None else os.path.realpath(checkpoint)


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
