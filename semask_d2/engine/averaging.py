"""An exponential moving average of the weights during training."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from semask_d2.d2 import HookBase
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import Section


class WeightAverage(HookBase):
    """Keeps the average of `model`'s weights and buffers on all processes, updated after each iteration.

    Each update multiplies the average by `decay`. Early updates use a smaller factor, (1 + n) / (10 + n) at the n-th
    update, so that the initial weights are soon forgotten. Register this hook before the one that writes checkpoints,
    because a checkpoint contains its state. The state lacks the tensors of `model` that are `constant`.
    """

    def __init__(self, model: nn.Module, decay: float, constant: Collection[str] = ()):
        def update(averages: Any, values: Any, count: Any) -> None:
            weight = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
            for average, value in zip(averages, values, strict=True):
                average.lerp_(value, weight) if average.is_floating_point() else average.copy_(value)

        self.source = model
        self.constant = frozenset(f"module.{name}" for name in constant)
        self.averaged = AveragedModel(model, multi_avg_fn=torch.no_grad()(update), use_buffers=True)
        self.averaged.requires_grad_(False)

    @property
    def model(self) -> nn.Module | None:
        """The averaged model; None before training has begun."""
        return self.averaged.module if int(self.averaged.n_averaged) else None

    def before_train(self) -> None:
        if self.model is None:  # the first update is a copy
            self.averaged.update_parameters(self.source)

    def after_step(self) -> None:
        self.averaged.update_parameters(self.source)

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in self.averaged.state_dict().items() if name not in self.constant}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved average; raises `UserError` if it does not fit this model."""
        model_state = self.averaged.state_dict()
        constant = {f"module.{name}": value for name, value in self.source.state_dict().items()}
        state_dict = {name: value for name, value in constant.items() if name in self.constant} | dict(
            Section.of(state_dict, "the checkpoint's averaged weights (SOLVER.EMA)").values
        )
        for name, value in model_state.items():
            saved: Any = state_dict.get(name)
            is_whole = isinstance(saved, Tensor) and saved.layout == torch.strided and saved.shape == value.shape
            if not is_whole or saved.is_meta or saved.is_quantized or saved.is_complex():
                raise UserError(
                    f"the checkpoint's averaged weights (SOLVER.EMA) do not fit: {name} is missing or of another "
                    "shape; resume with the model it was saved with"
                )
        self.averaged.load_state_dict({name: state_dict[name] for name in model_state})
