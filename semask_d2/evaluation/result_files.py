"""Writing and reading the files of an evaluation: metrics, class table, image results, confusion matrix plot.

Each dataset has a folder with `metrics.json`, `classes.csv`, `images.json` and, for semantic labels, `confusion.png`.
NaN, such as the IoU of a class that is not in the ground truth, is null in JSON and empty in the table.
`read_evaluation` is the inverse of `write_evaluation`; it validates the files, since they may have been changed.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from semask_d2.data.image_io import save_picture
from semask_d2.evaluation.confusion_picture import draw_confusion
from semask_d2.evaluation.results import AVERAGED, LABEL_FILE, TASKS, EvaluatedModel, Evaluation, ImageResult, Task
from semask_d2.utils import foreign
from semask_d2.utils.classes import IGNORED, Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write, move_aside, require_enclosed, require_regular
from semask_d2.utils.foreign import Section, entries, integer

logger = logging.getLogger(__name__)

FOLDER = "inference"
METRICS_FILE, IMAGES_FILE, CLASSES_FILE, CONFUSION_FILE = "metrics.json", "images.json", "classes.csv", "confusion.png"
PREDICTIONS = "predictions"  # the folder of predictions in a benchmark's format
RESULT_FILES = (METRICS_FILE, IMAGES_FILE, CLASSES_FILE, CONFUSION_FILE, f"{PREDICTIONS}/**/*.png")
TRUTH_FILES = (LABEL_FILE, "pan_seg_file_name")
IMAGE_FIELDS = ("file_name", *TRUTH_FILES, "classes")  # all other fields of an image's entry are metrics
MAX_COUNT = 2**50  # pixels or objects; small enough that the sum of a confusion matrix does not overflow
T = TypeVar("T")


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write the result files into `folder`."""
    rows = class_rows(evaluation)
    colors = evaluation.classes.colors
    content = {
        "dataset": evaluation.dataset,
        "task": evaluation.task_name,
        "checkpoint": evaluation.model.checkpoint,
        "iteration": evaluation.model.iteration,
        "averaged": evaluation.model.averaged,
        "sizes": evaluation.model.sizes,
        "images": evaluation.image_count,
        "metrics": evaluation.metrics,
        "classes": [{**row, "color": list(color)} for row, color in zip(rows, colors, strict=True)],
    }
    if evaluation.confusion is not None:
        confusion = evaluation.confusion.tolist()
        content |= {"ignore_label": evaluation.classes.ignore_label, "confusion": confusion}
    write_json(folder / METRICS_FILE, content)
    with atomic_write(folder / IMAGES_FILE) as file:  # one by one, since there may be very many
        for number, image in enumerate(evaluation.images):
            file.write(("[" if number == 0 else ", ") + as_json(image_entry(image)))
        file.write("]" if evaluation.images else "[]")
    with atomic_write(folder / CLASSES_FILE) as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows({key: "" if is_nan(value) else value for key, value in row.items()} for row in rows)
    if evaluation.confusion is not None:
        try:
            save_picture(folder / CONFUSION_FILE, draw_confusion(evaluation.confusion, evaluation.classes.names))
        except Exception as error:  # the plot is optional and must not end a training
            logger.warning("No plot of the confusion matrix: %s: %s", type(error).__name__, error)


