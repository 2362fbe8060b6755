"""Traversal of nested dicts, lists and tuples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def map_leaves(
    value: Any, function: Callable[[Any, str], Any], name: str = "it", done: dict[int, Any] | None = None
) -> Any:
    """Replace each leaf of nested containers by `function(leaf, name)`, where `name` is the nearest enclosing key.

    Dicts and lists are changed in place, also if they contain themselves; a tuple is replaced only if an item changes.
    """
    done = {} if done is None else done
    if not isinstance(value, (dict, list, tuple)):
        return function(value, name)
    if id(value) not in done:
        if not isinstance(value, tuple):
            done[id(value)] = value  # before its items, since it may contain itself
        if isinstance(value, dict):
            for key, item in list(value.items()):
                value[key] = map_leaves(item, function, str(key), done)
        elif isinstance(value, list):
            value[:] = [map_leaves(item, function, name, done) for item in value]
        else:
            items = [map_leaves(item, function, name, done) for item in value]
            same = all(a is b for a, b in zip(items, value, strict=True))
            done[id(value)] = value if same else tuple(items)  # keeps named tuples and torch.Size where possible
    return done[id(value)]
