"""Foreign COCO files: the check reports contradictions with their ids; labels are painted correctly or refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semask_d2 import get_cfg
from semask_d2.__main__ import main
from semask_d2.data.datasets.coco_files import read_coco
from semask_d2.data.datasets.custom import CustomDataset
from semask_d2.data.labels import read_sample_labels
from semask_d2.utils.errors import UserError

SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]
OTHER = [[40, 5, 50, 5, 50, 15, 40, 15]]
NAN = float("nan")


def write(
    folder: Path,
    images: Iterable[dict],
    annotations: Iterable[dict],
    *,
    files: Iterable[str] = (),
    categories: list[dict] | None = None,
    names: str = "[background, thing]",
) -> Path:
    """Write images of 60 x 40, `labels.json` and the dataset's file; annotations are squares of the class "thing"."""
    images = list(images)
    for name in files or {x["file_name"] for x in images}:
        path = folder / "img" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(list(name.encode())).integers(0, 256, (40, 60, 3))
        Image.fromarray(noise.astype(np.uint8)).save(path)
    content = {
        "images": [{"height": 40, "width": 60, **x} for x in images],
        "annotations": [
            {
                "id": i,
                "category_id": 1,
                "segmentation": SQUARE,
                "area": 400,
                "bbox": [10, 10, 20, 20],
                "iscrowd": 0,
                **x,
            }
            for i, x in enumerate(annotations, 1)
        ],
        "categories": categories or [{"id": 1, "name": "thing"}],
    }
    (folder / "labels.json").write_text(json.dumps(content))
    file = folder / "mine.yaml"
    file.write_text(f"train: {{images: img, labels: labels.json}}\nnames: {names}\n")
    return file


def checked(file: Path, capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str]:
    code = main(["check", str(file), "--workers", "0", *words])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out


def painted(file: Path) -> dict[str, dict[int, int]]:
    """Return the pixel count of each id in each image, as training reads them."""
    dataset = CustomDataset.from_section(get_cfg(data=file).DATASETS.CUSTOM)
    counts = {}
    for x in dataset.load("train"):
        ids, pixels = np.unique(read_sample_labels(x), return_counts=True)
        counts[x["file_name"].split("/img/")[1]] = dict(zip(ids.tolist(), pixels.tolist(), strict=True))
    return counts


