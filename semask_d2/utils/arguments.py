"""Arguments of components: the config keys that they come from, and errors for invalid values.

A registered component lists the keys once, in its `config_keys` ({argument: key}). `from_config` reads its arguments
from that table, `__init__` checks them with `require`, and `naming_config_keys` makes errors name the config key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from semask_d2.utils.errors import UserError


class ArgumentError(ValueError):
    """Error for an invalid argument of a component; `key` is its config key, or else its name."""

    def __init__(self, component: object, argument: str, problem: str):
        self.key: str = getattr(component, "config_keys", {}).get(argument, argument)
        self.problem = problem
        origin = f" ({self.key})" if self.key != argument else ""
        super().__init__(f"{type(component).__name__}: {argument}{origin}: {problem}")


def require(condition: bool, component: object, argument: str, expected: str, got: object) -> None:
    """Raise `ArgumentError` unless `condition` holds for `argument` of `component` with the value `got`."""
    if not condition:
        raise ArgumentError(component, argument, f"expected {expected}, got {got!r}")


def arguments_from(cfg: Any, config_keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of a config by argument, for the table `config_keys` of a component.

    Raises `UserError` if the config lacks one of the keys.
    """
    return {argument: value_of(cfg, key) for argument, key in config_keys.items()}


def value_of(cfg: Any, key: str) -> Any:
    """Return the value of a dotted key; `UserError` if the config lacks it."""
    value = cfg
    for part in key.split("."):
        if part not in value:
            raise UserError(f"the config lacks {key}: call semask_d2.add_semask_config(cfg) before merging files")
        value = value[part]
    return value


def known(dimension: int | None) -> int:
    """Return a dimension of a feature's `ShapeSpec`, which must not be None."""
    assert dimension is not None
    return dimension


@contextmanager
def naming_config_keys() -> Iterator[None]:
    """Convert an `ArgumentError` into a `UserError` that names the config key."""
    try:
        yield
    except ArgumentError as error:
        raise UserError(f"{error.key}: {error.problem}") from error
