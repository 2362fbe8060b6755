"""An image beside its ground truth as panels show it: labels in the colors of their classes, segments in their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semask_d2.d2 import MetadataCatalog
from semask_d2.data.datasets import get_dataset_dicts
from semask_d2.data.labels import read_sample_labels
from semask_d2.data.segments import read_true_segments
from semask_d2.evaluation.panoptic import compare_segments
from semask_d2.inference.drawing import shown_segments
from semask_d2.inference.panels import ClassStyle, Example
from semask_d2.inference.predictor import Predictor
from semask_d2.report.evaluations import Evaluation, ImageResult
from semask_d2.utils.errors import UserError
from semask_d2.utils.visualization import distinct_colors

NO_SEGMENT, IGNORED = -1, -2  # in maps of numbers of segments
MakeExample = Callable[[ImageResult], tuple[Example, ClassStyle]]


def example_maker(evaluation: Evaluation, predictor: Predictor) -> MakeExample:
    """A function that predicts an image of an evaluation anew, for its task, and says how to draw it.

    It raises `UserError` for an image that cannot be read or does not fit its truth.
    """
    task, samples = evaluation.task_name, {}
    if task != "semantic" or any((image.label_file or "").endswith(".json") for image in evaluation.images):
        samples = {x["file_name"]: x for x in get_dataset_dicts(evaluation.dataset)}

    def make(image: ImageResult) -> tuple[Example, ClassStyle]:
        sample = samples.get(image.file_name)
        if task == "semantic":
            if sample is None and image.label_file is not None:
                sample = {"sem_seg_file_name": image.label_file, "label_format": predictor.label_format}
            return label_example(image, sample, predictor), evaluation.style
        if sample is None:
            raise UserError(f"{image.file_name} is no image of {evaluation.dataset}; evaluate again")
        return segment_example(sample, evaluation.dataset, task, predictor)

    return make


def label_example(image: ImageResult, sample: dict[str, Any] | None, predictor: Predictor) -> Example:
    """An image's predicted labels, and the true ones of `sample` where there are any."""
    pixels = predictor.read_image(image.file_name)
    truth = None if sample is None else read_sample_labels(sample)
    if truth is not None and truth.shape != pixels.shape[:2]:
        raise UserError(f"{image.label_file}: not of the size of its image {image.file_name}")
    prediction = predictor(pixels, priors=predictor.has_priors)
    return Example(Path(image.file_name).name, pixels, prediction.labels, truth, prediction.priors)


def segment_example(
    sample: dict[str, Any], dataset: str, task: str, predictor: Predictor
) -> tuple[Example, ClassStyle]:
    """The predicted and true segments of a data set's dict as numbers, and the name and color of each number.

    Classes come first, as which stuff is drawn, and then the things, each with a number of its own. What is one thing
    in truth and prediction, as panoptic quality has it, is one number.
    """
    pixels = predictor.read_image(sample["file_name"])
    truth, true_segments = read_true_segments(sample)
    if truth.shape != pixels.shape[:2]:
        raise UserError(f"{sample['file_name']}: not of the size of its segments")
    prediction = predictor(pixels, priors=predictor.has_priors)
    metadata = MetadataCatalog.get(dataset)
    all_things = dict(enumerate(range(len(predictor.class_names))))  # of data sets of instances that do not say it
    things = metadata.get("thing_dataset_id_to_contiguous_id", all_things).values()
    void = IGNORED if "pan_seg_file_name" in sample else NO_SEGMENT
    style = ClassStyle(predictor.class_names, predictor.class_colors, IGNORED)
    labels, true_labels, style = numbered_alike(
        shown_segments(prediction, task), (truth, true_segments), style, things=things, void=void
    )
    return Example(Path(sample["file_name"]).name, pixels, labels, true_labels, prediction.priors), style


def numbered_alike(
    predicted: tuple[np.ndarray, Sequence[tuple[int, int, bool]]],
    true: tuple[np.ndarray, Sequence[Mapping[str, Any]]],
    style: ClassStyle,
    *,
    things: Collection[int],
    void: int,
) -> tuple[np.ndarray, np.ndarray, ClassStyle]:
    """Predicted and true numbers (H, W) of `segment_example`, and their style, of `style` of the classes.

    Segments are as of `shown_segments` and `read_true_segments`; `void` is the number of what is no true segment.
    """
    found = [{"id": i, "category_id": category} for i, category, _ in predicted[1]]
    partner = {x.predicted: x.true for x in compare_segments(predicted[0], found, *true).matches}
    owners: list[int] = []  # the class of each thing

    def number_of(category: int, is_thing: bool) -> int:
        if not is_thing:
            return category
        owners.append(category)
        return len(style.names) + len(owners) - 1

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
        titles.append(f"{style.names[category]} {seen[category]}")
    shown = {*true_numbers.values(), *numbers.values()}
    stuff = [style.colors[number] for number in shown if 0 <= number < len(style.names)]
    own_colors = np.array(distinct_colors(len(owners), unlike=stuff), np.uint8).reshape(-1, 3)
    colors = np.concatenate([style.colors, own_colors])
    return (
        _numbered(predicted[0], numbers, NO_SEGMENT),
        _numbered(true[0], true_numbers, void),
        ClassStyle([*style.names, *titles], colors, IGNORED),
    )


def _numbered(ids: np.ndarray, numbers: Mapping[int, int], otherwise: int) -> np.ndarray:
    result = np.full(ids.shape, otherwise, np.int32)
    for segment, number in numbers.items():
        result[ids == segment] = number
    return result
