"""An image beside its ground truth as panels show it: labels in the colors of their classes, segments in their own."""

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

NO_SEGMENT, IGNORED = -1, -2  # in maps of numbers of segments
MakeExample = Callable[[ImageResult], tuple[Example, Classes]]


def example_maker(evaluation: Evaluation, predictor: Predictor) -> MakeExample:
    """A function that predicts an image of an evaluation anew, for its task, and says how to draw it.

    It raises `UserError` for an image that cannot be read or does not fit its truth.
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
            raise UserError(f"{image.file_name} is no image of {evaluation.dataset}; evaluate again")
        return segment_example(sample, evaluation.dataset, task, predictor)

    return make


def label_example(image: ImageResult, sample: dict[str, Any] | None, predictor: Predictor) -> Example:
    """An image's predicted labels, and the true ones of `sample` where there are any."""
    pixels = predictor.read_image(image.file_name)
    truth = None if sample is None else read_sample_labels(sample)
    if truth is not None:
        require_one_size(image.file_name, pixels.shape[:2], "label file", image.label_file or "", truth.shape)
    prediction = predictor(pixels, priors=predictor.has_priors)
    return Example(Path(image.file_name).name, pixels, prediction.labels, truth, prediction.priors)


def segment_example(sample: dict[str, Any], dataset: str, task: str, predictor: Predictor) -> tuple[Example, Classes]:
    """The predicted and true segments of a data set's dict as numbers, and the name and color of each number.

    Classes come first, as which stuff is drawn, and then the things, each with a number of its own. What is one thing
    in truth and prediction, as panoptic quality has it, is one number.
    """
    pixels = predictor.read_image(sample["file_name"])
    truth, true_segments = read_true_segments(sample)
    file = sample.get("pan_seg_file_name", "of the data set")
    require_one_size(sample["file_name"], pixels.shape[:2], "map of segments", file, truth.shape)
    prediction = predictor(pixels, priors=predictor.has_priors)
    described = dataset_classes(dataset)
    things = None if described is None else described.things
    classes = replace(predictor.classes, things=frozenset(range(len(predictor.classes))) if things is None else things)
    void = IGNORED if "pan_seg_file_name" in sample else NO_SEGMENT
    labels, true_labels, numbers = numbered_alike(
        shown_segments(prediction, task), (truth, true_segments), classes, void=void
    )
    return Example(Path(sample["file_name"]).name, pixels, labels, true_labels, prediction.priors), numbers


def numbered_alike(
    predicted: tuple[np.ndarray, Sequence[tuple[int, int, bool]]],
    true: tuple[np.ndarray, Sequence[Mapping[str, Any]]],
    classes: Classes,
    *,
    void: int,
) -> tuple[np.ndarray, np.ndarray, Classes]:
    """Predicted and true numbers (H, W) of `segment_example`, and the name and color of each, by those of `classes`.

    Segments are as of `shown_segments` and `read_true_segments`; `void` is the number of what is no true segment.
    """
    found = [{"id": i, "category_id": category} for i, category, _ in predicted[1]]
    partner = {x.predicted: x.true for x in compare_segments(predicted[0], found, *true).matches}
    things = classes.things or ()
    owners: list[int] = []  # the class of each thing

    def number_of(category: int, is_thing: bool) -> int:
        if not is_thing:
            return category
        owners.append(category)
        return len(classes) + len(owners) - 1

    true_numbers = {
        x["id"]: IGNORED if x.get("iscrowd") else number_of(x["category_id"], x["category_id"] in things)
        for x in true[1]
    }
    numbers = {
        i: true_numbers[partner[i]] if i in partner else number_of(category, is_thing)
        for i, category, is_thing in predicted[1]
    }
    seen: Counter[int] = Counter()
    titles = []
    for category in owners:
        seen[category] += 1
        titles.append(f"{classes.names[category]} {seen[category]}")
    shown = {*true_numbers.values(), *numbers.values()}
    stuff = [classes.colors[number] for number in shown if 0 <= number < len(classes)]
    colors = (*classes.colors, *distinct_colors(len(owners), unlike=stuff))
    return (
        _numbered(predicted[0], numbers, NO_SEGMENT),
        _numbered(true[0], true_numbers, void),
        Classes((*classes.names, *titles), colors, IGNORED),
    )


def _numbered(ids: np.ndarray, numbers: Mapping[int, int], otherwise: int) -> np.ndarray:
    result = np.full(ids.shape, otherwise, np.int32)
    for segment, number in numbers.items():
        result[ids == segment] = number
    return result
