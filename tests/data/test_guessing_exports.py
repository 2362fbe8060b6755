"""Exports of more tools are read, asked about, or refused with advice on what to export instead."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from semask_d2.__main__ import main
from tests.helpers.folders import follow
from tests.helpers.label_tools import COLORS, SQUARES, ids, photograph, save, write_json


def superannotate(folder: Path) -> None:
    """Write SuperAnnotate's export: colors, overlays and a JSON file per image, named by the image's full name."""
    for name in SQUARES:
        save(folder / f"{name}.jpg", photograph(name))
        save(folder / f"{name}.jpg___save.png", COLORS[ids(name)])
        over = (photograph(name) * 0.5 + COLORS[ids(name)] * 0.5).astype(np.uint8)
        save(folder / f"{name}.jpg___fuse.png", over)
        write_json(folder / f"{name}.jpg___pixel.json", {"metadata": {}, "instances": []})


def labelme_folders(folder: Path) -> None:
    """Write the output of labelme's labelme_json_to_dataset: a folder for each image."""
    for name in SQUARES:
        save(folder / f"{name}_json/img.png", photograph(name))
        save(folder / f"{name}_json/label.png", ids(name), palette=True)
        (folder / f"{name}_json/label_names.txt").write_text("_background_\ncat\n")


def brushes(folder: Path) -> None:
    """Write Label Studio's brush masks, one class each."""
    for number, name in enumerate(SQUARES):
        save(folder / f"images/{name}.jpg", photograph(name))
        save(folder / f"masks/task-{number}-annotation-{number}-by-1-tag-cat-0.png", ids(name) * 255)


