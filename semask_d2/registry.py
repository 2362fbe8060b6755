"""Looking a component up by the name that a config gives."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from fvcore.common.registry import Registry

from semask_d2.d2 import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, CfgNode
from semask_d2.errors import UserError


def suggestion(name: str, known: list[str]) -> str:
    """' Did you mean X?' for the nearest of `known` names, or '' where none is near."""
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    return f' Did you mean "{near[0]}"?' if near else ""


def lookup(registry: Registry, name: str, key: str) -> Any:
    """The component that `registry` holds under `name`, the value of the config key `key`.

    Raises `UserError` naming the key, the value and the names there are.
    """
    if name not in registry:
        known = sorted(registered for registered, _ in registry)
        raise UserError(f'{key}: there is no "{name}".{suggestion(name, known)} Known: {", ".join(known)}')
    return registry.get(name)


def check_components(cfg: CfgNode) -> None:
    """Raise `UserError` if the config names a model, backbone or head that is not registered."""
    lookup(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")
    lookup(BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME, "MODEL.BACKBONE.NAME")
    lookup(SEM_SEG_HEADS_REGISTRY, cfg.MODEL.SEM_SEG_HEAD.NAME, "MODEL.SEM_SEG_HEAD.NAME")
