"""Stands for `detectron2.config`: the config node and the decorator that builds an object from a config."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import IO, Any

from fvcore.common.config import CfgNode as _FvcoreCfgNode

from semask_d2.d2.native.env import PathManager


class CfgNode(_FvcoreCfgNode):
    """A tree of settings, as Detectron2's, but a file is only ever read as plain YAML: no tag in it can run code."""

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str]:
        return PathManager.open(filename, "r")

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """Return the file's settings on top of those of its `_BASE_`; `allow_unsafe` is accepted and not heeded."""
        return super().load_yaml_with_base(filename, allow_unsafe=False)

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Merge a YAML file, which may name a `_BASE_`; unknown keys and other types are errors, as in Detectron2."""
        assert PathManager.isfile(cfg_filename), f"Config file '{cfg_filename}' does not exist!"
        loaded = type(self)(self.load_yaml_with_base(cfg_filename))
        version = loaded.get("VERSION", self.VERSION)
        assert version == self.VERSION, (
            f"{cfg_filename} has config version {version}, expected {self.VERSION}."
        )
        self.merge_from_other_cfg(loaded)


def get_cfg() -> CfgNode:
    """Return a fresh copy of the default config."""
    from semask_d2.d2.native.config_defaults import DEFAULTS

    return DEFAULTS.clone()


def configurable(init_func: Callable) -> Callable:
    """Let a class's `__init__` be called with a config, which its classmethod `from_config` turns into arguments.

    Called with a `CfgNode` (first positional argument, or `cfg=`), `from_config` gets all arguments that it knows
    and returns a dict for `__init__`; keyword arguments that it does not know override that dict's entries.
    Called without one, `__init__` runs as written.
    """
    assert inspect.isfunction(init_func) and init_func.__name__ == "__init__", (
        "@configurable decorates __init__"
    )

    @functools.wraps(init_func)
    def wrapped(self, *args, **kwargs):
        from_config = getattr(type(self), "from_config", None)
        if from_config is None:
            raise AttributeError(
                f"{type(self).__name__} uses @configurable and needs a classmethod from_config."
            )
        if not inspect.ismethod(from_config):
            raise TypeError(f"{type(self).__name__}.from_config must be a classmethod.")
        given = args[0] if args else kwargs.get("cfg")
        if isinstance(given, _FvcoreCfgNode):
            init_func(self, **_arguments_from_config(from_config, args, kwargs))
        else:
            init_func(self, *args, **kwargs)

    return wrapped


def _arguments_from_config(from_config: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{from_config.__qualname__} must take 'cfg' as its first argument.")
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return from_config(*args, **kwargs)
    known = {name: value for name, value in kwargs.items() if name in parameters}
    rest = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**from_config(*args, **known), **rest}
