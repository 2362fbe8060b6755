"""A data set's figures as HTML: the results in large, the table of classes, the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

from semask_d2.evaluation.results import ClassResult, Evaluation
from semask_d2.inference.panels import swatch
from semask_d2.utils.visualization import short

TITLES = {
    "mIoU": "mean IoU",
    "pACC": "pixel accuracy",
    "mACC": "mean accuracy",
    "fwIoU": "frequency-weighted IoU",
    "mBoundaryIoU": "mean boundary IoU",
    "mTrimapIoU": "mean trimap IoU",
    "PQ": "panoptic quality (PQ)",
    "SQ": "segmentation quality (SQ)",
    "RQ": "recognition quality (RQ)",
    **{f"{name}_th": f"{name} of things" for name in ("PQ", "SQ", "RQ")},
    **{f"{name}_st": f"{name} of stuff" for name in ("PQ", "SQ", "RQ")},
    "AP": "average precision (AP)",
    "AP50": "AP at IoU 0.5",
    "AP75": "AP at IoU 0.75",
    "APs": "AP of small objects",
    "APm": "AP of medium objects",
    "APl": "AP of large objects",
}
OF_A_CLASS = ("IoU-", "ACC-", "BoundaryIoU-", "TrimapIoU-", "PQ-", "AP-")  # metrics that the table of classes has
MATRIX_CLASSES = 30  # more make a matrix that nobody reads
CONFUSIONS = 8  # pairs of classes that are listed
WHITE_FROM = 0.55  # share from which a cell's figure is white


def percent(value: float) -> str:
    """A percentage with two digits; a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.2f}"


def tiles(evaluation: Evaluation) -> str:
    """The metrics of the whole data set, the main one first."""
    known = [name for name in TITLES if name in evaluation.metrics]
    others = [name for name in evaluation.metrics if name not in TITLES and not name.startswith(OF_A_CLASS)]
    cells = [
        f"<div><dt>{escape(TITLES.get(name, name.replace('_', ' ')))}</dt>"
        f"<dd>{percent(evaluation.metrics[name])}<small> %</small></dd></div>"
        for name in (*known, *others)
    ]
    cells.append(f"<div><dt>images</dt><dd>{evaluation.image_count}</dd></div>")
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def class_id(prefix: str, number: int) -> str:
    """The anchor of a class's row."""
    return f"{prefix}-class-{number}"


def class_table(evaluation: Evaluation, prefix: str, failing: Mapping[str, Iterable[tuple[str, str]]]) -> str:
    """A row for each class; `failing` are the anchor and the title of the shown images that fail a class, by name."""
    metrics = list(dict.fromkeys(name for result in evaluation.class_results for name in result.metrics))
    counted = evaluation.task.counted
    total = max(1, sum(result.count for result in evaluation.class_results))
    amount = "pixels, %" if counted == "pixels" else counted  # of pixels nobody can read the number
    heads = ["class", *(name.replace("_", " ") for name in metrics), amount, "shown images that fail it"]
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads[:-1])
    rows = []
    for number, result in enumerate(evaluation.class_results):
        cells = "".join(
            _number_cell(result.metrics.get(name, math.nan), bar=name == evaluation.task.class_metric)
            for name in metrics
        )
        if counted == "pixels":
            cells += _number_cell(100 * result.count / total)
        else:
            cells += f'<td class="number" data-value="{result.count}">{result.count}</td>'
        rows.append(_class_row(result, class_id(prefix, number), cells, failing.get(result.name, ())))
    return (
        f'<div class="scroll"><table class="classes sortable"><caption>Each class, in percent</caption>'
        f'<thead><tr>{head}<th scope="col" class="unsorted">{heads[-1]}</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _class_row(result: ClassResult, anchor: str, cells: str, failing: Iterable[tuple[str, str]]) -> str:
    links = ", ".join(f'<a href="#{image}">{escape(title)}</a>' for image, title in failing)
    name = f'<th scope="row" data-value="{escape(result.name)}">{swatch(result.color)} {escape(result.name)}</th>'
    return f'<tr id="{anchor}">{name}{cells}<td>{links}</td></tr>'


def _number_cell(value: float, *, bar: bool = False) -> str:
    number = "" if math.isnan(value) else f"{value:.6g}"
    drawn = f'<span class="bar" style="--share:{value:.1f}%"></span>' if bar and number else ""
    return f'<td class="number" data-value="{number}">{drawn}{percent(value)}</td>'


def confusions(confusion: np.ndarray, classes: Sequence[ClassResult]) -> str:
    """The pairs of classes between which most pixels go wrong, of a confusion matrix (K, K), as a list."""
    wrong = confusion * (1 - np.eye(len(classes), dtype=np.int64))
    total = confusion.sum()
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    items = []
    for truth, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[truth, predicted] == 0:
            break
        of_class = wrong[truth, predicted] / confusion[truth].sum()
        names = [f"{swatch(x.color)} {escape(x.name)}" for x in (classes[i] for i in (truth, predicted))]
        items.append(
            f"<li>{names[0]} taken for {names[1]}: {100 * of_class:.1f} % of the class, "
            f"{100 * wrong[truth, predicted] / total:.2f} % of all pixels</li>"
        )
    if not items:
        return "<p>No pixel is wrong.</p>"
    return f'<div class="confusions"><p>Most pixels go wrong here:</p><ul>{"".join(items)}</ul></div>'


def confusion_matrix(counts: np.ndarray, classes: Sequence[ClassResult]) -> str:
    """A confusion matrix (K, K) by row in percent; of many classes those with the most wrong pixels."""
    of_truth = counts.sum(1)
    wrong = of_truth + counts.sum(0) - 2 * counts.diagonal()
    chosen = np.sort(np.argsort(-wrong, kind="stable")[:MATRIX_CLASSES])
    names = [escape(classes[i].name) for i in chosen]
    swatches = [swatch(classes[i].color) for i in chosen]
    heads = "".join(
        f'<th scope="col" title="{name}"><span>{square} {escape(short(classes[i].name, 14))}</span></th>'
        for name, square, i in zip(names, swatches, chosen, strict=True)
    )
    rows = []
    for row, name, square in zip(chosen, names, swatches, strict=True):
        cells = "".join(
            _matrix_cell(int(counts[row, column]), int(of_truth[row]), name, other, right=row == column)
            for column, other in zip(chosen, names, strict=True)
        )
        rows.append(f'<tr><th scope="row">{square} {name}</th>{cells}</tr>')
    left_out = len(counts) - len(chosen)
    more = f" The {left_out} classes with the fewest wrong pixels are left out." if left_out else ""
    caption = f"Rows are the truth, columns the prediction, in percent of the row.{more}"
    return (
        f'<div><p class="readout" aria-hidden="true">{caption}</p>'
        f'<div class="scroll"><table class="confusion"><caption class="spoken">{caption}</caption>'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></div>"
    )


def _matrix_cell(count: int, of_truth: int, truth: str, predicted: str, *, right: bool) -> str:
    """One cell; `truth` and `predicted` are escaped names."""
    share = count / of_truth if of_truth else 0.0
    kind = " ".join(filter(None, ("right" if right else "", "strong" if share >= WHITE_FROM else "")))
    shown = f"{100 * share:.0f}" if share >= 0.005 else ""
    words = f"{truth} taken for {predicted}: {100 * share:.2f} %, {count:,} pixels"
    return f'<td class="{kind}" style="--share:{100 * share:.1f}%" title="{words}">{shown}</td>'
