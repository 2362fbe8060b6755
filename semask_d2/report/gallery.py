"""Images of a report: predicted again, each with ground truth, prediction, error and semantic maps."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from tqdm import tqdm

from semask_d2.evaluation.results import Evaluation, ImageResult
from semask_d2.inference.panels import panels_html
from semask_d2.inference.predictor import Predictor
from semask_d2.report.choice import FAILED, Groups
from semask_d2.report.examples import example_maker
from semask_d2.report.tables import class_id, percent
from semask_d2.utils.errors import UserError
from semask_d2.utils.pages import render

logger = logging.getLogger(__name__)

COUNTS = ("matched", "wrong", "missed")  # numbers of segments; an image's other metrics are percentages
LISTED_CLASSES = 12  # classes listed per image, the weakest ones
LINKED_IMAGES = 4  # images linked per class


@dataclass(frozen=True)
class Gallery:
    """HTML of the shown images, and for each class name the (anchor, title) of the images that fail it."""

    html: Markup
    failing: dict[str, list[tuple[str, str]]]


def make_gallery(
    evaluation: Evaluation, groups: Groups, prefix: str, predictor: Predictor, seconds: float = math.inf
) -> Gallery:
    """Predict and draw the images of `groups`; images left after `seconds` are skipped, and the page says so.

    An image that cannot be read or does not fit its labels is reported in the page and in the log.
    """
    try:
        make = example_maker(evaluation, predictor)
    except UserError as error:
        logger.warning("The report has no images of %s: %s", evaluation.dataset, error)
        return Gallery(_gallery([], [f"No images: {error}"]), {})
    numbered = [(title, image) for title, images in groups.items() for image in images]
    shown: dict[str, list[tuple[str, ImageResult]]] = {title: [] for title in groups}
    cards: dict[str, list[Markup]] = {title: [] for title in groups}
    problems: list[str] = []
    deadline = time.monotonic() + seconds
    remaining = len(numbered)
    for number, (title, image) in enumerate(
        tqdm(numbered, desc=f"report, {evaluation.dataset}", unit="image", disable=None, leave=False)
    ):
        if time.monotonic() > deadline:
            problems.append(f"{remaining} more images were left out to save time; semask report draws them.")
            break
        remaining -= 1
        anchor = f"{prefix}-image-{number}"
        try:
            cards[title].append(_card(evaluation, image, anchor, prefix, panels_html(*make(image))))
            shown[title].append((anchor, image))
        except UserError as error:
            logger.warning("The report leaves out %s: %s", image.file_name, error)
            problems.append(str(error))
    html = _gallery([(title, cards[title]) for title in groups if cards[title]], problems)
    images = [entry for entries in shown.values() for entry in entries]
    return Gallery(html, {result.name: _failing_images(result.name, images) for result in evaluation.class_results})


def _gallery(groups: list[tuple[str, list[Markup]]], problems: list[str]) -> Markup:
    return render("report/assets/gallery.html", groups=groups, problems=problems)


def _failing_images(name: str, images: list[tuple[str, ImageResult]]) -> list[tuple[str, str]]:
    """Return the anchor and title of the shown images that fail a class, worst first."""
    failed = [entry for entry in images if entry[1].classes.get(name, math.nan) < FAILED]
    failed.sort(key=lambda entry: entry[1].classes[name])
    return [
        (anchor, f"{Path(image.file_name).stem} {image.classes[name]:.0f} %")
        for anchor, image in failed[:LINKED_IMAGES]
    ]


def _card(evaluation: Evaluation, image: ImageResult, anchor: str, prefix: str, panels: Markup) -> Markup:
    """Return the article about one image."""
    classes = _scored_classes(evaluation, image, prefix)
    return render(
        "report/assets/example.html",
        anchor=anchor,
        title=Path(image.file_name).name,
        file_name=image.file_name,
        figures=figures(image),
        panels=panels,
        metric=evaluation.task.class_metric,
        classes=classes[:LISTED_CLASSES],
        better_classes=max(0, len(classes) - LISTED_CLASSES),
    )


def figures(image: ImageResult) -> str:
    """Return the metrics of an image as text, percentages before counts."""
    shares = [(name, value) for name, value in image.metrics.items() if name not in COUNTS]
    percentages = [f"{name.replace('_', ' ')} {percent(value)}" for name, value in shares]
    counts = [f"{image.metrics[name]:.0f} {name}" for name in COUNTS if name in image.metrics]
    return ", ".join(percentages) + (f"; segments: {', '.join(counts)}" if counts else "")


def _scored_classes(evaluation: Evaluation, image: ImageResult, prefix: str) -> list[dict[str, Any]]:
    """Return the classes of an image with their metric and the anchor of their table row, weakest first."""
    numbers = {result.name: number for number, result in enumerate(evaluation.class_results)}
    scored = [(score, name) for name, score in image.classes.items() if name in numbers and not math.isnan(score)]
    return [
        {
            "name": name,
            "score": score,
            "fails": score < FAILED,
            "color": evaluation.classes.colors[numbers[name]],
            "anchor": class_id(prefix, numbers[name]),
        }
        for score, name in sorted(scored)
    ]
