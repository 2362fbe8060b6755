"""Reading values that others wrote: types, ranges, and a one-line error for each wrong value."""

from __future__ import annotations

import json
import os

import pytest

from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import MAX_INTEGER, Section, entries, flag, integer, number, path, shown, text

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(("value", "expected"), [(3, 3), (640.0, 640), (0, 0), (-4, -4), (MAX_INTEGER, MAX_INTEGER)])
def test_integers(value: float, expected: int) -> None:
    assert integer(value, "f") == expected
    assert type(integer(value, "f")) is int


@pytest.mark.parametrize("value", [NAN, INF, 1.5, "3", True, None, [], 10**400, -(10**400), 1e300])
def test_no_integers(value: object) -> None:
    with pytest.raises(UserError, match=r"^f: expected a whole number"):
        integer(value, "f")


@pytest.mark.parametrize("value", [NAN, -INF, "3", False, None, {}, 10**400, 2**20000], ids=lambda x: type(x).__name__)
def test_no_numbers(value: object) -> None:
    with pytest.raises(UserError, match=r"^f: expected a finite number"):
        number(value, "f")


@pytest.mark.parametrize(("low", "high", "words"), [(0, 5, "from 0 to 5"), (7, MAX_INTEGER, "of at least 7")])
def test_ranges_are_named(low: int, high: int, words: str) -> None:
    with pytest.raises(UserError, match=f"number {words}, got 6$"):
        integer(6, "f", low, high)
    with pytest.raises(UserError, match=r"of at most 0.5, got 6$"):
        number(6, "f", high=0.5)


def test_texts() -> None:
    assert text("a", "f", ("a", "b")) == "a"
    for value in ("c", 3, None):
        with pytest.raises(UserError, match="expected 'a' or 'b'"):
            text(value, "f", ("a", "b"))
    for value in ("x" * 1001, "a\0b"):
        with pytest.raises(UserError, match="at most 1000 characters"):
            text(value, "f")


def test_paths_may_hold_bytes_that_are_no_text() -> None:
    name = os.fsdecode(b"a/\xff.png")
    assert path(name, "f") == name
    for value in (3, "a\0", "x" * 5000, "\ud800"):
        with pytest.raises(UserError, match=r"^f: expected"):
            path(value, "f")
    with pytest.raises(UserError, match="expected valid Unicode"):
        text(name, "f")


def test_flags_and_lists() -> None:
    assert [flag(value, "f") for value in (0, 1, False, True)] == [False, True, False, True]
    for value in (2, "true", 1.0, None):
        with pytest.raises(UserError, match="expected true or false"):
            flag(value, "f")
    assert entries([1, 2], "f", 2) == [1, 2]
    for value in ([1], (1, 2), "ab"):
        with pytest.raises(UserError, match="expected a list of 2 values"):
            entries(value, "f", 2)


def test_a_section_reads_keys() -> None:
    values = json.loads('{"a": 1, "n": null, "x": NaN, "s": {"t": "word"}, "l": [1]}')
    section = Section.of(values, "file.json")
    assert section.integer("a") == 1
    assert section.integer("n", 7) == 7  # null counts as missing
    assert section.number("absent", None) is None
    assert section.section("s").text("t") == "word"
    assert section.entries("l") == [1]
    for key, message in (("n", "n is missing"), ("x", "x: expected a whole number, got nan")):
        with pytest.raises(UserError, match=f"^file.json: {message}$"):
            section.integer(key)
    with pytest.raises(UserError, match=r"^file.json: s: t: expected true or false, got 'word'$"):
        section.section("s").flag("t")
    with pytest.raises(UserError, match="expected a mapping"):
        Section.of([1], "file.json")


@pytest.mark.parametrize(
    "value",
    [10**10000, "x" * 10**6, [[[[[[[[1]]]]]]]], {i: i for i in range(99)}, b"\0" * 999],
    ids=lambda x: type(x).__name__,
)
def test_whatever_is_shown_is_short(value: object) -> None:
    assert len(shown(value)) < 120


def test_a_number_in_quotes_is_said_to_be_a_text() -> None:
    for reader, value in ((integer, "255"), (number, "0.1"), (integer, "-1e3")):
        with pytest.raises(UserError, match=rf"got '{value}', a text: write it without quotes$"):
            reader(value, "f: key")
    for value in ("word", "nan", ""):
        with pytest.raises(UserError, match=rf"got '{value}'$"):
            number(value, "f: key")


def test_a_text_can_be_written_as_utf_8() -> None:
    assert text("\U0001f600", "f") == "\U0001f600"
    for value in ("\ud800", "a\udcff"):
        with pytest.raises(UserError, match=r"^f: expected valid Unicode"):
            text(value, "f")
