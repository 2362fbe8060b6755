"""Masks of annotations agree with pycocotools, and invalid ones never reach its compiled code."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from semask_d2.data.annotations import (
    EmptyAnnotation,
    UnusableAnnotation,
    checked_segmentation,
    decoded_mask,
    decompressed_counts,
    run_lengths,
)
from semask_d2.utils.errors import UserError

HEIGHT, WIDTH = 40, 60
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
NAN, INF = float("nan"), float("inf")


def painted_by_pycocotools(segmentation: Any) -> np.ndarray:
    encoded = segmentation
    if isinstance(segmentation, list):
        encoded = coco_mask.merge(coco_mask.frPyObjects(segmentation, HEIGHT, WIDTH))
    elif isinstance(segmentation["counts"], list):
        encoded = coco_mask.frPyObjects(segmentation, HEIGHT, WIDTH)
    return coco_mask.decode(encoded).astype(bool)


@given(
    st.lists(st.lists(st.floats(2, 90) | st.floats(-30, 0), min_size=3, max_size=9), min_size=1, max_size=3),
)
def test_polygons_are_painted_as_by_pycocotools(halves: list[list[float]]) -> None:
    polygons = [[*half, *(2 * x + 3 for x in half)] for half in halves]
    polygons = [[min(v, 79.0) if i % 2 else min(v, 110) for i, v in enumerate(x)] for x in polygons]
    polygons = [[max(v, -39.0) for v in x] for x in polygons]
    np.testing.assert_array_equal(decoded_mask(polygons, HEIGHT, WIDTH, "x"), painted_by_pycocotools(polygons))


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_run_lengths_are_read_as_by_pycocotools(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((HEIGHT, WIDTH)) < share
    encoded = run_lengths(mask)
    np.testing.assert_array_equal(decoded_mask(encoded, HEIGHT, WIDTH, "x"), mask)
    as_bytes = {**encoded, "counts": encoded["counts"].encode()}
    np.testing.assert_array_equal(decoded_mask(as_bytes, HEIGHT, WIDTH, "x"), mask)
    counts = decompressed_counts(encoded["counts"], "x").tolist()
    np.testing.assert_array_equal(painted_by_pycocotools({"size": [HEIGHT, WIDTH], "counts": counts}), mask)
    np.testing.assert_array_equal(
        decoded_mask({"size": [HEIGHT, WIDTH], "counts": [float(x) for x in counts]}, HEIGHT, WIDTH, "x"), mask
    )


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[0, 0, 1e18, 1e18, -1e18, 5]], "has x = 1e+18, far outside the image of 60 x 40"),
        ([[60, 0, -2.41e8, 2.15e8, 0, 40]], "far outside"),
        ([[0, 0, 5, 10**30, 9, 9]], "not a list of numbers"),
        ([[10, 10, NAN, 10, 30, 30]], "not a finite number"),
        ([[10, 10, INF, 10, 30, 30]], "not a finite number"),
        ([[10, 10, 10**400, 10, 30, 30]], "not a list of numbers"),
        ([SQUARE[:7]], "has 7 coordinates; expected an even number"),
        ([["a"] * 6], "not a list of numbers"),
        ([[None] * 6], "not a list of numbers"),
        ([[True, False] * 3], "not a list of numbers"),
        ([[[1, 2, 3]] * 3], "not a list of numbers"),
        ([SQUARE, 5], "not a list of numbers"),
        ("text", "expected polygons or run lengths"),
        (7, "expected polygons or run lengths"),
        (None, "no segmentation, only a box"),
        ([[0.1, 0.1, 0.5, 0.1, 0.5, 0.9]], "between 0 and 1, as fractions of the image's sides"),
        ({"size": [10**6, 10**6], "counts": [5, 10**12 - 5]}, "have the size [1000000, 1000000]; expected [40, 60]"),
        ({"size": [60, 40], "counts": [2400]}, "have the size [60, 40]"),
        ({"size": [NAN, 60], "counts": [2400]}, "have the size"),
        ({"size": None, "counts": [2400]}, "have the size None"),
        ({"counts": [2400]}, "have the size None"),
        ({"size": [40, 60], "counts": [2399]}, "do not add up to 40 x 60"),
        ({"size": [40, 60], "counts": [2401, -1]}, "do not add up"),
        ({"size": [40, 60], "counts": [10**30, 2400 - 10**30]}, "not valid run lengths"),
        ({"size": [40, 60], "counts": [2399.5, 0.5]}, "not valid run lengths"),
        ({"size": [40, 60], "counts": [NAN]}, "not valid run lengths"),
        ({"size": [40, 60], "counts": {}}, "not valid run lengths"),
        ({"size": [40, 60], "counts": [[2400]]}, "not valid run lengths"),
        ({"size": [40, 60], "counts": "é"}, "not compressed run lengths"),
        ({"size": [40, 60], "counts": "o" * 50 + "0"}, "more than 35 bits"),
        ({"size": [40, 60], "counts": "ooo"}, "end in the middle of a number"),
        ({"size": [40, 60], "counts": ""}, "do not add up"),
        ({"size": [40, 60], "counts": None}, "not valid run lengths"),
    ],
)
def test_no_compiled_code_sees_what_cannot_be(segmentation: Any, message: str) -> None:
    with pytest.raises(UnusableAnnotation, match=f"^c.json: annotation 7: .*{re.escape(message)}"):
        decoded_mask(segmentation, HEIGHT, WIDTH, "c.json: annotation 7")


@pytest.mark.parametrize("parts", [1, 100])
def test_outlines_are_of_bounded_length(parts: int) -> None:
    """Compiled code walks along every edge, and keeps each step."""
    points = 200_000 // parts
    across = [0, 0, WIDTH, HEIGHT] * (points // 2)
    with pytest.raises(UnusableAnnotation, match=r"^x: the outlines of its polygons are longer than 4194304 pixels"):
        decoded_mask([across] * parts, HEIGHT, WIDTH, "x")
    along = [[x % WIDTH, 5 + x % 2] for x in range(points)]
    assert decoded_mask([along] * parts, HEIGHT, WIDTH, "x").any()


@pytest.mark.parametrize("segmentation", [[], [[]], [[10, 10, 12, 12]], [[1, 1, 2, 2], []], np.zeros((0, 2))])
def test_what_encloses_no_area_is_told_apart(segmentation: Any) -> None:
    with pytest.raises(EmptyAnnotation, match="no polygon of 3 points or more"):
        decoded_mask(segmentation, HEIGHT, WIDTH, "x")


@pytest.mark.parametrize("size", [(50000, 50000), (0, 5), (-3, 4), (10**9, 1)])
def test_sizes_are_bounded(size: tuple[int, int]) -> None:
    with pytest.raises(UnusableAnnotation, match="pixels; expected 1 to"):
        decoded_mask([SQUARE], *size, "x")


def test_harmless_forms_are_read() -> None:
    expected = painted_by_pycocotools([SQUARE])
    points = np.array(SQUARE, np.float32).reshape(-1, 2)
    for form in (
        SQUARE,
        tuple(SQUARE),
        [np.array(SQUARE)],
        [points],
        points,
        [points.tolist()],
        [SQUARE, [1, 1, 2, 2]],
    ):
        np.testing.assert_array_equal(decoded_mask(form, HEIGHT, WIDTH, "x"), expected)
    # a part of four numbers is two points here, but a box in pycocotools
    assert checked_segmentation([SQUARE, [1, 1, 2, 2]], HEIGHT, WIDTH, "x") == [SQUARE]
    assert decoded_mask([[-5.5, -3, 70, -3, 70, 45, -5.5, 45]], HEIGHT, WIDTH, "x").all()  # a little outside
    assert decoded_mask([[0, 0, 1, 0, 1, 1, 0, 1]], HEIGHT, WIDTH, "x").sum() == 1  # pixels, not fractions


def test_a_campaign_of_damaged_annotations() -> None:
    """Hundreds of mutations of good annotations end in a mask or in one line; `json` reads NaN and huge integers."""
    rng = np.random.default_rng(0)
    odd = [NAN, INF, -INF, 1e308, -1e18, 10**40, "7", None, [], {}, True, -1, 0.5, 2**31, 2**63, math.pi]
    good = [
        {"segmentation": [SQUARE, [1.5, 2.5, 9, 3, 4, 8]]},
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [5, 10, HEIGHT * WIDTH - 15]}},
        {"segmentation": run_lengths(rng.random((HEIGHT, WIDTH)) < 0.3)},
    ]
    masks = refused = tried = 0
    for number in range(600):
        text = json.dumps(good[number % 3])
        tokens = re.findall(r"[\d.]+|\"[^\"]*\"|[\[\]{}:, ]+", text)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(len(tokens)))
            if re.fullmatch(r"[\d.]+", tokens[place]):
                tokens[place] = json.dumps(odd[int(rng.integers(len(odd)))])
            elif tokens[place].startswith('"') and len(tokens[place]) > 12:
                letters = list(tokens[place])
                letters[int(rng.integers(1, len(letters) - 1))] = chr(int(rng.integers(35, 91)))
                tokens[place] = "".join(letters)
        try:
            segmentation = json.loads("".join(tokens))["segmentation"]
        except (ValueError, KeyError):
            continue
        try:
            mask = decoded_mask(segmentation, HEIGHT, WIDTH, "x")
        except UserError as error:
            refused += "\n" not in str(error)
        else:
            masks += mask.shape == (HEIGHT, WIDTH)
        tried += 1
    assert masks + refused == tried
    assert masks > 50
    assert refused > 200
