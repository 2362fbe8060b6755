"""Escaping of foreign text for the terminal."""

from __future__ import annotations

import pytest

from semask_d2.utils.errors import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred\x07.pth", r"a\x1b[31mred\x07.pth"),
        ("two\nlines\r\n", "two\nlines\\r\n"),
        ("\x9b2J\u202etxt.exe\u2028", r"\x9b2J\u202etxt.exe\u2028"),
        ("\udcff", r"\udcff"),  # a byte of a file name that is not UTF-8, which could not be printed
        ("plain: Zürich 東京 C:\\x1b 'a' \"b\"", "plain: Zürich 東京 C:\\x1b 'a' \"b\""),
        ("", ""),
    ],
)
def test_control_characters_are_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    shown.encode("utf-8")
