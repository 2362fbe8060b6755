"""Examples of a report: images with prediction and ground truth, where each class or segment has its color."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from semask_d2.data.datasets import dataset_classes, get_dataset_dicts
from semask_d2.data.label_checks import require_one_size
from semask_d2.data.labels import read_sample_labels
from semask_d2.data.segments import read_true_segments
from semask_d2.evaluation.panoptic import compare_segments
from semask_d2.evaluation.results import Evaluation, ImageResult
from semask_d2.inference.panels import Example
from semask_d2.inference.prediction import shown_segments
from semask_d2.inference.predictor import Predictor
from semask_d2.utils.classes import Classes
from semask_d2.utils.colors import distinct_colors
from semask_d2.utils.errors import UserError

NO_SEGMENT, IGNORED = -1, -2  # in maps of segment numbers
MakeExample = Callable[[ImageResult], tuple[Example, Classes]]


def example_maker(evaluation: Evaluation, predictor: Predictor) -> MakeExample:
    """Return a function that predicts an image of an evaluation again and returns what to draw.

    The function raises `UserError` for an image that cannot be read or does not fit its ground truth.
    """
    task, samples = evaluation.task_name, {}
    if task != "semantic" or any((image.label_file or "").endswith(".json") for image in evaluation.images):
        samples = {x["file_name"]: x for x in get_dataset_dicts(evaluation.dataset)}

    def make(image: ImageResult) -> tuple[Example, Classes]:
        sample = samples.get(image.file_name)
        if task == "semantic":
            if sample is None and image.label_file is not None:
                sample = {"sem_seg_file_name": image.label_file, "label_format": predictor.label_format}
            return label_example(image, sample, predictor), evaluation.classes
        if sample is None:
            raise UserError(f"{image.file_name} is not an image of {evaluation.dataset}; evaluate again")
        return segment_example(sample, evaluation.dataset, task, predictor)

    return make


def label_example(image: ImageResult, sample: dict[str, Any] | None, predictor: Predictor) -> Example:
    """Return the predicted labels of an image and, if `sample` is given, the true ones."""
    pixels = predictor.read_image(image.file_name)
    truth = None if sample is None else read_sample_labels(sample)
    if truth is not None:
        require_one_size(image.file_name, pixels.shape[:2], "label file", image.label_file or "", truth.shape)
    prediction = predictor(pixels, priors=predictor.has_priors)
    return Example(Path(image.file_name).name, predictor.shown(pixels), prediction.labels, truth, prediction.priors)


def segment_example(sample: dict[str, Any], dataset: str, task: str, predictor: Predictor) -> tuple[Example, Classes]:
    """Return the predicted and true segments of a dataset dict as numbers, and the name and color of each number.

    The first numbers are classes, which stuff is drawn as; each thing gets a further number. A predicted thing that
    matches a true one, by the rule of panoptic quality, has the same number.
    """
    pixels = predictor.read_image(sample["file_name"])
    truth, true_segments = read_true_segments(sample)
    file = sample.get("pan_seg_file_name", "of the dataset")
    require_one_size(sample["file_name"], pixels.shape[:2], "map of segments", file, truth.shape)
    prediction = predictor(pixels, priors=predictor.has_priors)
    known_classes = dataset_classes(dataset)
    things = None if known_classes is None else known_classes.things
    classes = replace(predictor.classes, things=frozenset(range(len(predictor.classes))) if things is None else things)
    void = IGNORED if "pan_seg_file_name" in sample else NO_SEGMENT
    labels, true_labels, segment_classes = number_segments(
        shown_segments(prediction, task), (truth, true_segments), classes, void=void
    )
    name, shown = Path(sample["file_name"]).name, predictor.shown(pixels)
    return Example(name, shown, labels, true_labels, prediction.priors), segment_classes


def number_segments(
    predicted: tuple[np.ndarray, Sequence[tuple[int, int, bool]]],
    true: tuple[np.ndarray, Sequence[Mapping[str, Any]]],
    classes: Classes,
    *,
    void: int,
) -> tuple[np.ndarray, np.ndarray, Classes]:
    """Return the predicted and true numbers (H, W) of `segment_example`, and the name and color of each number.

    `predicted` is a result of `shown_segments` and `true` one of `read_true_segments`. `void` is the number of pixels
    outside all true segments.
    """
    predicted_segments = [{"id": i, "category_id": category} for i, category, _ in predicted[1]]
    matches = {x.predicted: x.true for x in compare_segments(predicted[0], predicted_segments, *true).matches}
    things = classes.things or ()
    thing_classes: list[int] = []  # the class of each numbered thing

    def next_number(category: int, is_thing: bool) -> int:
        if not is_thing:
            return category
        thing_classes.append(category)
        return len(classes) + len(thing_classes) - 1

    true_numbers = {
        x["id"]: IGNORED if x.get("iscrowd") else next_number(x["category_id"], x["category_id"] in things)
        for x in true[1]
    }
    predicted_numbers = {
        i: true_numbers[matches[i]] if i in matches else next_number(category, is_thing)
        for i, category, is_thing in predicted[1]
    }
    counts: Counter[int] = Counter()
    titles = []
    for category in thing_classes:
        counts[category] += 1
        titles.append(f"{classes.names[category]} {counts[category]}")
    shown = {*true_numbers.values(), *predicted_numbers.values()}
    stuff_colors = [classes.colors[number] for number in shown if 0 <= number < len(classes)]
    colors = (*classes.colors, *distinct_colors(len(thing_classes), unlike=stuff_colors))
    return (
        _replace_ids(predicted[0], predicted_numbers, NO_SEGMENT),
        _replace_ids(true[0], true_numbers, void),
        Classes((*classes.names, *titles), colors, IGNORED),
    )


def _replace_ids(ids: np.ndarray, numbers: Mapping[int, int], default: int) -> np.ndarray:
    result = np.full(ids.shape, default, np.int32)
    for segment, number in numbers.items():
        result[ids == segment] = number
    return result
