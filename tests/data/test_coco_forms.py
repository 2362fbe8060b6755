"""COCO files of tools with unusual formats are read as intended, or refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from semask_d2.__main__ import main
from tests.data.test_coco_files import OTHER, PIXELS, SQUARE, checked, painted, write

A, B = {"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}
PAINTED = {0: PIXELS - 400, 1: 400}


@pytest.mark.parametrize("spelled", [str, " {} ".format, "{}.0".format, float, "-{}".format, lambda x: 10**30 + x])
def test_ids_are_numbers_in_any_spelling(spelled: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    number = int(spelled(1)) if not isinstance(spelled(1), str) else int(float(spelled(1)))
    file = write(tmp_path, [{**A, "id": number}], [{"image_id": spelled(1)}])
    assert checked(file, capsys)[0] == 0
    assert painted(file) == {"a.png": PAINTED}


@pytest.mark.parametrize(
    ("name", "expected"), [(" cat ", "cat"), ("", "category_1"), (None, "category_1"), ("a\nb", "a b")]
)
def test_names_of_categories_are_usable(
    name: object, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Read the file with the settings that init-data proposes."""
    both = [{"image_id": 1}, {"image_id": 2}]
    write(tmp_path, [A, B], both, categories=[{"id": 1, "name": name}]).unlink()
    assert main(["init-data", str(tmp_path), "--output", str(tmp_path / "new.yaml")]) == 0
    assert f'1: "{expected}"' in (tmp_path / "new.yaml").read_text()
    assert checked(tmp_path / "new.yaml", capsys)[0] == 0


def test_a_category_twice_is_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = write(tmp_path, [A], [{"image_id": 1}], categories=[{"id": 1, "name": "thing"}] * 2)
    code, out = checked(file, capsys)
    assert code == 0
    assert "1 categories are listed several times: thing" in out
    assert painted(file) == {"a.png": PAINTED}


@pytest.mark.parametrize(
    "name",
    [
        "https://x.org/b/a.png?sig=1",
        "gs://bucket/a.png",
        "a.jpg",
        "a",
        "up/a.PNG",
        "/data/local-files/?d=img/a.png",
        "%61.png",
    ],
)
def test_names_of_images_are_matched_whatever_is_around_them(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = write(tmp_path, [{"id": 1, "file_name": name}], [{"image_id": 1}], files=["a.png"])
    code, out = checked(file, capsys)
    assert code == 0
    assert ("1 names have another suffix than their images" in out) == (name in ("a.jpg", "a"))
    assert painted(file) == {"a.png": PAINTED}


def test_lvis_names_images_by_their_addresses(tmp_path: Path) -> None:
    image = {"id": 1, "coco_url": "http://images.cocodataset.org/train2017/a.png"}
    assert painted(write(tmp_path, [image], [{"image_id": 1}], files=["a.png"])) == {"a.png": PAINTED}


@pytest.mark.parametrize("size", [{"width": "60", "height": "40"}, {"width": 0, "height": 0}, {"width": -1}])
def test_sizes_as_texts_or_unknown(size: dict, tmp_path: Path) -> None:
    assert painted(write(tmp_path, [{**A, **size}], [{"image_id": 1}])) == {"a.png": PAINTED}


def test_points_may_be_pairs(tmp_path: Path) -> None:
    points = [[10, 10], [30, 10], [30, 30], [10, 30]]
    for segmentation in (points, [points]):
        file = write(tmp_path, [A], [{"image_id": 1, "segmentation": segmentation}])
        assert painted(file) == {"a.png": PAINTED}


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([[100 / 6, 25, 50, 25, 50, 75, 100 / 6, 75]], "its coordinates are percentages of the image size"),
        ([[0, 0, 20, 0, 20, 20, 0, 20]], "its coordinates start at the corner of its box"),
    ],
)
def test_coordinates_that_a_box_shows_to_be_no_pixels(
    polygon: list, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = write(tmp_path, [A], [{"image_id": 1, "segmentation": polygon}, {"image_id": 1, "segmentation": OTHER}])
    code, out = checked(file, capsys)
    assert code == 1
    assert f"annotation 1 (a.png): {message}" in out
    assert painted(file)["a.png"][255] == 400  # the box, whose pixels may be of any class


@pytest.mark.parametrize(
    ("box", "is_apart"), [([10, 10, 20, 20], 0), ([10, 10, 30, 30], 0), ([35, 2, 20, 20], 1), ([0, 0, 0, 0], 0)]
)
def test_boxes_elsewhere_get_a_word(box: list, is_apart: int, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Boxes given by two corners instead of width and height are recognized."""
    code, out = checked(write(tmp_path, [A], [{"image_id": 1, "bbox": box}]), capsys)
    assert code == 0
    remark = "1 annotations have polygons that do not overlap their boxes, so one of the two is wrong: 1"
    assert (remark in out) == is_apart


def test_percent_without_boxes_gets_a_word(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    polygons = [[[x, x, 95, x, 95, 99, x, 99]] for x in range(4)]
    annotations = [{"image_id": 1, "bbox": None, "segmentation": x} for x in polygons]
    file = write(tmp_path, [{**A, "width": 640, "height": 480}], annotations)
    assert (
        "no coordinate is above 99, in images of at least 480 pixels a side: are they percent"
        in checked(file, capsys)[1]
    )
    file = write(tmp_path, [A], annotations)
    assert "are they percent" not in checked(file, capsys)[1]


@pytest.mark.parametrize("segmentation", [{}, None])
def test_init_data_says_why_no_annotation_can_be_used(
    segmentation: object, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write(tmp_path, [A, B], [{"image_id": 1, "segmentation": segmentation}]).unlink()
    assert main(["init-data", str(tmp_path), "--output", str(tmp_path / "new.yaml")]) == 0
    out = capsys.readouterr().out
    assert "nothing to learn: no annotation can be used: " in out
    assert "annotation 1 (a.png): it has no segmentation, only a box" in out


def test_a_file_that_is_meant_is_named_with_its_mistake(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(tmp_path, [{**A, "id": True}], [{"image_id": 1, "segmentation": SQUARE}]).unlink()
    assert main(["init-data", str(tmp_path), "--output", str(tmp_path / "new.yaml")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/labels.json: images[0]: id: expected a whole number")
