"""Nested mappings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flattened(values: Mapping[Any, Any], separator: str = ".") -> dict[str, Any]:
    """Flatten nested mappings to one dict: v["a"]["b"] gets the key "a.b"; empty mappings are left out."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}{separator}{inner}": x for inner, x in flattened(value, separator).items()}
        else:
            flat[f"{key}"] = value
    return flat


def set_nested(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted `key` of nested dicts, making those that are missing."""
    *sections, leaf = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[leaf] = value
