"""Weights in bf16 for inference on a CPU, cast once and again after they change.

Autocast casts all weights in every call and keeps what follows an fp32 parameter in fp32. Here a model runs with twins
of its modules: they share everything with the modules but the parameters, which are copies in bf16, so that products
and all between them are in bf16. The model itself, its state dict and its training know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from semask_d2.modeling.kernels.graphs import is_compiled
from semask_d2.modeling.layers.frozen_batch_norm import FrozenBatchNorm

Parts = tuple[Callable[..., Any], Callable[..., Any]]  # backbone and head


class Cast(NamedTuple):
    """The `value` of a parameter in bf16, and the state of the parameter that it was cast from."""

    parameter: Tensor
    version: int
    address: int
    value: Tensor


class WeightCasts:
    """The parameters of a model in bf16, for `twins` of its modules.

    A cast is repeated if its parameter was replaced or changed in place. Only in-place changes through `.data` go
    unnoticed, until `clear`. A copied or pickled model starts without casts.
    """

    def __init__(self) -> None:
        self._casts: dict[int, Cast] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return WeightCasts, ()

    def clear(self) -> None:
        """Forget all casts."""
        self._casts = {}

    def twins(self, modules: Iterable[nn.Module]) -> list[nn.Module]:
        """Return twins of `modules` whose parameters are in bf16, except for those of norms.

        They are built anew in each call, in about a thousandth of an inference's time, so that hooks and attributes
        are those of the modules. A compiled or scripted module is its own twin, with the parameters it has.
        """
        casts: dict[int, Cast] = {}
        twins: dict[int, nn.Module] = {}  # shared modules have one

        def cast(parameter: Tensor | None) -> Tensor | None:
            if parameter is None or parameter.dtype != torch.float32:
                return parameter
            if parameter.is_inference():  # its changes cannot be noticed
                return parameter.bfloat16()
            known = casts.get(id(parameter)) or self._casts.get(id(parameter))
            state = (parameter._version, parameter.data_ptr())
            if known is None or known.parameter is not parameter or (known.version, known.address) != state:
                known = Cast(parameter, *state, parameter.detach().bfloat16())
            casts[id(parameter)] = known
            return known.value

        def twin_of(module: nn.Module) -> nn.Module:
            if id(module) in twins:
                return twins[id(module)]
            if has_fixed_weights(module):
                return module
            twin = twins[id(module)] = object.__new__(type(module))
            fields = vars(module)
            vars(twin).update(fields)  # not by setattr, which is slow in modules
            children = {name: child and twin_of(child) for name, child in fields["_modules"].items()}
            vars(twin)["_modules"] = children
            weight = fields["_parameters"].get("weight")
            if weight is None or weight.ndim > 1:  # not a norm
                vars(twin)["_parameters"] = {name: cast(x) for name, x in fields["_parameters"].items()}
            return twin

        result = [twin_of(module) for module in modules]
        self._casts = casts
        return result


def parts_in_bf16(backbone: nn.Module, head: nn.Module, casts: WeightCasts) -> Parts:
    """Return backbone and head for inference in bf16 on a CPU; a mobile backbone stays in fp32.

    If one of them is compiled or scripted, they run as they are.
    """
    if has_fixed_weights(backbone) or has_fixed_weights(head):
        return backbone, head
    if is_mobile(backbone):
        (head,) = casts.twins([head])
        return without_autocast(backbone), head
    backbone, head = casts.twins([backbone, head])
    return backbone, head


def is_mobile(backbone: nn.Module) -> bool:
    """Return whether a backbone is like MobileNet and EfficientNet: depthwise convolutions with batch norms.

    In bf16 they are no faster, and change 0.3 to 0.7 % of the labels of trained models (EfficientNet-Lite0), where a
    Swin changes 0.02 %.
    """
    modules = [*backbone.modules()]
    depthwise = any(isinstance(x, nn.Conv2d) and x.groups == x.in_channels > 1 for x in modules)
    return depthwise and any(isinstance(x, (_BatchNorm, FrozenBatchNorm)) for x in modules)


def without_autocast(module: nn.Module) -> Callable[[Tensor], Any]:
    """Return `module` as a function that is computed in the precision of its parameters."""

    def run(x: Tensor) -> Any:
        with torch.autocast(x.device.type, enabled=False):
            return module(x)

    return run


def has_fixed_weights(module: nn.Module) -> bool:
    """Return whether `module` is compiled or scripted, so that its parameters cannot be exchanged."""
    return is_compiled(module) or isinstance(module, torch.jit.ScriptModule)
