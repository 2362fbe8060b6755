"""Construction of components without a config, with the defaults of the config keys."""

from __future__ import annotations

from typing import Any, TypeVar

from semask_d2.config.defaults import add_semask_config
from semask_d2.d2 import get_cfg as get_detectron2_cfg
from semask_d2.utils.arguments import arguments_from

Component = TypeVar("Component")


def with_defaults(component: type[Component], **arguments: Any) -> Component:
    """Build a component from `arguments`; all others in its `config_keys` take the default of their key."""
    return component(**default_arguments(component, arguments))


def lazy(component: type, **arguments: Any) -> dict[str, Any]:
    """Return the LazyConfig, in the form of Detectron2's LazyCall, of the component that `with_defaults` builds."""
    return {"_target_": f"{component.__module__}.{component.__qualname__}", **default_arguments(component, arguments)}


def default_arguments(component: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return `arguments`, and the config defaults of all other arguments in the component's `config_keys`.

    Arguments that a key determines only in part, such as the shapes of features, have no default.
    """
    cfg = get_detectron2_cfg()
    add_semask_config(cfg)
    keys: dict[str, str] = getattr(component, "config_keys", {})
    without_default = {"input_shape", *arguments}
    return arguments_from(cfg, {k: v for k, v in keys.items() if k not in without_default and "." not in k}) | arguments
