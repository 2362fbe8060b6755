"""Results of an evaluation as HTML: metric tiles, the table of classes, the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from semask_d2.evaluation.results import ClassResult, Evaluation
from semask_d2.utils.pages import render
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
CLASS_METRICS = ("IoU-", "ACC-", "BoundaryIoU-", "TrimapIoU-", "PQ-", "AP-")  # prefixes; shown in the class table
MATRIX_CLASSES = 30  # a larger matrix is unreadable
CONFUSIONS = 8  # number of listed pairs of classes
WHITE_FROM = 0.55  # share above which the text of a cell is white


def percent(value: float) -> str:
    """Return a percentage with two decimals, or a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.2f}"


def tiles(evaluation: Evaluation) -> Markup:
    """Return the metrics of the whole dataset, the main one first."""
    known = [name for name in TITLES if name in evaluation.metrics]
    others = [name for name in evaluation.metrics if name not in TITLES and not name.startswith(CLASS_METRICS)]
    metrics = [
        (TITLES.get(name, name.replace("_", " ")), percent(evaluation.metrics[name])) for name in (*known, *others)
    ]
    return render("report/assets/tiles.html", metrics=metrics, image_count=evaluation.image_count)


def class_id(prefix: str, number: int) -> str:
    """Return the anchor of a class's row."""
    return f"{prefix}-class-{number}"


def class_table(evaluation: Evaluation, prefix: str, failing: Mapping[str, Iterable[tuple[str, str]]]) -> Markup:
    """Return a table with a row per class; `failing` maps class names to (anchor, title) of images that fail them."""
    metrics = list(dict.fromkeys(name for result in evaluation.class_results for name in result.metrics))
    counted, bar_metric = evaluation.task.counted, evaluation.task.class_metric
    total = max(1, sum(result.count for result in evaluation.class_results))
    rows = []
    for number, result in enumerate(evaluation.class_results):
        cells = [_number_cell(result.metrics.get(name, math.nan), bar=name == bar_metric) for name in metrics]
        if counted == "pixels":  # shown as a share: their number is too large to read
            cells.append(_number_cell(100 * result.count / total))
        else:
            cells.append({"value": result.count, "text": result.count, "share": None})
        rows.append(
            {
                "anchor": class_id(prefix, number),
                "name": result.name,
                "color": result.color,
                "cells": cells,
                "failing": failing.get(result.name, ()),
            }
        )
    amount = "pixels, %" if counted == "pixels" else counted
    heads = ["class", *(name.replace("_", " ") for name in metrics), amount]
    return render("report/assets/class_table.html", heads=heads, rows=rows)


def _number_cell(value: float, *, bar: bool = False) -> dict[str, Any]:
    """Return a cell with a percentage: its text, the value to sort by, and the length of its bar."""
    number = "" if math.isnan(value) else f"{value:.6g}"
    return {"value": number, "text": percent(value), "share": f"{value:.1f}" if bar and number else None}


def confusions(confusion: np.ndarray, classes: Sequence[ClassResult]) -> Markup:
    """Return a list of the most frequent confusions in a confusion matrix (K, K)."""
    wrong = confusion * (1 - np.eye(len(classes), dtype=np.int64))
    total = confusion.sum()
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    pairs = []
    for truth, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[truth, predicted] == 0:
            break
        pairs.append(
            {
                "truth": classes[truth],
                "predicted": classes[predicted],
                "class_share": 100 * wrong[truth, predicted] / confusion[truth].sum(),
                "total_share": 100 * wrong[truth, predicted] / total,
            }
        )
    return render("report/assets/confusions.html", pairs=pairs)


def confusion_matrix(counts: np.ndarray, classes: Sequence[ClassResult]) -> Markup:
    """Return a confusion matrix (K, K) in percent of each row; of many classes, those with the most wrong pixels."""
    true_counts = counts.sum(1)
    wrong = true_counts + counts.sum(0) - 2 * counts.diagonal()
    chosen = np.sort(np.argsort(-wrong, kind="stable")[:MATRIX_CLASSES])
    heads = [{"name": classes[i].name, "short": short(classes[i].name, 14), "color": classes[i].color} for i in chosen]
    rows = [
        (
            head,
            [
                _matrix_cell(int(counts[i, j]), int(true_counts[i]), classes[i].name, classes[j].name, right=i == j)
                for j in chosen
            ],
        )
        for head, i in zip(heads, chosen, strict=True)
    ]
    return render("report/assets/confusion_matrix.html", classes=heads, rows=rows, left_out=len(counts) - len(chosen))


def _matrix_cell(count: int, true_count: int, truth: str, predicted: str, *, right: bool) -> dict[str, str]:
    share = count / true_count if true_count else 0.0
    return {
        "css_class": " ".join(filter(None, ("right" if right else "", "strong" if share >= WHITE_FROM else ""))),
        "share": f"{100 * share:.1f}",
        "words": f"{truth} predicted as {predicted}: {100 * share:.2f} %, {count:,} pixels",
        "text": f"{100 * share:.0f}" if share >= 0.005 else "",
    }