def class_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return a row per class: its name, its metrics, and its count in the ground truth."""
    counted = evaluation.task.counted
    return [{"name": x.name, **x.metrics, counted: x.count} for x in evaluation.class_results]


def image_entry(image: ImageResult) -> dict[str, Any]:
    """Return the entry of an image in `images.json`."""
    return {"file_name": image.file_name, **image.truth_files, **image.metrics, "classes": image.classes}


def read_evaluations(run: str | os.PathLike) -> list[Evaluation]:
    """Return all evaluations in a run folder, by dataset, averaged weights last; `UserError` if there is none."""
    folders = [
        path.parent
        for pattern in (f"*/{METRICS_FILE}", f"{AVERAGED}/*/{METRICS_FILE}")
        for path in sorted(Path(run, FOLDER).glob(pattern))
    ]
    if not folders:
        raise UserError(
            f"{run}: no evaluation there ({FOLDER}/DATA_SET/{METRICS_FILE}); run semask eval --weights {run}"
        )
    return [read_evaluation(folder) for folder in folders]


def read_evaluation(folder: Path) -> Evaluation:
    """Read the results of one dataset; `images.json` may be missing. `UserError` if a file is damaged or malformed."""
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
    return UserError(f"{path}: not a valid file of an evaluation ({text}); evaluate again")


def _evaluation(content: Any, source: str) -> Evaluation:
    """Return the results in `metrics.json`, without those of images."""
    file = Section.of(content, source)
    name = file.text("task", "semantic", choices=tuple(TASKS))  # files of older versions lack it
    rows = [Section.of(entry, f"{source}: classes") for entry in file.entries("classes")]
    metrics = [_class_metrics(TASKS[name], row) for row in rows]
    checkpoint = file.get("checkpoint", None)
    return Evaluation(
        dataset=file.text("dataset"),
        task_name=name,
        model=EvaluatedModel(
            checkpoint=None if checkpoint is None else foreign.path(checkpoint, f"{source}: checkpoint"),
            iteration=file.integer("iteration", None),
            averaged=file.flag("averaged", False),
            sizes=file.text("sizes", None),
        ),
        image_count=file.integer("images", low=0),
        metrics=_numbers(file.section("metrics")),
        classes=_classes(rows, file.integer("ignore_label", IGNORED)),
        class_metrics={
            key: np.array([values.get(key, math.nan) for values in metrics])
            for key in dict.fromkeys(key for values in metrics for key in values)
        },
        class_counts=np.array([row.integer(TASKS[name].counted, low=0, high=MAX_COUNT) for row in rows], np.int64),
        confusion=_confusion(file, len(rows)) if name == "semantic" else None,
        images=[],
    )


def _classes(rows: list[Section], ignore_label: int) -> Classes:
    """Return the classes of the rows; files of older versions have no colors, so distinct ones are generated."""
    default = Classes.of([row.text("name") for row in rows], ignore_label=ignore_label)
    colors = [
        [integer(x, f"{row.source}: color", 0, 255) for x in row.entries("color", list(color), 3)]
        for row, color in zip(rows, default.colors, strict=True)
    ]
    return Classes.of(default.names, colors, ignore_label)


def _class_metrics(task: Task, row: Section) -> dict[str, float]:
    metrics = {key: value for key, value in row.values.items() if key not in ("name", "color", task.counted)}
    return _numbers(Section(metrics, row.source))


def _confusion(file: Section, count: int) -> np.ndarray:
    """Return the confusion matrix (K, K) of a file with K = `count` classes."""
    source = f"{file.source}: confusion"
    rows = [entries(row, source, count) for row in file.entries("confusion", length=count)]
    counts = [integer(value, source, 0, MAX_COUNT) for row in rows for value in row]
    return np.array(counts, np.int64).reshape(count, count)


def _images(task: Task, content: Any, source: str) -> list[ImageResult]:
    return [_image(task, Section.of(entry, source)) for entry in entries(content, source)]


def _image(task: Task, entry: Section) -> ImageResult:
    if task.metric not in entry.values:
        raise UserError(f"{entry.source}: {task.metric} is missing")
    metrics = {task.metric: entry.values[task.metric]}
    metrics |= {key: value for key, value in entry.values.items() if key not in IMAGE_FIELDS}
    truth = {key: entry.get(key) for key in TRUTH_FILES if entry.get(key, None) is not None}
    return ImageResult(
        file_name=_path(entry.get("file_name"), entry.source),
        truth_files={key: _path(file, entry.source) for key, file in truth.items()},
        metrics=_numbers(Section(metrics, entry.source)),
        classes=_numbers(entry.section("classes")),
    )


def _path(value: Any, source: str) -> str:
    return foreign.path(value, f"{source}: a file's name")


def _numbers(section: Section) -> dict[str, float]:
    """Return the numbers of a section by name, counts as integers; null, which stands for NaN in JSON, becomes NaN."""
    numbers = {name: section.number(name, math.nan) for name in section.values}
    return {name: int(x) if type(section.values[name]) is int else x for name, x in numbers.items()}


def keep_earlier(folder: Path, model: EvaluatedModel) -> None:
    """Move result files of another model in `folder` to its subfolder `previous_N`, so that they are not overwritten.

    Results of the same checkpoint at the same sizes may be overwritten, and so may those of one training. Other files
    stay in place.
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
        evaluated = checkpoint or f"the training's model after {iteration} iterations"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        evaluated = "an unknown model"
    old = result_files(folder)
    logger.info("%s held the results of %s: moved to %s", folder, evaluated, move_aside(folder, old))


def result_files(folder: Path) -> list[Path]:
    """Return the files in a dataset's folder that an evaluation wrote."""
    return [path for pattern in RESULT_FILES for path in folder.glob(pattern)]


def _real(checkpoint: str | None) -> str | None:
    return None if checkpoint is None else os.path.realpath(checkpoint)


def is_nan(value: Any) -> bool:
    """Return whether a value is NaN."""
    return isinstance(value, float) and math.isnan(value)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON, with NaN as null."""
    with atomic_write(path) as file:
        file.write(as_json(content))


def as_json(content: Any) -> str:
    """Return `content` as JSON, with NaN as null."""

    def without_nan(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_nan(x) for key, x in value.items()}
        if isinstance(value, list):
            return [without_nan(x) for x in value]
        return None if is_nan(value) else value

    return json.dumps(without_nan(content), allow_nan=False)
