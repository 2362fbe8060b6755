"""Low-rank adapters of a backbone's layers (LoRA, arXiv 2106.09685), by the peft library.

A layer W with an adapter computes W x + (alpha / rank) B A x. B starts as zero, so training starts from the pretrained
model. In state dicts the layer keeps its name: `attn.qkv.weight` has `attn.qkv.lora_A.default.weight` beside it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn

from semask_d2.utils.arguments import ArgumentError
from semask_d2.utils.errors import UserError
from semask_d2.utils.extras import install_command

ADAPTER = re.compile(r"(.*\.)?lora_[AB]\.")
BASE = ".base_layer."  # within peft's names of a wrapped layer's tensors
# attention projections of timm's models; q_proj and such are separate in some of its ViTs
TIMM_PROJECTIONS = tuple(f"attn.{name}" for name in ("qkv", "q", "kv", "q_proj", "k_proj", "v_proj", "proj"))


class LoraSettings(NamedTuple):
    """Settings of the adapters; `targets` are ends of layer names, () means the attention projections."""

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]


def is_adapter(name: str) -> bool:
    """Return whether a tensor of this name belongs to an adapter."""
    return bool(ADAPTER.match(name))


def add_adapters(
    backbone: nn.Module, settings: LoraSettings, projections: Sequence[str], excluded: Collection[nn.Module]
) -> None:
    """Add adapters to the layers of `backbone` that `settings` select, by default its attention `projections`.

    Layers in `excluded` get none. Raises `ArgumentError` if no layer is left, and `UserError` without peft.
    """
    ends = settings.targets or tuple(projections)
    matching = [
        (name, module)
        for name, module in backbone.named_modules()
        if module not in excluded and any(f".{name}".endswith(f".{end}") for end in ends)
    ]
    names = [name for name, module in matching if isinstance(module, (nn.Linear, nn.Conv2d))]
    if not names and not settings.targets:
        problem = (
            'expected "full" or "frozen", got "lora": the backbone has no attention layers (named '
            f"{', '.join(projections)}); for adapters of others, set MODEL.BACKBONE.LORA.TARGETS"
        )
        raise ArgumentError(backbone, "tuning", problem)
    unmatched = [end for end in ends if not any(f".{name}".endswith(f".{end}") for name in names)]
    if settings.targets and unmatched:
        raise ArgumentError(
            backbone,
            "lora_targets",
            f'expected ends of names of linear or convolution layers; none ends in "{unmatched[0]}"',
        )
    try:
        from peft import LoraConfig, inject_adapter_in_model  # imported late: it takes seconds
    except ImportError as error:
        raise UserError(f'MODEL.BACKBONE.TRAIN: "lora" needs peft: {install_command("lora")}') from error
    pattern = "|".join(map(re.escape, names))  # for whole names
    alpha: Any = settings.alpha  # declared as an integer
    config = LoraConfig(r=settings.rank, lora_alpha=alpha, lora_dropout=settings.dropout, target_modules=pattern)
    inject_adapter_in_model(config, backbone)
    for module in backbone.modules():
        if hasattr(module, "qkv_bias_separate"):  # in timm; otherwise it multiplies by the weight of `qkv` itself
            setattr(module, "qkv_bias_separate", True)  # noqa: B010 - not an attribute of every module
    backbone.register_state_dict_post_hook(_hide_base)
    backbone.register_load_state_dict_pre_hook(_show_base)


def _hide_base(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    """Give the tensors of wrapped layers their own names in a state dict, in which `module` has the `prefix`."""
    items = list(state.items())
    state.clear()
    for name, value in items:
        state[name.replace(BASE, ".") if name.startswith(prefix) else name] = value


def _show_base(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give the tensors of wrapped layers peft's names in a state dict to load."""
    for layer in adapted_layers(module):
        whole = f"{prefix}{layer}"
        for name in [name for name in state if name.rpartition(".")[0] == whole]:
            state[f"{whole}{BASE}{name.removeprefix(f'{whole}.')}"] = state.pop(name)


def adapted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers with adapters, peft's `LoraLayer`s, by name."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


@contextmanager
def merged_adapters(model: nn.Module) -> Iterator[None]:
    """Replace the layers of `model` with adapters by plain ones that compute the same, within the block.

    The state dict is then that of a model without adapters.
    """
    adapted = adapted_layers(model)
    try:
        for name, layer in adapted.items():
            model.set_submodule(name, merged(layer))
        yield
    finally:
        for name, layer in adapted.items():
            model.set_submodule(name, layer)


def merged(layer: Any) -> nn.Module:
    """Return the plain layer that computes the same as a `LoraLayer`."""
    base: nn.Module = layer.get_base_layer()
    plain = copy.copy(base)  # shares everything with the base layer, except for the weight
    plain._parameters = dict(base._parameters)
    weight: Any = base.weight
    for adapter in layer.active_adapters:
        weight = weight + layer.get_delta_weight(adapter)
    plain.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return plain