A, B = {"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}
PIXELS = 40 * 60


@pytest.mark.parametrize(
    ("annotation", "message", "kind"),
    [
        ({"segmentation": [SQUARE[0][:7]]}, "annotation 2 (b.png): a polygon has 7 coordinates", "FAULT"),
        ({"segmentation": [[10, 10, NAN, 10, 30, 30]]}, "annotation 2 (b.png): a polygon has a coordinate", "FAULT"),
        ({"segmentation": [[0, 0, 1e18, 1e18, -1e18, 5]]}, "annotation 2 (b.png): a polygon has x = ", "FAULT"),
        ({"segmentation": [[0.1, 0.1, 0.5, 0.1, 0.5, 0.9]]}, "annotation 2 (b.png): its coordinates lie", "FAULT"),
        ({"segmentation": [[90, 9, 99, 9, 99, 20]]}, "annotation 2 (b.png): all of it lies outside", "FAULT"),
        ({"segmentation": [[-9, 9, -1, 9, -1, 20]]}, "annotation 2 (b.png): all of it lies outside", "FAULT"),
        ({"segmentation": None}, "annotation 2 (b.png): it has no segmentation, only a box", "FAULT"),
        ({"segmentation": "text"}, "annotation 2 (b.png): expected polygons", "FAULT"),
        ({"segmentation": {"size": [10**6, 10**6], "counts": [5, 10**12 - 5]}}, "annotation 2 (b.png)", "FAULT"),
        ({"iscrowd": "yes"}, "annotation 2 (b.png): iscrowd: expected true or false, got 'yes'", "FAULT"),
        ({"category_id": "x" * 2000}, "annotation 2 (b.png): category_id: expected at most 1000", "FAULT"),
        ({"category_id": None}, "annotation 2 (b.png): category_id: expected a whole number", "FAULT"),
        ({"segmentation": []}, "annotation 2 (b.png): it has no polygon of 3 points", "warning"),
        ({"segmentation": [[10, 10, 12, 12]]}, "annotation 2 (b.png): it has no polygon of 3 points", "warning"),
    ],
)
def test_annotations_that_cannot_be_used_are_named_and_left_out(
    tmp_path: Path,
    annotation: dict[str, Any],
    message: str,
    kind: str,
    capsys: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = write(
        tmp_path, [A, B], [{"image_id": 1}, {"image_id": 2, **annotation}, {"image_id": 2, "segmentation": OTHER}]
    )
    code, out = checked(file, capsys)
    assert code == (kind == "FAULT")
    assert f"labels.json: {message}" in out
    assert any(part.startswith(kind) and message in part for part in out.split("\n\n"))
    # the box, which the annotation may cover, is not labeled as background
    assert painted(file) == {"a.png": {0: PIXELS - 400, 1: 400}, "b.png": {0: PIXELS - 500, 1: 100, 255: 400}}
    assert "1 annotation(s) left out (semask check lists all)" in caplog.text
    assert message in caplog.text


@pytest.mark.parametrize("box", [None, [0, 0, 0, 0], [1, 2, 3], [0, NAN, 5, 5], "text", [0, 0, -3, 5]])
def test_without_a_box_nothing_is_called_background(tmp_path: Path, box: object) -> None:
    file = write(tmp_path, [A], [{"image_id": 1, "segmentation": [[NAN] * 6], "bbox": box}, {"image_id": 1}])
    assert painted(file) == {"a.png": {255: PIXELS - 400, 1: 400}}


def test_a_polygon_without_area_beside_good_ones_is_left_out_of_its_annotation(tmp_path: Path) -> None:
    file = write(tmp_path, [A], [{"image_id": 1, "segmentation": [[10, 10, 12, 12], *SQUARE]}])
    assert painted(file) == {"a.png": {0: PIXELS - 400, 1: 400}}


def test_one_name_under_two_ids_is_painted_whole(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = write(tmp_path, [A, {**B, "file_name": "a.png"}], [{"image_id": 1}, {"image_id": 2, "segmentation": OTHER}])
    code, out = checked(file, capsys)
    assert code == 1
    assert "labels.json: image a.png is listed with the ids 1, 2" in out
    assert painted(file) == {"a.png": {0: PIXELS - 500, 1: 500}}


REFUSED = [
    ([A, {**B, "id": 1}], [{"image_id": 1}], (), "2 images share the id 1 (a.png, b.png)"),
    ([A, {**A, "id": 2, "height": 50}], [{"image_id": 1}], (), "image a.png is listed with two sizes"),
    ([A], [{"image_id": 1}], ("x/a.png", "y/a.png"), "a.png matches several images"),
    ([A, {**B, "file_name": "z/a.png"}], [{"image_id": 1}], ("a.png",), None),
    (
        [{**A, "file_name": "x/a.png"}, {**B, "file_name": "y/a.png"}],
        [{"image_id": 1}],
        ("a.png",),
        "x/a.png, y/a.png all match",
    ),
    ([A], [{"image_id": 1, "category_id": 7}], (), "annotation 1 (a.png): an annotation with unknown category id 7"),
]


@pytest.mark.parametrize(("images", "annotations", "files", "message"), REFUSED)
def test_where_labels_would_be_a_guess_a_training_refuses(
    tmp_path: Path,
    images: list,
    annotations: list,
    files: tuple,
    message: str | None,
    capsys: pytest.CaptureFixture,
) -> None:
    file = write(tmp_path, images, annotations, files=files)
    code, out = checked(file, capsys)
    assert code == 1
    if message is None:  # the longer name is that of another image, which does not exist
        assert "labels.json: z/a.png (train) has no image" in out
        return
    assert f"labels.json: {message}" in out
    with pytest.raises(UserError) as caught:
        painted(file)
    assert message in str(caught.value)


def test_annotations_of_no_image_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = write(tmp_path, [A], [{"image_id": 1}, {"image_id": 9}, {"image_id": None}, {"image_id": [1]}])
    code, out = checked(file, capsys)
    assert code == 1
    assert "annotation 2 belongs to the image 9, which the file does not list" in out
    for number in (3, 4):
        assert f"annotation {number}: image_id: expected a whole number" in out
    assert painted(file) == {"a.png": {0: PIXELS - 400, 1: 400}}


def test_ids_as_texts_are_numbers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Read the COCO export of VGG Image Annotator, which also writes a polygon as a flat list."""
    categories = [{"id": "1", "name": "thing"}]
    file = write(
        tmp_path,
        [{**A, "id": "1"}],
        [{"image_id": 1, "segmentation": SQUARE[0], "category_id": 1.0}],
        categories=categories,
    )
    code, out = checked(file, capsys)
    assert code == 0
    assert "1 image ids are strings, read as numbers: 1" in out
    assert painted(file) == {"a.png": {0: PIXELS - 400, 1: 400}}


@pytest.mark.parametrize("area", [None, 0, -3, NAN, "large", "absent"])
def test_the_order_is_by_the_masks(tmp_path: Path, area: object, capsys: pytest.CaptureFixture) -> None:
    categories = [{"id": 1, "name": "thing"}, {"id": 2, "name": "part"}]
    inner = [[15, 15, 20, 15, 20, 20, 15, 20]]
    small = {"image_id": 1, "segmentation": inner, "category_id": 2, "area": area}
    file = write(
        tmp_path, [A], [small, {"image_id": 1, "area": area}], categories=categories, names="[background, thing, part]"
    )
    if area == "absent":
        file.with_name("labels.json").write_text(file.with_name("labels.json").read_text().replace('"area"', '"_"'))
    code, out = checked(file, capsys)
    assert code == 0
    assert "2 annotations have no area; their masks give it: 1, 2" in out
    assert painted(file) == {"a.png": {0: PIXELS - 400, 1: 375, 2: 25}}


def test_another_size_than_the_images_is_told_and_nothing_is_painted(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = write(
        tmp_path, [{**A, "height": 50000, "width": 50000}, {**B, "height": 60, "width": 40}], [{"image_id": 1}]
    )
    code, out = checked(file, capsys)
    assert code == 1
    assert "image a.png is listed as 50000 x 50000; at most 110000000 pixels are read" in out
    assert re.search(r"a\.png is 60 x 40 but its entry \S+labels\.json: a\.png is 50000 x 50000: they must", out)
    assert "labels.json: b.png is 40 x 60: they must have the same size (does its EXIF tag rotate the image" in out
    with pytest.raises(UserError, match=r"the image is 60 x 40 but its entry .*a\.png is 50000 x 50000"):
        painted(file)


def test_sizes_may_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = write(
        tmp_path,
        [{**A, "height": None, "width": None}],
        [{"image_id": 1}, {"image_id": 1, "segmentation": [[NAN] * 6]}],
    )
    code, out = checked(file, capsys)
    assert code == 1
    assert "labels.json: a.png: annotation 2: a polygon has a coordinate that is not a finite number" in out
    assert painted(file) == {"a.png": {255: PIXELS - 400, 1: 400}}


def test_categories_that_nobody_uses_need_no_class(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Accept unused categories, such as the root category of Roboflow; labelme's background has underscores."""
    categories = [{"id": 0, "name": "things"}, {"id": 1, "name": "thing"}, {"id": 2, "name": "_background_"}]
    file = write(tmp_path, [A], [{"image_id": 1}], categories=categories, names="[_background_, thing]")
    assert checked(file, capsys)[0] == 0
    assert painted(file) == {"a.png": {0: PIXELS - 400, 1: 400}}


@pytest.mark.parametrize(
    "name", ["images\\1\\a.png", "img/a.png", "./a.png", "/data/upload/1/a.png", "../../media/a.png"]
)
def test_names_are_compared_from_their_end(tmp_path: Path, name: str, capsys: pytest.CaptureFixture) -> None:
    file = write(tmp_path, [{**A, "file_name": name}], [{"image_id": 1}], files=["a.png"])
    assert checked(file, capsys)[0] == 0
    assert painted(file) == {"a.png": {0: PIXELS - 400, 1: 400}}


def test_names_of_macos_are_composed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = write(tmp_path, [{**A, "file_name": "M\u00fcller.png"}], [{"image_id": 1}], files=["Mu\u0308ller.png"])
    assert checked(file, capsys)[0] == 0


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = write(tmp_path, [A], [{"image_id": 1}])
    labels = file.with_name("labels.json")
    labels.write_bytes(b"\xef\xbb\xbf" + labels.read_bytes())
    assert checked(file, capsys)[0] == 0


def test_the_list_of_good_pairs_of_a_coco_file_is_a_good_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(1, 6)] + [{"id": 5, "file_name": "6.png"}]
    annotations = [{"image_id": i} for i in range(1, 6)]
    for number, polygons in ((2, [SQUARE[0][:7]]), (3, []), (4, OTHER)):
        annotations[number - 1]["segmentation"] = polygons
    file = write(tmp_path, images, annotations)
    code, out = checked(file, capsys, "--list", str(tmp_path / "good.txt"))
    assert code == 1
    listed = (tmp_path / "good_train.txt").read_text().splitlines()
    assert listed == [f"img/{i}.png\tlabels.json" for i in (1, 3, 4)]
    (advice,) = (line for line in out.splitlines() if line.startswith("Wrote"))
    file.write_text(f"{advice.split('`')[1]}\nnames: [background, thing]\n")  # follows the advice
    code, out = checked(file, capsys)
    assert code == 0
    assert "3 pairs of train read: 0 fault(s), 1 warning(s)" in out
    expected = {
        "1.png": {0: PIXELS - 400, 1: 400},
        "3.png": {0: PIXELS - 400, 255: 400},
        "4.png": {0: PIXELS - 100, 1: 100},
    }
    assert painted(file) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is not in COCO format: expected images, annotations with segmentation, and categories; a list"),
        ('[{"image_id": 1, "score": 0.5}]', "a COCO results file"),
        ('[{"data": {}, "annotations": []}]', "a Label Studio export in its own JSON; export as COCO"),
        ('{"_via_img_metadata": {}}', "a VGG Image Annotator project; export its annotations as COCO"),
        ('{"shapes": [], "imagePath": "a.jpg"}', "a labelme file"),
        ('{"objects": [], "size": {}}', "a Supervisely annotation"),
        ('{"images": [], "annotations": {}}', "lists of annotations, categories are missing"),
        ("7", "it holds 7"),
        ("{", "cannot be read as JSON"),
        ("[" * 100000, "cannot be read as JSON"),
        ('{"images": [5], "annotations": [], "categories": []}', "images[0]: expected a mapping"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "images[0]: file_name is missing"),
        ('{"images": [{"id": 1, "file_name": 3}], "annotations": [], "categories": []}', "file_name: expected a text"),
        (
            '{"images": [{"id": 1, "file_name": "a", "height": -4}], "annotations": [], "categories": []}',
            "height: expected",
        ),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": 7}]}',
            "categories[0]: name: expected a text",
        ),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": "1", "name": "b"}]}',
            "2 categories have the id 1",
        ),
        (
            '{"images": [], "categories": [], "annotations": [{"image_id": 1, "segments_info": []}]}',
            "it is a panoptic file; expected annotations with a segmentation",
        ),
    ],
)
def test_files_of_other_kinds_are_called_what_they_are(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(UserError) as caught:
        read_coco(tmp_path / "labels.json")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_instances_are_no_panoptic_file(tmp_path: Path) -> None:
    write(tmp_path, [A], [{"image_id": 1}])
    with pytest.raises(UserError, match="it is a file of instances; expected annotations with segments_info"):
        read_coco(tmp_path / "labels.json", "segments_info")


def test_a_campaign_of_damaged_files(tmp_path: Path) -> None:
    """Any damaged value gives either labels of every image or one line."""
    rng = np.random.default_rng(0)
    odd = [None, NAN, 1e308, -1, 0, 10**40, "7", "x", [], {}, True, [[]], 2**31, 0.5]
    file = write(tmp_path, [A, B], [{"image_id": 1}, {"image_id": 2, "segmentation": OTHER}])
    good = (tmp_path / "labels.json").read_text()
    dataset = CustomDataset.from_section(get_cfg(data=file).DATASETS.CUSTOM)
    painted_files = refused = 0
    for _ in range(300):
        content = json.loads(good)
        for _ in range(rng.integers(1, 4)):
            part = content[("images", "annotations", "categories")[rng.integers(3)]]
            entry = part[rng.integers(len(part))]
            if not isinstance(entry, dict) or not entry or rng.random() < 0.1:
                part[rng.integers(len(part))] = odd[rng.integers(len(odd))]
                continue
            key = list(entry)[rng.integers(len(entry))]
            if rng.random() < 0.2:
                del entry[key]
            else:
                entry[key] = odd[rng.integers(len(odd))]
        (tmp_path / "labels.json").write_text(json.dumps(content))
        try:
            maps = [read_sample_labels(x) for x in dataset.load("train")]
        except UserError as error:
            refused += "\n" not in str(error)
        else:
            painted_files += all(x.shape == (40, 60) and {*np.unique(x)} <= {0, 1, 255} for x in maps)
    assert painted_files + refused == 300
    assert min(painted_files, refused) > 50
