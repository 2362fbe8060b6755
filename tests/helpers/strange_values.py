"""Unexpected values for untrusted files, inserted into nested settings by a seeded generator."""

from __future__ import annotations

import random
from typing import Any

# values of unexpected types, ranges and lengths
STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3.5, 2.0, 10**400, float("nan"), float("-inf"), 1e308, 2**31, -(2**70)),
    *("", "swin", "\0", "\udcff", "9" * 5000, [], {}, [[]], [1, 2], [1] * 4, [0] * 4, [-4] * 4, {"a": 1}),
)


def damage(settings: Any, generator: random.Random) -> None:
    """Change or remove one value somewhere in nested settings."""
    place: Any = settings
    key: Any = _key(place, generator)
    while isinstance(place[key], (dict, list)) and place[key] and generator.random() < 0.85:
        place = place[key]
        key = _key(place, generator)
    if isinstance(place, dict) and generator.random() < 0.1:
        del place[key]
    else:
        place[key] = _changed(place[key], generator)


def _key(place: Any, generator: random.Random) -> Any:
    return generator.choice(sorted(place)) if isinstance(place, dict) else generator.randrange(len(place))


def _changed(value: Any, generator: random.Random) -> Any:
    """Return an unexpected value, or one close to the original."""
    near = [value + 1, value - 1, -value, value * 2, value // 3] if type(value) in (int, float) else [value, [value]]
    return generator.choice(STRANGE if generator.random() < 0.6 else near)
