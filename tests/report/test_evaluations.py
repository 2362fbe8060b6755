"""Evaluation results, read back from their files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semask_d2.evaluation.result_files import read_evaluation, read_evaluations
from semask_d2.report.choice import choose_images
from semask_d2.utils.errors import UserError
from tests.report.conftest import make_evaluation, make_image, make_panoptic_evaluation

CONFUSION = np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]])


def test_values_come_back_and_null_is_nan(tmp_path: Path) -> None:
    evaluation = make_evaluation(tmp_path, CONFUSION, ["a", "b", "c"], [make_image("x.jpg", math.nan, a=50.0)])
    assert [result.name for result in evaluation.class_results] == ["a", "b", "c"]
    assert evaluation.class_score(evaluation.class_results[0]) == pytest.approx(800 / 11)
    assert math.isnan(evaluation.class_score(evaluation.class_results[2]))
    assert evaluation.class_results[1].color == (20, 0, 0)
    assert (evaluation.confusion == CONFUSION).all()
    assert (evaluation.image_count, evaluation.model.iteration, evaluation.classes.ignore_label) == (1, 99, 255)
    assert math.isnan(evaluation.image_score(evaluation.images[0]))
    assert evaluation.images[0].classes == {"a": 50.0}


def test_a_run_without_an_evaluation_is_told_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no evaluation there .* run semask eval --weights"):
        read_evaluations(tmp_path)


def damage(content: Any) -> dict[str, Callable[[], Any]]:
    return {
        "confusion": lambda: content.update(confusion=[[1]]),
        "classes": lambda: content.pop("classes"),
        "color": lambda: content["classes"][0].update(color="red"),
        "metrics": lambda: content.update(metrics={"mIoU": "high"}),
        "images": lambda: content.update(images=[]),
    }


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("confusion", r"confusion: expected a list of 3 values, got \[\[1\]\]"),
        ("classes", "classes is missing"),
        ("color", "classes: color: expected a list of 3 values, got 'red'"),
        ("metrics", "metrics: mIoU: expected a finite number, got 'high'"),
        ("images", r"images: expected a whole number of at least 0, got \[\]"),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path: Path, what: str, words: str) -> None:
    make_evaluation(tmp_path, CONFUSION, ["a", "b", "c"])
    path = tmp_path / "inference/made_up/metrics.json"
    content = json.loads(path.read_text())
    damage(content)[what]()
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"metrics.json: not a valid file of an evaluation .*{words}.*evaluate again"):
        read_evaluation(path.parent)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[1]", '[{"file_name": "a"}]'])
def test_a_damaged_file_of_images_is_named(tmp_path: Path, text: str) -> None:
    make_evaluation(tmp_path, CONFUSION, ["a", "b", "c"])
    (tmp_path / "inference/made_up/images.json").write_text(text)
    with pytest.raises(UserError, match=r"images\.json: not a valid file of an evaluation"):
        read_evaluations(tmp_path)


def test_images_of_each_kind_are_chosen_and_none_twice(tmp_path: Path) -> None:
    images = [make_image(f"{i}.jpg", 10.0 * i, a=90.0, b=60.0) for i in range(8)]
    images[3]["classes"] = {"a": 40.0, "b": 10.0}
    images[4]["classes"] = {"a": 90.0, "b": 20.0}
    images[7]["classes"] = {"a": 20.0, "b": 70.0}
    images.append(make_image("ignored.jpg", math.nan))
    evaluation = make_evaluation(tmp_path, CONFUSION, ["a", "b", "c"], images)
    chosen = {title: [x.file_name for x in group] for title, group in choose_images(evaluation, 2).items()}
    # image 3 is the worst for class b; the worst for class a is 7, which is already among the best images
    assert chosen == {
        "Worst images": ["0.jpg", "1.jpg"],
        "Worst for a class": ["3.jpg"],
        "Best images": ["7.jpg", "6.jpg"],
    }
    assert choose_images(evaluation, 0) == {}
    everything = choose_images(evaluation, 100)
    assert sorted(x.file_name for group in everything.values() for x in group) == [f"{i}.jpg" for i in range(8)]


def test_segments_rank_images_by_their_quality(tmp_path: Path) -> None:
    images = [
        {
            "file_name": f"{i}.jpg",
            "pan_seg_file_name": f"{i}.png",
            "PQ": quality,
            "matched": 3,
            "classes": {"ball": quality},
        }
        for i, quality in enumerate((70.0, None, 10.0, 90.0))
    ]
    evaluation = make_panoptic_evaluation(tmp_path, images)
    assert evaluation.confusion is None
    assert [x.file_name for x in evaluation.worst_images(9)] == ["2.jpg", "0.jpg", "3.jpg"]
    assert evaluation.images[0].metrics == {"PQ": 70, "matched": 3}
    chosen = {title: [x.file_name for x in group] for title, group in choose_images(evaluation, 1).items()}
    assert chosen == {"Worst images": ["2.jpg"], "Best images": ["3.jpg"]}
    for entry in images:
        del entry["PQ"]
    with pytest.raises(
        UserError, match=r"images\.json: not a valid file of an evaluation \(images.json: PQ is missing\)"
    ):
        make_panoptic_evaluation(tmp_path, images)


def test_an_unknown_task_is_named(tmp_path: Path) -> None:
    make_panoptic_evaluation(tmp_path, [])
    path = tmp_path / "inference/made_up/metrics.json"
    path.write_text(path.read_text().replace("panoptic", "depth"))
    with pytest.raises(
        UserError,
        match=r"metrics\.json: not a valid file of an evaluation \(metrics.json: task: expected .*, got 'depth'\)",
    ):
        read_evaluation(path.parent)
