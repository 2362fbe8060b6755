"""Segments in numbers and colors that say which are one, and a page of them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semask_d2 import Predictor, get_cfg
from semask_d2.d2 import DatasetCatalog, MetadataCatalog, build_model
from semask_d2.data import get_dataset_dicts
from semask_d2.data.datasets import toy_painter
from semask_d2.data.labels import CocoLabels, CocoSegment, LabelFormat
from semask_d2.data.segments import read_true_segments
from semask_d2.evaluation import InstanceEvaluator, PanopticEvaluator
from semask_d2.inference.prediction import PanopticSegments, PredictedInstances, Prediction
from semask_d2.report import examples, write_report
from semask_d2.report.examples import IGNORED, NO_SEGMENT, numbered_alike, segment_example
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from tests.helpers.commands import ROOT, TINY
from tests.report.conftest import make_evaluation, make_image
from tests.report.test_page import Page

CLASSES = Classes(("sky", "ball", "cat"), ((0, 0, 9), (9, 0, 0), (0, 9, 0)))


def test_what_is_one_has_one_number_and_stuff_its_class() -> None:
    true = np.array([[5, 5, 6, 6], [7, 7, 7, 0], [8, 8, 9, 9]])
    truth = [
        {"id": 5, "category_id": 1, "iscrowd": 0},
        {"id": 6, "category_id": 1, "iscrowd": 0},
        {"id": 7, "category_id": 0, "iscrowd": 0},
        {"id": 8, "category_id": 1, "iscrowd": 1},
        {"id": 9, "category_id": 2, "iscrowd": 0},
    ]
    predicted = np.array([[1, 1, 2, 3], [4, 4, 4, 4], [1, 0, 3, 3]])
    found = [(1, 1, True), (2, 2, True), (3, 2, True), (4, 0, False)]
    classes = replace(CLASSES, things=frozenset({1, 2}))
    ours, theirs, style = numbered_alike((predicted, found), (true, truth), classes, void=IGNORED)
    # 1 is ball 5 (IoU 2/3); of the cats 3 is 9 (2/3), and 2 is none
    assert theirs.tolist() == [[3, 3, 4, 4], [0, 0, 0, IGNORED], [IGNORED, IGNORED, 5, 5]]
    assert ours.tolist() == [[3, 3, 6, 5], [0, 0, 0, 0], [3, NO_SEGMENT, 5, 5]]
    assert style.names == ("sky", "ball", "cat", "ball 1", "ball 2", "cat 1", "cat 2")
    assert style.colors[:3] == CLASSES.colors
    assert len(set(style.colors)) == 7


def test_without_a_thing_the_classes_are_all_there_is() -> None:
    nothing = np.zeros((2, 2), np.int64)
    classes = replace(CLASSES, things=frozenset({1}))
    ours, theirs, style = numbered_alike((nothing, []), (nothing, []), classes, void=NO_SEGMENT)
    assert {*np.unique(ours), *np.unique(theirs)} == {NO_SEGMENT}
    assert style.names == CLASSES.names


def task_predictor(task: str) -> Predictor:
    """A tiny model of random weights for a task of toy_scenes."""
    cfg = get_cfg(ROOT / f"configs/toy_scenes_{task}/semask_swin_mini_msfapn_m2f.yaml", list(TINY))
    return Predictor.of_model(cfg, build_model(cfg).eval())


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_a_perfect_prediction_is_the_truth(toy_data: Path, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = f"toy_scenes_{task}_val"
    predictor = task_predictor(task)
    drawn = 0
    for sample in get_dataset_dicts(dataset):
        ids, truth = read_true_segments(sample)
        if task == "panoptic":
            info = [{**x, "isthing": x["category_id"] in toy_painter.THINGS, "score": 1.0} for x in truth]
            prediction = Prediction(ids, segments=PanopticSegments(ids.astype(np.int32), info))
        else:
            masks = np.array([ids == x["id"] for x in truth], bool).reshape(-1, *ids.shape)
            classes = np.array([x["category_id"] for x in truth], int)
            found = PredictedInstances(masks, np.zeros((len(truth), 4)), classes, np.linspace(0.9, 0.6, len(truth)))
            prediction = Prediction(ids, instances=found)
        monkeypatch.setattr(Predictor, "__call__", lambda *_, found=prediction, **__: found)
        example, style = segment_example(sample, dataset, task, predictor)
        assert example.truth is not None
        known = example.truth != IGNORED
        np.testing.assert_array_equal(example.labels[known], example.truth[known])
        assert (example.labels[~known] == NO_SEGMENT).all()
        drawn += len(style.names) - len(predictor.classes)
    assert drawn > 5


@pytest.fixture
def segment_run(toy_data: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A run folder with an evaluation of random weights."""
    task = request.param
    predictor = task_predictor(task)
    dataset = f"toy_scenes_{task}_val"
    evaluator = (PanopticEvaluator if task == "panoptic" else InstanceEvaluator)(
        dataset, output_dir=tmp_path / "inference"
    )
    for sample in get_dataset_dicts(dataset):
        inputs = predictor.prepare(predictor.read_image(sample["file_name"])) | {"file_name": sample["file_name"]}
        with torch.inference_mode():
            evaluator.process([inputs], predictor.model([inputs]))
    evaluator.evaluate()
    (tmp_path / "config.yaml").write_text(predictor.cfg.dump())
    return tmp_path


