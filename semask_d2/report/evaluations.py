"""What an evaluation leaves in a run folder, read back and checked: `metrics.json`, `images.json` of each data set."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from semask_d2.evaluation.results import AVERAGED, FOLDER, IMAGES_FILE, METRICS_FILE, TASKS, Task
from semask_d2.inference.panels import ClassStyle
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import require_regular
from semask_d2.utils.visualization import distinct_colors

IMAGE_FIELDS = ("file_name", "sem_seg_file_name", "pan_seg_file_name", "classes")  # the others are its metrics
T = TypeVar("T")


@dataclass(frozen=True)
class ClassResult:
    """One class: how many pixels, segments or instances the truth has, and metrics in percent by name.

    These are NaN where the ground truth lacks it.
    """

    name: str
    color: tuple[int, int, int]
    count: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class ImageResult:
    """One image: its files, its metrics by name, and the main metric of the classes in it by name.

    `label_file` is there for semantic segmentation.
    """

    file_name: str
    label_file: str | None
    metrics: dict[str, float]
    classes: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """One data set's results; `confusion` (K, K) counts pixels, rows are the truth; None where there are no labels.

    `averaged` says that they are of a training's averaged weights, and not of the model itself; `sizes` says in words
    at which sizes images were tested, None in files of older versions.
    """

    dataset: str
    task_name: str
    averaged: bool
    checkpoint: str
    iteration: int | None
    sizes: str | None
    image_count: int
    metrics: dict[str, float]
    classes: list[ClassResult]
    confusion: np.ndarray | None
    ignore_label: int
    images: list[ImageResult]

    @property
    def task(self) -> Task:
        """How it was measured."""
        return TASKS[self.task_name]

    @property
    def title(self) -> str:
        """What was evaluated, in words."""
        return f"{self.dataset}, averaged weights" if self.averaged else self.dataset

    @property
    def style(self) -> ClassStyle:
        """How to draw the classes."""
        colors = np.array([result.color for result in self.classes], np.uint8).reshape(-1, 3)
        return ClassStyle([result.name for result in self.classes], colors, self.ignore_label)

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


def read_evaluations(run: str | os.PathLike) -> list[Evaluation]:
    """All evaluations that a run folder holds, by name of the data set; `UserError` where there is none.

    Those of averaged weights come last.
    """
    folders = [
        path.parent
        for pattern in (f"*/{METRICS_FILE}", f"{AVERAGED}/*/{METRICS_FILE}")
        for path in sorted(Path(run, FOLDER).glob(pattern))
    ]
    if not folders:
        raise UserError(
            f"{run}: no evaluation there ({FOLDER}/DATA_SET/{METRICS_FILE}); make one with semask eval --run {run}"
        )
    return [read_evaluation(folder) for folder in folders]


def read_evaluation(folder: Path) -> Evaluation:
    """One data set's results; `images.json` may be missing. `UserError` for a file that is damaged or of other form."""
    content = _load(folder / METRICS_FILE)
    images = _load(folder / IMAGES_FILE) if (folder / IMAGES_FILE).is_file() else []
    evaluation = _checked(folder / METRICS_FILE, _evaluation, content)
    evaluation.images.extend(_checked(folder / IMAGES_FILE, partial(_images, evaluation.task), images))
    return evaluation


def _load(path: Path) -> Any:
    try:
        return json.loads(require_regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _wrong(path, error) from error


def _checked(path: Path, read: Callable[[Any], T], content: Any) -> T:
    try:
        return read(content)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _wrong(path, error) from error


def _wrong(path: Path, error: Exception) -> UserError:
    text = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return UserError(f"{path}: not what an evaluation writes there ({text}); evaluate again")


def _evaluation(content: Any) -> Evaluation:
    name = str(content.get("task", "semantic"))  # which files of older versions do not say
    task = TASKS[name]
    entries = content["classes"]
    fallback = distinct_colors(len(entries))
    classes = [_class(task, entry, color) for entry, color in zip(entries, fallback, strict=True)]
    confusion = None
    if name == "semantic":
        confusion = np.array(content["confusion"], np.int64)
        if confusion.shape != (len(classes), len(classes)):
            raise ValueError(f"confusion of shape {confusion.shape} for {len(classes)} classes")
    iteration = content.get("iteration")
    return Evaluation(
        dataset=str(content["dataset"]),
        task_name=name,
        averaged=bool(content.get("averaged")),
        checkpoint=str(content.get("checkpoint") or ""),
        iteration=None if iteration is None else int(iteration),
        sizes=None if content.get("sizes") is None else str(content["sizes"]),
        image_count=int(content["images"]),
        metrics=_numbers(content["metrics"]),
        classes=classes,
        confusion=confusion,
        ignore_label=int(content.get("ignore_label", 255)),
        images=[],
    )


def _class(task: Task, entry: Any, fallback: tuple[int, int, int]) -> ClassResult:
    red, green, blue = (min(255, max(0, int(value))) for value in entry.get("color") or fallback)
    metrics = _numbers({key: value for key, value in entry.items() if key not in ("name", "color", task.counted)})
    return ClassResult(str(entry["name"]), (red, green, blue), int(entry[task.counted]), metrics)


def _images(task: Task, content: Any) -> list[ImageResult]:
    return [
        ImageResult(
            file_name=str(entry["file_name"]),
            label_file=None if entry.get("sem_seg_file_name") is None else str(entry["sem_seg_file_name"]),
            metrics=_numbers(
                {task.metric: entry[task.metric]} | {k: v for k, v in entry.items() if k not in IMAGE_FIELDS}
            ),
            classes=_numbers(entry["classes"]),
        )
        for entry in content
    ]


def _numbers(content: Any) -> dict[str, float]:
    return {str(name): _number(value) for name, value in content.items()}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
