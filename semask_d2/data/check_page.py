"""A data check as text and as one HTML page that opens from disk."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from PIL import Image
from tabulate import tabulate

from semask_d2.data.checking import FAULTS, WARNINGS, DataCheck
from semask_d2.data.datasets.custom import CustomDataset
from semask_d2.data.image_io import read_image
from semask_d2.data.labels import read_sample_labels
from semask_d2.utils.excerpts import evenly
from semask_d2.utils.visualization import under_colors

PICTURES = 8  # of each split
PICTURE_SIDE = 480
STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { padding: .2em .8em; text-align: right }
th { border-bottom: 1px solid #999 }
td:first-child, th:first-child { text-align: left } .swatch { display: inline-block; width: 1em; height: 1em }
.bar { display: inline-block; height: .7em; background: #48c } figure { display: inline-block; margin: .5em }
figure img { max-width: 30em } figcaption { font-size: 85%; color: #555 } li { overflow-wrap: anywhere }
.fault { color: #b00 } .good { color: #070 }
"""


def as_text(dataset: CustomDataset, check: DataCheck) -> str:
    """Pixel shares of each class, then all findings by kind."""
    headers = ["id", "class", *(f"{split} {what}" for split in check.facts for what in ("pixels, %", "images"))]
    rows = [[number, dataset.classes.names[number], *cells] for number, cells in enumerate(class_cells(dataset, check))]
    parts = [tabulate(rows, headers=headers, floatfmt=".3f", tablefmt="github")] if check.facts else []
    for kind, title, texts in by_kind(check):
        word = "FAULT" if kind in FAULTS else "warning"
        parts.append(f"{word}: {title} ({len(texts)})\n" + "\n".join(f"  {text}" for text in texts))
    return "\n\n".join([*parts, summary(check)])


def summary(check: DataCheck) -> str:
    """How much was read and how much is wrong, in a line."""
    counts = ", ".join(f"{len(dicts)} pairs of {split}" for split, dicts in check.dicts.items()) or "no pair"
    return f"{counts} read: {len(check.faults)} fault(s), {len(check.warnings)} warning(s)"


def by_kind(check: DataCheck) -> Iterator[tuple[str, str, list[str]]]:
    """Each kind of findings that there are: the kind, its title, the findings' texts."""
    for kind, title in (FAULTS | WARNINGS).items():
        texts = [finding.text for finding in check.findings if finding.kind == kind]
        if texts:
            yield kind, title, texts


def class_cells(dataset: CustomDataset, check: DataCheck) -> list[list[float]]:
    """For each class its share of each split's pixels in percent, and the images that show it."""
    cells: list[list[float]] = [[] for _ in dataset.classes.names]
    for split in check.facts:
        pixels = check.pixels(split)
        shares = 100 * pixels.sum(0) / max(int(pixels.sum()), 1)
        for number, row in enumerate(cells):
            row += [float(shares[number]), int((pixels[:, number] > 0).sum())]
    return cells


def as_page(dataset: CustomDataset, check: DataCheck, value_range: Sequence[float] = ()) -> str:
    """The page: what is wrong, how often each class occurs, and some images of each split under their labels."""
    findings = "".join(
        f'<h3 class="{"fault" if kind in FAULTS else "warning"}">{escape(title)} ({len(texts)})</h3>'
        f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"
        for kind, title, texts in by_kind(check)
    )
    splits = "".join(f"<th>{split}, % of pixels</th><th></th><th>images</th>" for split in check.facts)
    rows = ""
    for number, cells in enumerate(class_cells(dataset, check)):
        color = "#{:02x}{:02x}{:02x}".format(*dataset.classes.colors[number])
        rows += f'<tr><td><span class="swatch" style="background:{color}"></span> {number} '
        rows += f"{escape(dataset.classes.names[number])}</td>"
        for share, images in zip(cells[::2], cells[1::2], strict=True):
            rows += (
                f'<td>{share:.3f}</td><td style="text-align:left"><span class="bar" style="width:{2 * share:.1f}px">'
            )
            rows += f"</span></td><td>{images}</td>"
        rows += "</tr>"
    pictures = "".join(
        f"<h2>{split}</h2>{''.join(figures(dataset, check, split, value_range))}"
        for split in check.dicts
        if check.good(split)
    )
    state = "fault" if check.faults else "good"
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(dataset.name)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(dataset.name)}</h1>"
        f'<p class="{state}">{escape(summary(check))}</p>{findings}<h2>Classes</h2>'
        f"<table><tr><th>class</th>{splits}</tr>{rows}</table>{pictures}</body></html>\n"
    )


def figures(dataset: CustomDataset, check: DataCheck, split: str, value_range: Sequence[float]) -> Iterator[str]:
    """Some good pairs of a split, evenly spread: the image beside itself under its labels."""
    for sample in evenly(check.good(split), PICTURES):
        image = read_image(sample["file_name"], value_range=value_range)
        drawn = under_colors(image, read_sample_labels(sample), dataset.classes, opacity=0.6)
        picture = Image.fromarray(np.concatenate([image, drawn], axis=1))
        picture.thumbnail((2 * PICTURE_SIDE, PICTURE_SIDE))
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=85)
        data = base64.b64encode(buffer.getvalue()).decode()
        yield f'<figure><img src="data:image/jpeg;base64,{data}" alt=""><figcaption>{escape(sample["file_name"])}'
        yield "</figcaption></figure>"