@pytest.mark.parametrize("segment_run", ["panoptic", "instance"], indirect=True)
def test_the_page_of_segments(segment_run: Path) -> None:
    task = re.search("_(panoptic|instance)_", next((segment_run / "inference").iterdir()).name)[1]
    predictor = task_predictor(task)
    text = write_report(segment_run, images=1, predictor=predictor).read_text(encoding="utf-8")
    parsed = Page(text)
    shown = "".join(parsed.text)
    assert "Confusion" not in shown
    metric, words = {"panoptic": ("PQ", "segments: "), "instance": ("AP", "AP75 ")}[task]
    assert f"{metric} " in "".join(re.findall("<header>.*?</header>", text, re.DOTALL))
    cards = text.count('<article id="d0-image-')
    assert cards >= 2
    assert len(parsed.values("alt")) == 7 * cards  # truth, prediction, error, four maps
    assert words in shown
    assert "An object has one color in ground truth and prediction" in shown
    entries = json.loads(next((segment_run / "inference").glob("*/images.json")).read_text())
    worst = min((x for x in entries if x[metric] is not None), key=lambda x: (x[metric], x["file_name"]))
    assert "<h4>Worst images</h4>\n<article" in text
    assert Path(worst["file_name"]).name in text


@pytest.mark.parametrize("segment_run", ["panoptic"], indirect=True)
def test_what_the_page_cannot_show_is_a_line_in_it(segment_run: Path) -> None:
    predictor = task_predictor("panoptic")
    predictor.model.panoptic_on, predictor.model.semantic_on = False, True
    text = write_report(segment_run, images=1, predictor=predictor).read_text(encoding="utf-8")
    assert "the model finds no segments: set MODEL.MASK_FORMER.TEST.PANOPTIC_ON True" in text
    folder = segment_run / "inference/toy_scenes_panoptic_val"
    images = json.loads((folder / "images.json").read_text())
    for image in images:
        image["file_name"] = "elsewhere.jpg"
    (folder / "images.json").write_text(json.dumps(images))
    text = write_report(segment_run, images=1, predictor=predictor).read_text(encoding="utf-8")
    assert "elsewhere.jpg is no image of toy_scenes_panoptic_val; evaluate again" in text
    shutil.move(folder / "metrics.json", folder / "x.json")
    content = (folder / "x.json").read_text().replace("toy_scenes_panoptic_val", "toy_scenes_gone")
    (folder / "metrics.json").write_text(content)
    text = write_report(segment_run, images=1, predictor=predictor).read_text(encoding="utf-8")
    assert "No images: data set &#34;toy_scenes_gone&#34;" in text


@pytest.fixture
def labels_of_coco(tmp_path: Path):
    """The name of a data set of one gray image, whose labels a COCO file has: the left half is of class 2."""
    box = [[0, 0, 8, 0, 8, 16, 0, 16]]
    sample = {
        "file_name": str(tmp_path / "gray.png"),
        "sem_seg_file_name": str(tmp_path / "labels.json"),
        "coco_labels": CocoLabels("labels.json", 16, 16, 255, (CocoSegment(1, 2, box),)),
    }
    Image.new("RGB", (16, 16), (90, 90, 90)).save(sample["file_name"])
    DatasetCatalog.register("made_up", lambda: [sample])
    MetadataCatalog.get("made_up")
    yield sample
    DatasetCatalog.remove("made_up")
    MetadataCatalog.remove("made_up")


def test_true_labels_are_read_as_the_data_set_has_them(labels_of_coco: dict, tmp_path: Path) -> None:
    predictor = task_predictor("panoptic")
    predictor.label_format = LabelFormat(id_map=((7, 0), (9, 1)))
    Image.fromarray(np.array([[7, 9]], np.uint8).repeat(16, 0).repeat(8, 1)).save(tmp_path / "labels.png")
    left = np.arange(16) < 8
    for ending, row in ((".json", np.where(left, 2, 255)), (".png", np.where(left, 0, 1))):
        image = make_image(labels_of_coco["file_name"], 50.0)
        image["sem_seg_file_name"] = str(tmp_path / f"labels{ending}")
        evaluation = make_evaluation(tmp_path, np.eye(3, dtype=int), ["a", "b", "c"], [image])
        example, style = examples.example_maker(evaluation, predictor)(evaluation.images[0])
        np.testing.assert_array_equal(example.truth, np.tile(row, (16, 1)))
        assert style.names == ("a", "b", "c")


def test_a_prediction_of_another_task_is_refused() -> None:
    prediction = Prediction(np.zeros((2, 2), int))
    with pytest.raises(UserError, match=r"set MODEL\.MASK_FORMER\.TEST\.INSTANCE_ON True"):
        examples.shown_segments(prediction, "instance")
