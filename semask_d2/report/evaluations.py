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
from semask_d2.utils import foreign
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import require_regular
from semask_d2.utils.foreign import Section, entries, integer
from semask_d2.utils.visualization import distinct_colors

IMAGE_FIELDS = ("file_name", "sem_seg_file_name", "pan_seg_file_name", "classes")  # the others are its metrics
MAX_COUNT = 2**50  # pixels or objects, so that some hundred squared of them still have a sum
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
            f"{run}: no evaluation there ({FOLDER}/DATA_SET/{METRICS_FILE}); make one with semask eval --weights {run}"
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


def _checked(path: Path, read: Callable[[Any, str], T], content: Any) -> T:
    try:
        return read(content, path.name)
    except UserError as error:
        raise _wrong(path, error) from error


def _wrong(path: Path, error: Exception) -> UserError:
    text = " ".join(str(error).split())
    return UserError(f"{path}: not what an evaluation writes there ({text}); evaluate again")


def _evaluation(content: Any, source: str) -> Evaluation:
    file = Section.of(content, source)
    name = file.text("task", "semantic", choices=tuple(TASKS))  # which files of older versions do not say
    task = TASKS[name]
    listed = file.entries("classes")
    fallback = distinct_colors(len(listed))
    entry_source = f"{source}: classes"
    classes = [
        _class(task, Section.of(entry, entry_source), color) for entry, color in zip(listed, fallback, strict=True)
    ]
    return Evaluation(
        dataset=file.text("dataset"),
        task_name=name,
        averaged=file.flag("averaged", False),
        checkpoint=foreign.path(file.get("checkpoint", ""), f"{source}: checkpoint"),
        iteration=file.integer("iteration", None),
        sizes=file.text("sizes", None),
        image_count=file.integer("images", low=0),
        metrics=_numbers(file.section("metrics")),
        classes=classes,
        confusion=_confusion(file, len(classes)) if name == "semantic" else None,
        ignore_label=file.integer("ignore_label", 255),
        images=[],
    )


def _confusion(file: Section, count: int) -> np.ndarray:
    """The matrix (K, K) of a file of `count` classes."""
    source = f"{file.source}: confusion"
    rows = [entries(row, source, count) for row in file.entries("confusion", length=count)]
    counts = [integer(value, source, 0, MAX_COUNT) for row in rows for value in row]
    return np.array(counts, np.int64).reshape(count, count)


def _class(task: Task, entry: Section, fallback: tuple[int, int, int]) -> ClassResult:
    color = [integer(x, f"{entry.source}: color", 0, 255) for x in entry.entries("color", fallback, 3)]
    metrics = {key: value for key, value in entry.values.items() if key not in ("name", "color", task.counted)}
    count = entry.integer(task.counted, low=0, high=MAX_COUNT)
    return ClassResult(
        entry.text("name"), (color[0], color[1], color[2]), count, _numbers(Section(metrics, entry.source))
    )


def _images(task: Task, content: Any, source: str) -> list[ImageResult]:
    return [_image(task, Section.of(entry, source)) for entry in entries(content, source)]


def _image(task: Task, entry: Section) -> ImageResult:
    label_file = entry.get("sem_seg_file_name", None)
    if task.metric not in entry.values:
        raise UserError(f"{entry.source}: {task.metric} is missing")
    metrics = {task.metric: entry.values[task.metric]}
    metrics |= {key: value for key, value in entry.values.items() if key not in IMAGE_FIELDS}
    return ImageResult(
        file_name=_path(entry.get("file_name"), entry.source),
        label_file=None if label_file is None else _path(label_file, entry.source),
        metrics=_numbers(Section(metrics, entry.source)),
        classes=_numbers(entry.section("classes")),
    )


def _path(value: Any, source: str) -> str:
    return foreign.path(value, f"{source}: a file's name")


def _numbers(section: Section) -> dict[str, float]:
    """The numbers of a section by name; NaN for null, which stands for it in JSON."""
    return {name: section.number(name, math.nan) for name in section.values}
