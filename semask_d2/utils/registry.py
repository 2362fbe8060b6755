"""Looking a component up by the name that a config gives."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from fvcore.common.registry import Registry

from semask_d2.utils.errors import UserError


def suggestion(name: str, known: list[str]) -> str:
    """' Did you mean X?' for the nearest of `known` names, or '' where none is near."""
    near = get_close_matches(name, known, n=1, cutoff=0.75)
    return f' Did you mean "{near[0]}"?' if near else ""


def lookup(registry: Registry, name: str, key: str) -> Any:
    """The component that `registry` holds under `name`, the value of the config key `key`.

    Raises `UserError` naming the key, the value and the names there are.
    """
    known = sorted(registered for registered, _ in registry)
    require_names(key, [name], known, f". One of your own goes into the registry {registry._name}")
    return registry.get(name)


def require_names(key: str, names: Iterable[str], known: Iterable[str], advice: str = "") -> None:
    """Raise `UserError` for the first of `names`, the value of the config key `key`, that is not among `known`.

    Its message ends in `advice`.
    """
    known = list(known)
    for name in names:
        if name not in known:
            near = suggestion(str(name), known)
            raise UserError(f'{key}: there is no "{name}".{near} Known: {", ".join(known)}{advice}')
