"""Unchanged exports of label tools: `init-data` describes them, `check` finds no fault, labels are correct."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from semask_d2.__main__ import main
from semask_d2.config import get_cfg
from semask_d2.data.datasets.custom import CustomDataset
from semask_d2.data.labels import read_sample_labels
from tests.helpers import label_tools as tools

READ: dict[str, Callable[[Path], None]] = {
    "Roboflow, COCO": tools.roboflow_coco,
    "Roboflow, masks": tools.roboflow_masks,
    "labelme2voc": tools.labelme_voc,
    "labelme2voc of before": tools.labelme_voc_older,
    "labelme2coco": tools.labelme_coco,
    "CVAT, masks": tools.cvat_masks,
    "CVAT, COCO": tools.cvat_coco,
    "Label Studio, COCO": tools.label_studio_coco,
    "Label Studio, uploads": tools.label_studio_uploads,
    "Supervisely, masks": tools.supervisely_masks,
    "VIA, COCO": tools.via_coco,
}
CHOICES = {
    "labelme2voc": "SegmentationClassVisualization/*.jpg looks like JPEGImages/*.jpg with colors laid over it",
    "CVAT, masks": "SegmentationClass/*.png and SegmentationObject/*.png could both be the labels of the same images",
}
UNNAMED = ("Supervisely, masks",)  # names stand in its JSON files only


@pytest.mark.parametrize("tool", READ)
def test_an_export_is_read(tool: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    READ[tool](tmp_path / "export")
    file = tmp_path / "mine.yaml"
    words = ["init-data", str(tmp_path / "export"), "--output", str(file)]
    if tool in CHOICES:
        assert main(words) == 1
        message = capsys.readouterr().err
        assert CHOICES[tool] in message
        words += shlex.split(re.search("choose with (.*)", message)[1])  # the advice is followed
    assert main(words) == 0
    out = capsys.readouterr().out
    assert f"semask check {file}" in out
    assert main(["check", str(file), "--workers", "0"]) == 0
    assert " 0 fault(s)" in capsys.readouterr().out
    dataset = CustomDataset.from_section(get_cfg(data=file).DATASETS.CUSTOM)
    if tool not in UNNAMED:
        assert [name.strip("_") for name in dataset.classes.names] == ["background", "cat"]
    seen = set()
    for split in dataset.splits():
        for sample in dataset.load(split):
            name = Path(sample["file_name"]).name[0]
            expected = tools.ids(name)
            if tool == "labelme2coco" and name == "a":
                expected[:2, :2] = 255  # __ignore__
            np.testing.assert_array_equal(read_sample_labels(sample), expected)
            seen.add(name)
    assert seen == set(tools.SQUARES)


def test_a_split_of_each_folder(tmp_path: Path) -> None:
    tools.roboflow_coco(tmp_path / "export")
    assert main(["init-data", str(tmp_path / "export"), "--output", str(tmp_path / "mine.yaml")]) == 0
    content = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert content["train"] == {"images": "train/*.jpg", "labels": "train/_annotations.coco.json"}
    assert content["val"] == {"images": "valid/*.jpg", "labels": "valid/_annotations.coco.json"}


def brush(folder: Path) -> None:
    tools.save(folder / "task-1-annotation-1-by-1-tag-cat-0.png", tools.ids("a") * 255)


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "Label Studio, brush": (brush, "are Label Studio's brush masks, one per class and annotation; export the"),
    "Label Studio, JSON": (
        lambda folder: tools.write_json(folder / "project.json", [{"id": 1, "data": {"image": "/a.jpg"}}]),
        "project.json is a Label Studio export in its own JSON; export as COCO instead",
    ),
    "Supervisely, JSON": (
        lambda folder: tools.write_json(folder / "ann/a.jpg.json", tools.supervisely_annotation()),
        "a.jpg.json is a Supervisely annotation; export masks, or convert the project to COCO",
    ),
    "labelme": (
        lambda folder: tools.write_json(folder / "a.json", tools.labelme_annotation("a")),
        "a.json is a labelme file; convert the folder with labelme2coco",
    ),
    "VIA, project": (
        lambda folder: tools.write_json(folder / "via.json", {"_via_settings": {}, "_via_img_metadata": {}}),
        "via.json is a VGG Image Annotator project; export its annotations as COCO",
    ),
    "VIA, annotations": (
        lambda folder: tools.write_json(folder / "x.json", {"a.jpg9": {"filename": "a.jpg", "size": 9, "regions": []}}),
        "x.json is a VGG Image Annotator project; export its annotations as COCO",
    ),
    "CVAT, XML": (
        lambda folder: (folder / "annotations.xml").write_text("<annotations/>") and None,
        "annotations.xml is CVAT's own format; export as COCO 1.0 or Segmentation mask 1.1",
    ),
    "a broken JSON": (
        lambda folder: (folder / "labels.json").write_text("{") and None,
        "labels.json cannot be read as JSON",
    ),
}


@pytest.mark.parametrize("tool", REFUSED)
def test_other_exports_are_named_with_what_to_export(tool: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write, message = REFUSED[tool]
    tools.save(tmp_path / "export/a.jpg", tools.photograph("a"))
    write(tmp_path / "export")
    assert main(["init-data", str(tmp_path / "export"), "--output", str(tmp_path / "mine.yaml")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "mine.yaml").exists()
