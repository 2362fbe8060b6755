"""Values of files that others wrote (JSON, YAML, metadata), whose type and range are checked before use.

Every function returns the value or raises `UserError` with one line, "`source`: expected ..., got ...". JSON's null
counts as a missing value, and a whole float such as 640.0 as an integer.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from semask_d2.utils.errors import UserError

MAX_TEXT = 1000  # characters of a name
MAX_PATH = 4096  # characters; Linux allows as many bytes
ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
MAX_INTEGER = 2**53  # JSON readers in other languages cannot tell larger neighbors apart
MAX_NUMBER = 1e300  # a larger integer may not fit in a float
REQUIRED: Any = object()

_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = _shortened.maxlong = 60
_shortened.maxlist = _shortened.maxtuple = _shortened.maxdict = 6


def shown(value: Any) -> str:
    """Return `repr(value)` of any value, on one line and shortened for a message."""
    try:
        return " ".join(_shortened.repr(value).split())
    except ValueError:  # Python refuses to write out integers of thousands of digits
        return f"an integer of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"


def plain(value: Any) -> Any:
    """Return the number in a scalar of NumPy or PyTorch, as some programs store it; other values are unchanged."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def integer(value: Any, source: str, low: int = -MAX_INTEGER, high: int = MAX_INTEGER) -> int:
    """Return `value` as an integer from `low` to `high`."""
    value = plain(value)
    whole = value if type(value) is int else int(value) if type(value) is float and value.is_integer() else None
    if whole is None or not low <= whole <= high:
        raise UserError(f"{source}: expected a whole number{_range(low, high)}, got {shown(value)}{_unquoted(value)}")
    return whole


def number(value: Any, source: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Return `value` as a finite float from `low` to `high`."""
    value = plain(value)
    is_number = type(value) in (int, float) and abs(value) < MAX_NUMBER
    if not is_number or not low <= value <= high:
        raise UserError(f"{source}: expected a finite number{_range(low, high)}, got {shown(value)}{_unquoted(value)}")
    return float(value)


def text(value: Any, source: str, choices: Collection[str] = (), *, max_length: int = MAX_TEXT) -> str:
    """Return `value` as a string, which must be one of `choices` if any are given.

    The string contains no null characters, which file names cannot have, and can be written as UTF-8.
    """
    if not isinstance(value, str) or (choices and value not in choices):
        expected = " or ".join(map(repr, choices)) if choices else "a text"
        raise UserError(f"{source}: expected {expected}, got {shown(value)}")
    if len(value) > max_length or "\0" in value:
        raise UserError(f"{source}: expected at most {max_length} characters and no null character, got {shown(value)}")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise UserError(f"{source}: expected valid Unicode, got {shown(value)}; change the name")
    return value


def path(value: Any, source: str) -> str:
    """Return `value` as a file path, in which Python represents undecodable bytes as lone surrogates."""
    text(ESCAPED_BYTE.sub("?", value) if isinstance(value, str) else value, source, max_length=MAX_PATH)
    return value


def flag(value: Any, source: str) -> bool:
    """Return `value` as a bool; 0 and 1 are accepted."""
    value = plain(value)
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise UserError(f"{source}: expected true or false, got {shown(value)}")


def entries(value: Any, source: str, length: int | None = None) -> list[Any]:
    """Return `value` as a list, with exactly `length` values if that is given."""
    if not isinstance(value, list) or (length is not None and len(value) != length):
        expected = "a list" if length is None else f"a list of {length} values"
        raise UserError(f"{source}: expected {expected}, got {shown(value)}")
    return value


def is_positive(value: Any) -> bool:
    """Return whether a value is a finite number above zero."""
    return type(value) in (int, float) and 0 < value < MAX_NUMBER


@dataclass(frozen=True)
class Section:
    """A mapping from a foreign file; its methods read a key as the functions of this module read a value.

    If the key is missing or null, `default` is returned unchanged. `source` names the file and the place in it.
    """

    values: Mapping[str, Any]
    source: str

    @classmethod
    def of(cls, value: Any, source: str) -> Section:
        """Wrap `value`, which must be a mapping."""
        if not isinstance(value, Mapping):
            raise UserError(f"{source}: expected a mapping of keys to values, got {shown(value)}")
        return cls(value, source)

    def get(self, key: str, default: Any = REQUIRED) -> Any:
        """Return the value of `key` unchecked."""
        value = self.values.get(key)
        if value is not None:
            return value
        if default is REQUIRED:
            raise UserError(f"{self.source}: {key} is missing")
        return default

    def integer(self, key: str, default: Any = REQUIRED, low: int = -MAX_INTEGER, high: int = MAX_INTEGER) -> int:
        """Return the integer at `key`, from `low` to `high`."""
        return self._read(integer, key, default, low, high)

    def number(self, key: str, default: Any = REQUIRED, low: float = -math.inf, high: float = math.inf) -> float:
        """Return the finite number at `key`, from `low` to `high`."""
        return self._read(number, key, default, low, high)

    def text(self, key: str, default: Any = REQUIRED, choices: Collection[str] = ()) -> str:
        """Return the string at `key`, which must be one of `choices` if any are given."""
        return self._read(text, key, default, choices)

    def flag(self, key: str, default: Any = REQUIRED) -> bool:
        """Return the bool at `key`."""
        return self._read(flag, key, default)

    def entries(self, key: str, default: Any = REQUIRED, length: int | None = None) -> list[Any]:
        """Return the list at `key`."""
        return self._read(entries, key, default, length)

    def section(self, key: str, default: Any = REQUIRED) -> Section:
        """Return the mapping at `key`."""
        return self._read(Section.of, key, default)

    def _read(self, reader: Any, key: str, default: Any, *limits: Any) -> Any:
        value = self.get(key, default)
        return value if value is default else reader(value, f"{self.source}: {key}", *limits)


def _unquoted(value: Any) -> str:
    """Return advice for a number that is written as a string; "" for other values."""
    try:
        return "" if not isinstance(value, str) or math.isnan(float(value)) else ", a text: write it without quotes"
    except ValueError:
        return ""


def _range(low: float, high: float) -> str:
    bounded_below, bounded_above = low not in (-MAX_INTEGER, -math.inf), high not in (MAX_INTEGER, math.inf)
    if bounded_below and bounded_above:
        return f" from {low} to {high}"
    if bounded_below:
        return f" of at least {low}"
    return f" of at most {high}" if bounded_above else ""
