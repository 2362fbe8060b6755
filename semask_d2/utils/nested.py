"""Mappings within mappings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flattened(values: Mapping[Any, Any], separator: str = ".") -> dict[str, Any]:
    """Return nested values as one dict: v["a"]["b"] becomes "a.b"; a mapping without values has no key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}{separator}{inner}": x for inner, x in flattened(value, separator).items()}
        else:
            flat[f"{key}"] = value
    return flat
