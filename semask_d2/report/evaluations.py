"""What an evaluation leaves in a run folder, read back and checked: `metrics.json`, `images.json` of each data set."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from semask_d2.evaluation.results import FOLDER
from semask_d2.inference.panels import ClassStyle
from semask_d2.utils.errors import UserError
from semask_d2.utils.visualization import distinct_colors

AVERAGED_FOLDER = "ema"  # in it, the evaluations of averaged weights
METRICS_FILE, IMAGES_FILE = "metrics.json", "images.json"
CLASS_FIELDS = ("name", "color", "pixels")  # of a class's entry; the others are its metrics, in percent
T = TypeVar("T")


@dataclass(frozen=True)
class ClassResult:
    """One class: its labeled pixels, and its metrics in percent by name; NaN where the ground truth lacks it."""

    name: str
    color: tuple[int, int, int]
    pixels: int
    metrics: dict[str, float]

    @property
    def iou(self) -> float:
        """Intersection over union in percent."""
        return self.metrics.get("IoU", math.nan)


@dataclass(frozen=True)
class ImageResult:
    """One image: its files, mIoU and pixel accuracy in percent, and the IoU of the classes in it by name."""

    file_name: str
    label_file: str | None
    miou: float
    pixel_accuracy: float
    classes: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """One data set's results; `confusion` (K, K) counts pixels, rows are the truth.

    `averaged` says that they are of a training's averaged weights, and not of the model itself.
    """

    dataset: str
    averaged: bool
    checkpoint: str
    iteration: int | None
    image_count: int
    metrics: dict[str, float]
    classes: list[ClassResult]
    confusion: np.ndarray
    ignore_label: int
    images: list[ImageResult]

    @property
    def title(self) -> str:
        """What was evaluated, in words."""
        return f"{self.dataset}, averaged weights" if self.averaged else self.dataset

    @property
    def style(self) -> ClassStyle:
        """How to draw the classes."""
        colors = np.array([result.color for result in self.classes], np.uint8).reshape(-1, 3)
        return ClassStyle([result.name for result in self.classes], colors, self.ignore_label)

    def worst_images(self, count: int) -> list[ImageResult]:
        """The `count` images of the lowest mIoU, the worst first; those without one are left out."""
        measured = [image for image in self.images if not math.isnan(image.miou)]
        return sorted(measured, key=lambda image: (image.miou, image.file_name))[:count]


def read_evaluations(run: str | os.PathLike) -> list[Evaluation]:
    """All evaluations that a run folder holds, by name of the data set; `UserError` where there is none.

    Those of averaged weights come last.
    """
    folders = [
        path.parent
        for pattern in (f"*/{METRICS_FILE}", f"{AVERAGED_FOLDER}/*/{METRICS_FILE}")
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
    evaluation.images.extend(_checked(folder / IMAGES_FILE, _images, images))
    return evaluation


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
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
    entries = content["classes"]
    fallback = distinct_colors(len(entries))
    classes = [_class(entry, color) for entry, color in zip(entries, fallback, strict=True)]
    confusion = np.array(content["confusion"], np.int64)
    if confusion.shape != (len(classes), len(classes)):
        raise ValueError(f"confusion of shape {confusion.shape} for {len(classes)} classes")
    iteration = content.get("iteration")
    return Evaluation(
        dataset=str(content["dataset"]),
        averaged=bool(content.get("averaged")),
        checkpoint=str(content.get("checkpoint") or ""),
        iteration=None if iteration is None else int(iteration),
        image_count=int(content["images"]),
        metrics=_numbers(content["metrics"]),
        classes=classes,
        confusion=confusion,
        ignore_label=int(content.get("ignore_label", 255)),
        images=[],
    )


def _class(entry: Any, fallback: tuple[int, int, int]) -> ClassResult:
    red, green, blue = (min(255, max(0, int(value))) for value in entry.get("color") or fallback)
    metrics = _numbers({key: value for key, value in entry.items() if key not in CLASS_FIELDS})
    return ClassResult(str(entry["name"]), (red, green, blue), int(entry["pixels"]), metrics)


def _images(content: Any) -> list[ImageResult]:
    return [
        ImageResult(
            file_name=str(entry["file_name"]),
            label_file=None if entry.get("sem_seg_file_name") is None else str(entry["sem_seg_file_name"]),
            miou=_number(entry["mIoU"]),
            pixel_accuracy=_number(entry["pixel_accuracy"]),
            classes=_numbers(entry["classes"]),
        )
        for entry in content
    ]


def _numbers(content: Any) -> dict[str, float]:
    return {str(name): _number(value) for name, value in content.items()}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
