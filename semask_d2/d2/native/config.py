"""Replacement for `detectron2.config`: the config node and the decorator that builds an object from a config."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode as _FvcoreCfgNode


class CfgNode(_FvcoreCfgNode):
    """A tree of settings, like Detectron2's, except that files are always read as plain YAML, which runs no code."""

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """Return a file's settings merged over its `_BASE_`; `allow_unsafe` is accepted and ignored."""
        return super().load_yaml_with_base(filename, allow_unsafe=False)


def configurable(init_func: Callable) -> Callable:
    """Decorate a class's `__init__` so that it also accepts a config, which the class's `from_config` translates.

    When `__init__` is called with a `CfgNode` (first, or as `cfg=`), `from_config` gets the arguments that it declares
    and returns a dict of arguments for `__init__`. The remaining keyword arguments override entries of that dict.
    """

    @functools.wraps(init_func)
    def wrapped(self, *args, **kwargs):
        from_config = getattr(type(self), "from_config", None)
        if from_config is None:
            raise AttributeError(f"{type(self).__name__} uses @configurable: it needs a classmethod from_config.")
        if isinstance(args[0] if args else kwargs.get("cfg"), _FvcoreCfgNode):
            kwargs = _arguments_from_config(from_config, args, kwargs)
            args = ()
        init_func(self, *args, **kwargs)

    return wrapped


def _arguments_from_config(from_config: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{from_config.__qualname__} must be a classmethod with 'cfg' as its first argument.")
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return from_config(*args, **kwargs)
    known = {name: value for name, value in kwargs.items() if name in parameters}
    rest = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**from_config(*args, **known), **rest}
