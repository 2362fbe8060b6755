"""Choice of a report's images: the worst, the best, and the worst image for each of the weakest classes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from semask_d2.evaluation.results import Evaluation, ImageResult

FAILED = 50.0  # percent; an image fails a class if the class's metric is lower there
Groups = dict[str, list[ImageResult]]


def choose_images(evaluation: Evaluation, count: int) -> Groups:
    """Return at most `count` images for each heading, none twice; empty groups are left out."""
    ranked = evaluation.worst_images(len(evaluation.images))
    worst = ranked[: min(count, math.ceil(len(ranked) / 2))]
    best = ranked[len(worst) :][::-1][:count]
    shown = {image.file_name for image in (*worst, *best)}
    failing: list[ImageResult] = []
    for image in worst_of_each_class(evaluation):
        if len(failing) < count and image.file_name not in shown:
            shown.add(image.file_name)
            failing.append(image)
    groups = {"Worst images": worst, "Worst for a class": failing, "Best images": best}
    return {title: images for title, images in groups.items() if images}


def worst_of_each_class(evaluation: Evaluation) -> Iterator[ImageResult]:
    """Yield the image with the lowest metric for each class that some image fails, weakest class first."""
    scores = [(evaluation.class_score(result), result) for result in evaluation.class_results]
    for _, result in sorted((x for x in scores if not math.isnan(x[0])), key=lambda x: x[0]):
        failed = [image for image in evaluation.images if image.classes.get(result.name, math.nan) < FAILED]
        if failed:
            yield min(failed, key=lambda image: (image.classes[result.name], image.file_name))
