"""Components without a config: their arguments by default are those of the config keys that they come from."""

from __future__ import annotations

from typing import Any, TypeVar

from semask_d2.config.defaults import add_semask_config
from semask_d2.d2 import get_cfg as get_detectron2_cfg
from semask_d2.utils.arguments import arguments_from

Component = TypeVar("Component")


def with_defaults(component: type[Component], **arguments: Any) -> Component:
    """Build a component of these `arguments`, and for the others of its `config_keys` of these keys' defaults."""
    return component(**default_arguments(component, arguments))


def lazy(component: type, **arguments: Any) -> dict[str, Any]:
    """Return the LazyConfig, as Detectron2's LazyCall writes it, of what `with_defaults` builds of the same."""
    return {"_target_": f"{component.__module__}.{component.__qualname__}", **default_arguments(component, arguments)}


def default_arguments(component: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return `arguments`, and the defaults of the keys of all others that `config_keys` of a component names.

    What a key tells only in part, such as the shapes of features, has no default.
    """
    cfg = get_detectron2_cfg()
    add_semask_config(cfg)
    keys: dict[str, str] = getattr(component, "config_keys", {})
    without_default = {"input_shape", *arguments}
    return arguments_from(cfg, {k: v for k, v in keys.items() if k not in without_default and "." not in k}) | arguments
