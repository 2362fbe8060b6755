"""A component's arguments: the config keys that they come from, and what is said of one that no component can take.

A registered component lists the keys once, in its `config_keys` ({argument: key}). `from_config` reads its arguments by
that table, `__init__` checks them with `require`, and `naming_config_keys` turns what it raises into the user's terms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from semask_d2.utils.errors import UserError


class ArgumentError(ValueError):
    """An argument that a component cannot be built with: `key` is the config key it comes from, where there is one."""

    def __init__(self, component: object, argument: str, problem: str):
        self.key: str = getattr(component, "config_keys", {}).get(argument, argument)
        self.problem = problem
        origin = f" ({self.key})" if self.key != argument else ""
        super().__init__(f"{type(component).__name__}: {argument}{origin}: {problem}")


def require(condition: bool, component: object, argument: str, expected: str, got: object) -> None:
    """Raise `ArgumentError` unless `condition` holds for the `argument` of `component`, whose value is `got`."""
    if not condition:
        raise ArgumentError(component, argument, f"expected {expected}, got {got!r}")


def arguments_from(cfg: Any, config_keys: Mapping[str, str]) -> dict[str, Any]:
    """The values of a config by argument, for a component's table `config_keys`.

    Raises `UserError` where the config lacks one of the keys.
    """
    return {argument: value_of(cfg, key) for argument, key in config_keys.items()}


def value_of(cfg: Any, key: str) -> Any:
    """The value of a dotted key; `UserError` where the config has no such key."""
    value = cfg
    for part in key.split("."):
        if part not in value:
            raise UserError(f"the config lacks {key}: call semask_d2.add_semask_config(cfg) before merging files")
        value = value[part]
    return value


def known(dimension: int | None) -> int:
    """A dimension of a feature's `ShapeSpec` that a component cannot be built without."""
    assert dimension is not None
    return dimension


@contextmanager
def naming_config_keys() -> Iterator[None]:
    """Within it an `ArgumentError` becomes a `UserError` that names the config key."""
    try:
        yield
    except ArgumentError as error:
        raise UserError(f"{error.key}: {error.problem}") from error
