"""Walking through the content of a file, however deep in its dicts, lists and tuples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def map_leaves(
    value: Any, function: Callable[[Any, str], Any], name: str = "it", done: dict[int, Any] | None = None
) -> Any:
    """Return `value` with `function(leaf, name)` in the place of each leaf, its name that of the nearest key.

    Dicts and lists stay the same objects, also where they hold themselves, and so do tuples whose items do.
    """
    done = {} if done is None else done
    if not isinstance(value, (dict, list, tuple)):
        return function(value, name)
    if id(value) not in done:
        if not isinstance(value, tuple):
            done[id(value)] = value  # first, as it may hold itself
        if isinstance(value, dict):
            for key, item in list(value.items()):
                value[key] = map_leaves(item, function, str(key), done)
        elif isinstance(value, list):
            value[:] = [map_leaves(item, function, name, done) for item in value]
        else:
            items = [map_leaves(item, function, name, done) for item in value]
            same = all(a is b for a, b in zip(items, value, strict=True))
            done[id(value)] = value if same else tuple(items)  # the same, as it may be a named tuple or torch.Size
    return done[id(value)]
