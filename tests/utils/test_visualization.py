"""Drawing: colors from the metadata, and names, legends and panels in the right places."""

from __future__ import annotations

import math

import numpy as np
import pytest

from semask_d2.utils.classes import Classes
from semask_d2.utils.colors import NEAR, distinct_colors
from semask_d2.utils.visualization import (
    WRONG,
    colorize,
    draw_panels,
    draw_segmentation,
    error_map,
    error_share,
    legend,
    short,
    spread_cells,
    write_names,
)

COLORS = np.array([[80, 170, 255], [90, 90, 100], [0, 100, 20]], np.uint8)
CLASSES = Classes.of(["sky", "road", "tree"], COLORS)


def halves(height: int, width: int) -> np.ndarray:
    """Sky above road."""
    return np.repeat([0, 1], height // 2)[:, None].repeat(width, axis=1)


def has_color(picture: np.ndarray, color: object) -> bool:
    return bool((picture == np.array(color)).all(-1).any())


def test_colors_are_the_given_ones_and_ignored_pixels_are_black() -> None:
    drawn = colorize(np.array([[0, 2, 255], [1, 300, 0]]), COLORS)
    assert drawn.tolist() == [[[80, 170, 255], [0, 100, 20], [0, 0, 0]], [[90, 90, 100], [0, 0, 0], [80, 170, 255]]]


def test_an_opaque_overlay_shows_each_class_in_its_own_color_at_its_place() -> None:
    picture = draw_segmentation(np.full((512, 400, 3), 7, np.uint8), halves(512, 400), CLASSES, opacity=1.0)
    assert (picture[:200, :100] == COLORS[0]).all()
    assert (picture[300:, :100] == COLORS[1]).all()
    assert not has_color(picture, COLORS[2])


def test_opacity_mixes_image_and_color() -> None:
    image = np.full((512, 512, 3), 100, np.uint8)
    for opacity, expected in ((0.0, [100, 100, 100]), (0.5, [90, 135, 178])):
        picture = draw_segmentation(image, np.zeros((512, 512), int), CLASSES, opacity=opacity)
        np.testing.assert_allclose(picture[5, 5], expected, atol=1)


def test_names_stand_in_their_regions() -> None:
    image = np.zeros((512, 512, 3), np.uint8)
    labels = halves(512, 512)
    bare = colorize(labels, COLORS)
    drawn = draw_segmentation(image, labels, CLASSES, opacity=1.0)[:, :512]
    rows, columns = np.nonzero((drawn != bare).any(-1))
    for half in (rows < 256, rows >= 256):
        y, x = rows[half], columns[half]
        assert len(y) > 50  # some letters are drawn
        assert x.min() >= 0
        assert y.max() - y.min() < 40
        assert x.max() - x.min() < 80


def test_tiny_regions_get_no_name() -> None:
    labels = np.zeros((512, 512), int)
    labels[100:110, 100:110] = 1
    bare = colorize(labels, COLORS)
    drawn = draw_segmentation(np.zeros((512, 512, 3), np.uint8), labels, CLASSES, opacity=1.0)
    assert np.array_equal(drawn[80:140, 80:140], bare[80:140, 80:140])


def test_small_images_are_enlarged_and_frames_of_one_size_stay_of_one_size() -> None:
    image = np.zeros((64, 48, 3), np.uint8)
    pictures = [draw_segmentation(image, np.full((64, 48), i), CLASSES) for i in range(3)]
    assert {picture.shape for picture in pictures} == {pictures[0].shape}
    assert pictures[0].shape[0] == 512


def test_the_legend_holds_the_classes_that_are_there() -> None:
    labels = halves(400, 300)
    column = legend(labels, 400, CLASSES)
    assert column.shape[0] == 400
    assert has_color(column, COLORS[0])
    assert has_color(column, COLORS[1])
    assert not has_color(column, COLORS[2])


def test_the_legend_of_many_classes_shows_the_largest() -> None:
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 200, (150, 3)).astype(np.uint8)
    labels = np.repeat(np.arange(150), np.arange(150, 0, -1))[:11250].reshape(75, 150)
    column = legend(labels, 160, Classes.of([f"class {i}" for i in range(150)], colors))
    assert has_color(column, colors[0])
    assert not has_color(column, colors[149])


def test_long_names_are_cut() -> None:
    assert short("door, double door") == "door"
    assert short("screen door;screen") == "screen door"
    assert short("a" * 30) == "a" * 21 + "."


@pytest.mark.parametrize(
    ("truth", "priors", "panels"), [(True, False, (2, 2)), (False, True, (2, 3)), (True, True, (2, 4))]
)
def test_a_sheet_has_its_panels(truth: bool, priors: bool, panels: tuple[int, int]) -> None:
    labels = halves(320, 320)
    maps = {f"sem{i + 2}": np.full((80 >> i, 80 >> i), 2) for i in range(4)}
    figure = draw_panels(
        np.zeros((320, 320, 3), np.uint8),
        labels,
        CLASSES,
        opacity=1.0,
        truth=labels if truth else None,
        priors=maps if priors else None,
    )
    strip = figure.shape[0] // panels[0] - 320
    assert figure.shape[0] == panels[0] * (320 + strip)
    assert figure.shape[1] == panels[1] * 320 + legend(labels, 10, CLASSES).shape[1]
    assert has_color(figure[:, : panels[1] * 320], COLORS[2]) == priors


def test_errors_are_red_and_ignored_pixels_black() -> None:
    labels, truth = np.zeros((4, 4), int), np.zeros((4, 4), int)
    truth[0] = 1
    truth[1] = 255
    drawn = error_map(np.full((4, 4, 3), 50, np.uint8), labels, truth, 255)
    assert (drawn[0] == WRONG).all()
    assert (drawn[1] == 0).all()
    assert (drawn[2:] == 115).all()
    assert error_share(labels, truth, 255) == pytest.approx(4 / 12)
    assert error_share(labels, np.full((4, 4), 255), 255) == 0


def test_cells_cover_their_part_of_the_image() -> None:
    cells = np.arange(6).reshape(2, 3)
    drawn = spread_cells(cells, (50, 20), (2.0, 2.5))  # half of the last column is outside the image
    assert drawn.shape == (20, 50)
    assert drawn[0].tolist() == [0] * 20 + [1] * 20 + [2] * 10
    assert drawn[:, 0].tolist() == [0] * 10 + [3] * 10


def test_names_do_not_cover_each_other() -> None:
    canvas = np.full((200, 200, 3), 90, np.uint8)
    write_names(canvas, [(9, 100, 100, "large")])
    alone = canvas.copy()
    write_names(canvas := np.full((200, 200, 3), 90, np.uint8), [(9, 100, 100, "large"), (5, 104, 103, "small")])
    assert np.array_equal(canvas, alone)
    write_names(canvas, [(5, 100, 160, "small")])
    assert not np.array_equal(canvas, alone)


def test_colors_keep_away_from_others_where_there_are_enough() -> None:
    others = [*distinct_colors(4), (120, 120, 120)]
    colors = distinct_colors(12, unlike=others)
    assert len(set(colors)) == 12
    assert min(math.dist(a, b) for a in colors for b in others) >= NEAR
    everywhere = [(r, g, b) for r in range(0, 256, 60) for g in range(0, 256, 60) for b in range(0, 256, 60)]
    assert distinct_colors(6, unlike=everywhere) == distinct_colors(6)