def other(name: str, content: str) -> Callable[[Path], None]:
    """Return a function that writes images and one file of a tool."""

    def write(folder: Path) -> None:
        for picture in SQUARES:
            save(folder / f"images/{picture}.jpg", photograph(picture))
        (folder / name).write_text(content)

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (labelme_folders, "come from labelme_json_to_dataset; convert the JSON files with labelme2voc.py"),
        (brushes, "are Label Studio's brush masks, one per class"),
        (other("a.xml", "<annotation/>"), "a.xml is XML of Pascal VOC or labelme; export as COCO"),
        (other("annotations.xml", "<annotations/>"), "annotations.xml is CVAT's own format"),
        (other("via_export_csv.csv", "filename\n"), "via_export_csv.csv is a VGG Image Annotator export"),
        (other("a.ndjson", "{}\n"), "a.ndjson is a Labelbox export"),
        (other("a.npy", ""), "a.npy is an array; write label maps as PNG"),
        (other("a.nii.gz", ""), "a.nii.gz is a medical volume; write its slices"),
        (other("data.yaml", "nc: 1\n"), "data.yaml is a YOLO dataset"),
        (other("a.json", '{"schema_ref": "", "item": {}}'), "a.json is a V7 Darwin annotation"),
        (other("a.json", '{"items": [], "categories": {}}'), "a.json is a Datumaro file"),
        (other("a.json", '{"metadata": {}, "instances": []}'), "a.json is a SuperAnnotate annotation"),
    ],
)
def test_exports_without_label_maps_are_named(
    write: Callable[[Path], None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write(tmp_path / "data")
    assert main(["init-data", str(tmp_path / "data"), "--output", str(tmp_path / "new.yaml")]) == 1
    assert message in capsys.readouterr().err


def test_overlays_beside_images_of_whole_names_are_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    superannotate(tmp_path / "data")
    assert main(["init-data", str(tmp_path / "data"), "--output", str(tmp_path / "new.yaml")]) == 1
    message = capsys.readouterr().err
    assert "(*___fuse.png looks like *.jpg with colors laid over it)" in message
    words = shlex.split(message.partition("choose with ")[2])
    assert words == ["--images", "*.jpg"]
    content = follow(tmp_path / "data", tmp_path, words)
    assert content["train"] == {"images": "*.jpg", "labels": "*___save.png"}


def test_advice_works_for_names_that_begin_with_a_dash(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in SQUARES:
        save(tmp_path / f"-data/images/{name}.jpg", photograph(name))
        for folder in ("-one", "-two"):
            save(tmp_path / f"-data/{folder}/{name}.png", ids(name))
    assert main(["init-data", "./-data"]) == 1
    words = shlex.split(capsys.readouterr().err.partition("choose with ")[2])
    assert main(["init-data", "./-data", *words]) == 0
    (advice,) = re.findall("then run semask (check .*)", capsys.readouterr().out)
    assert main([*shlex.split(advice), "--workers", "0"]) == 0


@pytest.mark.parametrize("folder", ["data", "./data", "data/", "link", "other/../data"])
@pytest.mark.parametrize("labels", ["masks/*.png", "masks", ""])
def test_folders_may_be_named_from_here(
    folder: str, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("data")
    for name, split in (("a", "train"), ("b", "val")):
        save(tmp_path / f"data/images/{name}.jpg", photograph(name))
        save(tmp_path / (f"data/masks/{name}.png" if labels else f"data/masks/{split}/{name}.png"), ids(name))
    words = ["--labels", labels] if labels else []
    assert main(["init-data", folder, "--output", "new.yaml", *words]) == 0
    assert main(["check", "new.yaml", "--workers", "0"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels", "../out/*.png"], "--labels ../out/*.png: not inside"),
        (["--labels", "../labels.json"], "--labels ../labels.json: not inside"),
        (["--images", "{tmp_path}/out"], "out: not inside"),
        (["--images", "masks", "--labels", "images"], "colors, like photographs"),
    ],
)
def test_options_that_cannot_be_meant(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in SQUARES:
        save(tmp_path / f"data/images/{name}.png", photograph(name))
        save(tmp_path / f"data/masks/{name}.png", ids(name))
        save(tmp_path / f"out/{name}.png", ids(name))
    words = [word.format(tmp_path=tmp_path) for word in words]
    assert main(["init-data", str(tmp_path / "data"), "--output", str(tmp_path / "new.yaml"), *words]) == 1
    assert message in capsys.readouterr().err


def test_one_label_file_is_one(tmp_path: Path) -> None:
    for name in SQUARES:
        save(tmp_path / f"data/images/{name}.png", photograph(name))
        save(tmp_path / f"data/masks/{name}.png", ids(name))
    words = ["--labels", "masks/a.png", "--images", "images/a.png"]
    assert follow(tmp_path / "data", tmp_path, words)["train"] == {"images": "images/a.png", "labels": "masks/a.png"}


@pytest.mark.parametrize("has_classes", [False, True])
def test_maps_of_segments_are_no_label_maps(has_classes: bool, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The colors of panoptic maps are ids of segments, which differ from image to image."""
    annotations = []
    for number, name in enumerate(SQUARES, start=1):
        save(tmp_path / f"data/images/{name}.jpg", photograph(name))
        save(tmp_path / f"data/panoptic/{name}.png", ids(name)[:, :, None] * np.array([number, 0, 0], np.uint8))
        annotations.append({"image_id": number, "file_name": f"{name}.png", "segments_info": [{"id": number}]})
        if has_classes:
            save(tmp_path / f"data/classes/{name}.png", ids(name))
    content = {"images": [], "annotations": annotations, "categories": []}
    write_json(tmp_path / "data/panoptic.json", content)
    code = main(["init-data", str(tmp_path / "data"), "--output", str(tmp_path / "new.yaml")])
    out, err = capsys.readouterr()
    assert code == (not has_classes), err
    if has_classes:
        assert 'labels: "classes/*.png"' in (tmp_path / "new.yaml").read_text()
        assert "left out: panoptic/*.png, whose colors are segments of a panoptic file" in out
    else:
        assert "panoptic.json is a panoptic file, whose maps hold segment ids; write class maps" in err


def test_ids_written_as_floats_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in SQUARES:
        save(tmp_path / f"data/images/{name}.jpg", photograph(name))
        save(tmp_path / f"data/masks/{name}.tif", ids(name).astype(np.float32))
    assert main(["init-data", str(tmp_path / "data"), "--output", str(tmp_path / "new.yaml")]) == 1
    assert "masks/*.tif hold ids as floats; save them as integers" in capsys.readouterr().err
    (tmp_path / "mine.yaml").write_text("train: {images: data/images, labels: data/masks}\nnames: [a, b]\n")
    assert main(["check", str(tmp_path / "mine.yaml"), "--workers", "0"]) == 1
    out, err = capsys.readouterr()
    assert "a.tif holds floats, but a label file holds one class id" in out
    assert err.endswith("listed above; fix them\n")  # there is no good pair for --list


@pytest.mark.parametrize("place", ["masks/{name}_{kind}.png", "masks/{kind}/{name}.png"])
def test_a_mask_for_each_class_is_named(place: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in SQUARES:
        save(tmp_path / f"data/images/{name}.jpg", photograph(name))
        for kind in ("cat", "dog"):
            save(tmp_path / "data" / place.format(name=name, kind=kind), ids(name) * 255)
    assert main(["init-data", str(tmp_path / "data"), "--output", str(tmp_path / "new.yaml")]) == 1
    assert "(each holds two values: if each is for one class, first merge them" in capsys.readouterr().err


def test_camvids_table_names_the_classes(tmp_path: Path) -> None:
    for name in SQUARES:
        save(tmp_path / f"data/default/{name}.jpg", photograph(name))
        save(tmp_path / f"data/defaultannot/{name}.png", COLORS[ids(name)])
    (tmp_path / "data/label_colors.txt").write_text("0 0 0 background\n250 50 83 big cat\n")
    content = follow(tmp_path / "data", tmp_path, [])
    assert content["names"] == {0: "background", 1: "big cat"}
    assert content["rgb"] == {"#000000": 0, "#fa3253": 1}
