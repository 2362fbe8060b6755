"""The report of a dataset check, as text and as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from PIL import Image
from tabulate import tabulate

from semask_d2.data.checking import FAULTS, WARNINGS, DataCheck
from semask_d2.data.datasets.custom import CustomDataset
from semask_d2.data.image_io import read_image
from semask_d2.data.labels import read_sample_labels
from semask_d2.data.picture import RGB
from semask_d2.utils.excerpts import evenly
from semask_d2.utils.pages import data_uri, render
from semask_d2.utils.visualization import displayed, under_colors

EXAMPLES = 8  # images shown per split
EXAMPLE_SIDE = 480


def as_text(dataset: CustomDataset, check: DataCheck) -> str:
    """Return the pixel share of each class, then all findings by kind."""
    headers = ["id", "class", *(f"{split} {what}" for split in check.facts for what in ("pixels, %", "images"))]
    rows = [[number, dataset.classes.names[number], *cells] for number, cells in enumerate(class_cells(dataset, check))]
    parts = [tabulate(rows, headers=headers, floatfmt=".3f", tablefmt="github")] if check.facts else []
    for kind, title, texts in by_kind(check):
        word = "FAULT" if kind in FAULTS else "warning"
        parts.append(f"{word}: {title} ({len(texts)})\n" + "\n".join(f"  {text}" for text in texts))
    return "\n\n".join([*parts, summary(check)])


def summary(check: DataCheck) -> str:
    """Return one line with the numbers of pairs read, faults and warnings."""
    counts = ", ".join(f"{len(dicts)} pairs of {split}" for split, dicts in check.dicts.items()) or "no pair"
    return f"{counts} read: {len(check.faults)} fault(s), {len(check.warnings)} warning(s)"


def by_kind(check: DataCheck) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each kind of finding that occurs: the kind, its title, and the texts of its findings."""
    for kind, title in (FAULTS | WARNINGS).items():
        texts = [finding.text for finding in check.findings if finding.kind == kind]
        if texts:
            yield kind, title, texts


def class_cells(dataset: CustomDataset, check: DataCheck) -> list[list[float]]:
    """Return, for each class and split, the class's share of the pixels in percent and the number of its images."""
    cells: list[list[float]] = [[] for _ in dataset.classes.names]
    for facts in check.facts.values():
        shares = 100 * facts.pixels / max(int(facts.pixels.sum()), 1)
        for number, row in enumerate(cells):
            row += [float(shares[number]), int(facts.images[number])]
    return cells


def as_page(dataset: CustomDataset, check: DataCheck, *, value_range: Sequence[float] = (), channels: int = RGB) -> str:
    """Return the page: the findings, the frequency of each class, and some images of each split with their labels.

    `value_range` and `channels` are those of INPUT.
    """
    read = partial(read_image, value_range=value_range, channels=channels)
    rows = zip(dataset.classes.names, dataset.classes.colors, class_cells(dataset, check), strict=True)
    return render(
        "data/assets/check.html",
        name=dataset.name,
        good=not check.faults,
        summary=summary(check),
        findings=[
            {"css_class": "fault" if kind in FAULTS else "warning", "title": title, "texts": texts}
            for kind, title, texts in by_kind(check)
        ],
        splits=list(check.facts),
        rows=[
            {"name": name, "color": color, "cells": list(zip(cells[::2], cells[1::2], strict=True))}
            for name, color, cells in rows
        ],
        pictures=[(split, figures(dataset, check, split, read)) for split in check.dicts if check.good(split)],
    )


def figures(
    dataset: CustomDataset, check: DataCheck, split: str, read: Callable[[str], np.ndarray]
) -> Iterator[dict[str, str]]:
    """Yield some faultless pairs of a split, evenly spread: the image, and beside it the image under its labels."""
    for place in evenly(check.good(split), EXAMPLES):
        sample = check.dicts[split][place]
        image = displayed(read(sample["file_name"]))
        drawn = under_colors(image, read_sample_labels(sample), dataset.classes, opacity=0.6)
        example = Image.fromarray(np.concatenate([image, drawn], axis=1))
        example.thumbnail((2 * EXAMPLE_SIDE, EXAMPLE_SIDE))
        yield {"picture": data_uri(np.asarray(example), "JPEG", quality=85), "file_name": sample["file_name"]}
