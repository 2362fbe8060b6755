"""The results of an evaluation: of the whole dataset, of each class and of each image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from semask_d2.utils.classes import Classes
from semask_d2.utils.colors import Color

AVERAGED = "ema"  # the folder of results of averaged weights, and the prefix of their metrics
LABEL_FILE = "sem_seg_file_name"  # the key of an image's label file in a dataset's dict; reports draw the file


class Task(NamedTuple):
    """The metrics of a task: Detectron2's name for its results, its main metric, that of a class, and its unit."""

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
    """The evaluated weights: their file, the number of training iterations, and whether they are an average.

    A model that is evaluated during training has no file. `sizes` describes the test sizes of images; None in files of
    older versions.
    """

    checkpoint: str | None = None
    iteration: int | None = None
    averaged: bool = False
    sizes: str | None = None


@dataclass(frozen=True, slots=True)
class ImageResult:
    """Results of one image: its file, its ground-truth files by key, its metrics, and a score for each class."""

    file_name: str
    truth_files: dict[str, str]
    metrics: dict[str, float]
    classes: dict[str, float]

    @property
    def label_file(self) -> str | None:
        """The label file; None for panoptic and instance tasks."""
        return self.truth_files.get(LABEL_FILE)


@dataclass(frozen=True)
class ClassResult:
    """Results of one class: its count of pixels, segments or instances in the ground truth, and metrics in percent.

    Metrics are NaN if the class is not in the ground truth.
    """

    name: str
    color: Color
    count: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Results of one dataset.

    `class_metrics` holds, for each metric, the values of all classes (K,) in percent. `class_counts` (K,) counts the
    pixels, segments or instances of each class in the ground truth. `confusion` (K, K) counts pixels, with the true
    class in rows; None for panoptic and instance tasks.
    """

    dataset: str
    task_name: str  # a key of TASKS
    model: EvaluatedModel
    metrics: dict[str, float]
    classes: Classes
    class_metrics: dict[str, np.ndarray]
    class_counts: np.ndarray
    images: list[ImageResult]
    image_count: int  # also valid if `images` is empty because its file is missing
    confusion: np.ndarray | None = None

    @property
    def task(self) -> Task:
        """The metrics of the task."""
        return TASKS[self.task_name]

    @property
    def title(self) -> str:
        """The name of the dataset, with a remark if the weights are an average."""
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
        """Return the main metric of a class in percent, NaN if it has none."""
        return result.metrics.get(self.task.class_metric, math.nan)

    def image_score(self, image: ImageResult) -> float:
        """Return the main metric of an image in percent."""
        return image.metrics[self.task.metric]

    def worst_images(self, count: int) -> list[ImageResult]:
        """Return the `count` images with the lowest main metric, worst first; images without one are left out."""
        measured = [image for image in self.images if not math.isnan(self.image_score(image))]
        return sorted(measured, key=lambda image: (self.image_score(image), image.file_name))[:count]
