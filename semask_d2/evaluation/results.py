"""The results of an evaluation as one value: of the whole dataset, of each class and of each image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from semask_d2.utils.classes import Classes
from semask_d2.utils.colors import Color

AVERAGED = "ema"  # the folder of the results of averaged weights, and what their metrics' names begin with
LABEL_FILE = "sem_seg_file_name"  # the dataset's key of an image's label file, which a report draws


class Task(NamedTuple):
    """The measure of a task: Detectron2's name for its results, its main metric, that of a class, what has classes."""

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
    """The evaluated weights: their file, the iterations they were trained, and whether they are an average.

    The model of a training has no file. `sizes` says in words at which sizes images were tested; None in files of older
    versions.
    """

    checkpoint: str | None = None
    iteration: int | None = None
    averaged: bool = False
    sizes: str | None = None


@dataclass(frozen=True)
class ImageResult:
    """One image: its file, that of its truth by the dataset's key, metrics, and the main metric of its classes."""

    file_name: str
    truth_files: dict[str, str]
    metrics: dict[str, float]
    classes: dict[str, float]

    @property
    def label_file(self) -> str | None:
        """The label file; None of segments."""
        return self.truth_files.get(LABEL_FILE)


@dataclass(frozen=True)
class ClassResult:
    """One class: how many pixels, segments or instances the truth has, and metrics in percent by name.

    These are NaN where the ground truth lacks it.
    """

    name: str
    color: Color
    count: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """One dataset's results.

    `class_metrics` are each class's (K,) in percent, by the metric's name, and `class_counts` (K,) how many pixels,
    segments or instances the truth has of it. `confusion` (K, K) counts pixels, rows are the truth; None where there
    are no labels.
    """

    dataset: str
    task_name: str  # of TASKS
    model: EvaluatedModel
    metrics: dict[str, float]
    classes: Classes
    class_metrics: dict[str, np.ndarray]
    class_counts: np.ndarray
    images: list[ImageResult]
    image_count: int  # also where a file of images is missing
    confusion: np.ndarray | None = None

    @property
    def task(self) -> Task:
        """The measure of its task."""
        return TASKS[self.task_name]

    @property
    def title(self) -> str:
        """The dataset, and whether the weights are an average, in words."""
        return f"{self.dataset}, averaged weights" if self.model.averaged else self.dataset

    @cached_property
    def class_results(self) -> list[ClassResult]:
        """The results of each class, in the order of their ids."""
        return [
            ClassResult(name, color, int(count), {key: float(x[i]) for key, x in self.class_metrics.items()})
            for i, (name, color, count) in enumerate(
                zip(self.classes.names, self.classes.colors, self.class_counts, strict=True)
            )
        ]

    def class_score(self, result: ClassResult) -> float:
        """The main metric of a class in percent."""
        return result.metrics.get(self.task.class_metric, math.nan)

    def image_score(self, image: ImageResult) -> float:
        """The main metric of an image in percent."""
        return image.metrics[self.task.metric]

    def worst_images(self, count: int) -> list[ImageResult]:
        """The `count` images of the lowest main metric, the worst first; those without one are left out."""
        measured = [image for image in self.images if not math.isnan(self.image_score(image))]
        return sorted(measured, key=lambda image: (self.image_score(image), image.file_name))[:count]
