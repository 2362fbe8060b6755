"""Label files of every format, compared with a loop over pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from semask_d2.data.labels import CocoLabels, CocoSegment, LabelFormat, read_sample_labels
from semask_d2.utils.errors import UserError


def saved(tmp_path: Path, pixels: np.ndarray, mode: str | None = None) -> str:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(tmp_path / "x.png")
    return str(tmp_path / "x.png")


def by_loop(pixels: np.ndarray, table: dict) -> list[list[int]]:
    return [[table[tuple(pixel) if pixels.ndim == 3 else int(pixel)] for pixel in row] for row in pixels]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_ids_go_through_the_table(tmp_path: Path, dtype: type) -> None:
    table = {7: 0, 8: 0, 26: 1, 30: 255} if dtype is np.uint8 else {7: 0, 300: 1, 65535: 255}
    ids = np.random.default_rng(0).choice([*table, 255], (5, 6)).astype(dtype)
    label_format = LabelFormat(255, tuple(table.items()))
    labels = read_sample_labels({"sem_seg_file_name": saved(tmp_path, ids), "label_format": label_format})
    assert labels.tolist() == by_loop(ids, {**table, 255: 255})
    assert labels.dtype == np.uint8


def test_the_ignored_id_may_be_mapped_itself(tmp_path: Path) -> None:
    ids = np.array([[255, 3]], np.uint8)
    assert LabelFormat(255, ((255, 1), (3, 0))).read(saved(tmp_path, ids)).tolist() == [[1, 0]]


def test_classes_above_a_byte(tmp_path: Path) -> None:
    ids = np.array([[1, 2]], np.uint8)
    assert LabelFormat(65535, ((1, 299), (2, 65535))).read(saved(tmp_path, ids)).tolist() == [[299, 65535]]


def test_ids_that_the_table_leaves_out_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path, np.array([[7, 9], [9, 12]], np.uint8))
    with pytest.raises(UserError) as caught:
        LabelFormat(255, ((7, 0),)).read(path)
    assert f"{path} holds the ids 9, 12 (3 pixels, the first 9 at x 1, y 0), which `map`" in str(caught.value)


@pytest.mark.parametrize("mode", [None, "RGBA", "P"])
def test_colors_go_through_the_table(tmp_path: Path, mode: str | None) -> None:
    table = {(128, 64, 128): 0, (0, 0, 142): 1, (0, 0, 0): 255}
    pixels = np.array([*table], np.uint8)[np.random.default_rng(0).integers(0, 3, (5, 6))]
    colors = tuple((int("{:02x}{:02x}{:02x}".format(*color), 16), target) for color, target in table.items())
    if mode == "P":
        image = Image.fromarray(pixels).quantize(colors=8, dither=Image.Dither.NONE)
        image.save(tmp_path / "x.png")
        path = str(tmp_path / "x.png")
    else:
        path = saved(tmp_path, pixels, mode)
    assert LabelFormat(255, colors=colors).read(path).tolist() == by_loop(pixels, table)


def test_a_color_that_the_table_lacks_is_named_with_its_pixel(tmp_path: Path) -> None:
    pixels = np.zeros((3, 4, 3), np.uint8)
    pixels[2, 1] = (1, 2, 255)
    path = saved(tmp_path, pixels)
    with pytest.raises(UserError) as caught:
        LabelFormat(255, colors=((0, 0),)).read(path)
    assert f"{path} holds the color #0102ff (1 pixels, the first #0102ff at x 1, y 2)" in str(caught.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_zero_is_ignored_and_the_others_move_down(tmp_path: Path, dtype: type) -> None:
    ids = np.array([[0, 1, 2], [150, 255, 0]], dtype)
    labels = LabelFormat(255, reduce_zero_label=True).read(saved(tmp_path, ids))
    assert labels.tolist() == [[255, 0, 1], [149, 255, 255]]


def test_palette_files_give_their_indices(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 2], [1, 2]], np.uint8), mode="P")
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    image.save(tmp_path / "x.png")
    assert read_sample_labels({"sem_seg_file_name": str(tmp_path / "x.png")}).tolist() == [[0, 2], [1, 2]]


def test_coco_segments_lie_upon_each_other() -> None:
    square, dot = [2, 2, 10, 2, 10, 8, 2, 8], np.zeros((12, 14), np.uint8, order="F")
    dot[4:6, 5:7] = 1
    counts = coco_mask.encode(dot)
    flat = dot.reshape(-1, order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    for small in (counts, {"size": [12, 14], "counts": runs}):
        segments = (CocoSegment(1, 3, small), CocoSegment(2, 0, [square]))
        labels, problems = CocoLabels("x", 12, 14, 255, segments).paint((14, 12))
        assert problems == []
        drawn = Image.new("L", (14, 12), 255)
        ImageDraw.Draw(drawn).rectangle((2, 2, 9, 7), fill=0)  # pixels whose center lies in the polygon
        expected = np.where(dot, 3, np.asarray(drawn))
        np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize(
    "segmentation",
    [[["x"]], {"size": [9, 9], "counts": [81]}, {"size": [4, 5]}, {"size": [4, 5], "counts": [3]}, 7, None],
)
def test_what_an_unusable_annotation_may_cover_is_ignored(segmentation: object) -> None:
    segments = (CocoSegment(7, 3, segmentation), CocoSegment(8, 1, [[0, 0, 2, 0, 2, 2, 0, 2]]))
    labels, (problem,) = CocoLabels("file: a.jpg", 4, 5, 0, segments).paint((5, 4))
    assert str(problem).startswith("file: a.jpg: annotation 7: ")
    expected = np.full((4, 5), 255)
    expected[:2, :2] = 1
    np.testing.assert_array_equal(labels, expected)


def test_the_box_of_an_unusable_annotation_is_ignored_below_all_others() -> None:
    segments = (CocoSegment(8, 1, [[0, 0, 2, 0, 2, 2, 0, 2]]), CocoSegment(9, 1, [[3, 3, 3, 3]]))
    labels, (problem,) = CocoLabels("x", None, None, 0, segments, unknown=([0.5, 1.5, 2.0, 9.0],)).paint((5, 4))
    assert "annotation 9: it has no polygon" in str(problem)  # it covers nothing
    assert labels.tolist() == [[1, 1, 0, 0, 0], [1, 1, 255, 0, 0], [255, 255, 255, 0, 0], [255, 255, 255, 0, 0]]


def test_annotations_for_another_size_are_refused_before_anything_is_painted() -> None:
    with pytest.raises(UserError, match="the image is 60 x 40 but its entry x is 50000 x 50000"):
        CocoLabels("x", 50000, 50000, 0, (CocoSegment(1, 1, [[0, 0, 2, 0, 2, 2]]),)).paint((60, 40))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_negative_ids_are_mapped_and_never_wrap(tmp_path: Path, dtype: type) -> None:
    table = {-9999: 255, -1: 2, 0: 0, 7: 1}
    values = [0, 7] if dtype == np.uint8 else [*table]
    pixels = np.random.default_rng(0).choice(values, (5, 6)).astype(dtype)
    Image.fromarray(pixels).save(tmp_path / "x.tif")
    labels = LabelFormat(id_map=tuple(table.items())).read(tmp_path / "x.tif")
    assert labels.tolist() == by_loop(pixels, table)
    pixels[1, 2] = 255 if dtype == np.uint8 else -2
    Image.fromarray(pixels).save(tmp_path / "x.tif")
    left_out = LabelFormat(ignore_label=250, id_map=((0, 0), (7, 1), (-1, 1), (-9999, 1)))
    with pytest.raises(UserError, match=rf"holds the id {pixels[1, 2]} \(1 pixels, .* at x 2, y 1\)"):
        left_out.read(tmp_path / "x.tif")
