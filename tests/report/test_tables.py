"""Tables of a report, compared with the confusion matrix they come from."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import numpy as np

from semask_d2.evaluation.results import ClassResult, Evaluation
from semask_d2.report.tables import MATRIX_CLASSES, class_table, confusion_matrix, confusions, tiles
from tests.report.conftest import make_evaluation, make_panoptic_evaluation


def cells(html: str) -> list[str]:
    return [unescape(words) for words in re.findall(r'<td class="[^"]*" style="[^"]*" title="([^"]*)"', html)]


def confusion_and_classes(evaluation: Evaluation) -> tuple[np.ndarray, list[ClassResult]]:
    assert evaluation.confusion is not None
    return evaluation.confusion, evaluation.class_results


def test_the_matrix_shows_each_cell_in_percent_of_its_row(tmp_path: Path) -> None:
    confusion = np.array([[8, 2, 0], [1, 3, 0], [0, 0, 0]])
    names = ["a", "b & b", "c"]
    expected = []
    for i, truth in enumerate(names):
        for j, predicted in enumerate(names):
            share = 100 * confusion[i, j] / confusion[i].sum() if confusion[i].sum() else 0
            expected.append(f"{truth} predicted as {predicted}: {share:.2f} %, {confusion[i, j]} pixels")
    assert cells(confusion_matrix(*confusion_and_classes(make_evaluation(tmp_path, confusion, names)))) == expected


def test_of_many_classes_the_matrix_has_those_with_the_most_wrong_pixels(tmp_path: Path) -> None:
    count = MATRIX_CLASSES + 10
    confusion = 100 * np.eye(count, dtype=int)
    confusion[35, 2] = confusion[38, 37] = 5
    names = [f"class {i}" for i in range(count)]
    html = confusion_matrix(*confusion_and_classes(make_evaluation(tmp_path, confusion, names)))
    assert len(cells(html)) == MATRIX_CLASSES**2
    shown = set(re.findall(r'<th scope="col" title="class (\d+)"', html))
    assert shown == {"2", "35", "37", "38", *map(str, [i for i in range(28) if i != 2][:26])}
    assert "The 10 classes with the fewest wrong pixels are left out." in html


def test_confusions_are_the_largest_wrong_entries(tmp_path: Path) -> None:
    confusion = np.array([[50, 10, 0], [30, 10, 0], [0, 0, 0]])
    items = re.findall(
        r"<li>(.*?)</li>", confusions(*confusion_and_classes(make_evaluation(tmp_path, confusion, ["a", "b", "c"])))
    )
    texts = [" ".join(re.sub(r"<[^>]*>", "", item).split()) for item in items]
    assert texts == [
        "b predicted as a: 75.0 % of the class, 30.00 % of all pixels",
        "a predicted as b: 16.7 % of the class, 10.00 % of all pixels",
    ]
    assert "No pixel is wrong" in confusions(
        *confusion_and_classes(make_evaluation(tmp_path, 3 * np.eye(2, dtype=int), ["a", "b"]))
    )


def test_tiles_show_the_metrics_of_the_whole_dataset(tmp_path: Path) -> None:
    html = tiles(make_evaluation(tmp_path, np.array([[3, 1], [0, 4]]), ["a", "b"]))
    assert re.findall(r"<dt>([^<]*)</dt><dd>([\d.]*)", html) == [("mean IoU", "77.50"), ("images", "0")]


def test_a_class_that_the_truth_lacks_has_a_dash_and_sorts_by_no_value(tmp_path: Path) -> None:
    evaluation = make_evaluation(tmp_path, np.array([[3, 0], [0, 0]]), ["a", "b"])
    rows = class_table(evaluation, "d0", {"a": [("d0-image-1", "x 3 %")]}).split("<tr ")[1:]
    assert '<a href="#d0-image-1">x 3 %</a>' in rows[0]
    assert 'data-value="100"' in rows[0]
    assert '<td class="number" data-value="">–</td>' in rows[1]


def test_segments_are_counted_and_their_qualities_named(tmp_path: Path) -> None:
    evaluation = make_panoptic_evaluation(tmp_path, [])
    shown = re.findall(r"<dt>([^<]*)</dt><dd>([\d.]*)", tiles(evaluation))
    assert shown == [("panoptic quality (PQ)", "40.00"), ("PQ of things", "40.00"), ("images", "0")]
    rows = class_table(evaluation, "d0", {}).split("<tr ")[1:]
    assert re.findall(r'data-value="([^"]*)"', rows[0]) == ["ball", "40", "80", "50", "7"]
    assert 'style="--share:40.0%"' in rows[0]  # only PQ has a bar
    assert rows[0].count('class="bar"') == 1
    assert re.findall(r'data-value="([^"]*)"', rows[1]) == ["sky", "", "", "", "0"]
