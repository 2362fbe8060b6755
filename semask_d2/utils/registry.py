"""Looking up components by the names in a config."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from fvcore.common.registry import Registry

from semask_d2.utils.errors import UserError


def suggestion(name: str, known: list[str]) -> str:
    """Return ' Did you mean "X"?' with the closest of the `known` names, or '' if none is close."""
    near = get_close_matches(name, known, n=1, cutoff=0.75)
    return f' Did you mean "{near[0]}"?' if near else ""


def lookup(registry: Registry, name: str, key: str) -> Any:
    """Return the component registered in `registry` as `name`, the value of the config key `key`.

    Raises `UserError` with the key, the value and the registered names.
    """
    known = sorted(registered for registered, _ in registry)
    require_names(key, [name], known, f". Register a component of your own in {registry._name}")
    return registry.get(name)


def require_names(key: str, names: Iterable[str], known: Iterable[str], advice: str = "") -> None:
    """Raise `UserError` for the first of `names`, the value of the config key `key`, that is not in `known`.

    The message ends with `advice`.
    """
    known = list(known)
    for name in names:
        if name not in known:
            near = suggestion(str(name), known)
            raise UserError(f'{key}: there is no "{name}".{near} Known: {", ".join(known)}{advice}')
