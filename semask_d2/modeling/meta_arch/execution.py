"""Execution of a model: precision and compilation, of which the models themselves are independent."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from semask_d2.d2 import CfgNode
from semask_d2.modeling.layers.precision import autocast_dtype, warn_of_slow_bf16
from semask_d2.modeling.meta_arch.base import SemanticSegmenter
from semask_d2.utils.arguments import arguments_from, naming_config_keys, require

COMPILATIONS = ("", "default", "reduce-overhead")  # torch.compile's modes; "" compiles nothing


@dataclass(frozen=True)
class Execution:
    """Precision and compilation of this project's models.

    `precision` "bf16" applies to training and evaluation; on a CPU, inference then casts weights once (see
    `weight_casts`). `mixed_evaluation` uses the fast dtype of a GPU in
    evaluation. Models of other projects are not affected.
    """

    precision: str
    mixed_evaluation: bool
    compilation: str

    config_keys: ClassVar = {
        "precision": "MODEL.PRECISION",
        "mixed_evaluation": "TEST.AMP.ENABLED",
        "compilation": "MODEL.COMPILE",
    }

    def __post_init__(self) -> None:
        require(self.compilation in COMPILATIONS, self, "compilation", f"one of {COMPILATIONS}", self.compilation)
        require(self.precision in ("fp32", "bf16"), self, "precision", '"fp32" or "bf16"', self.precision)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Execution:
        """Read the settings from a config; `UserError` for invalid values."""
        with naming_config_keys():
            return cls(**arguments_from(cfg, cls.config_keys))

    def dtype(self, device: torch.device, *, training: bool) -> torch.dtype | None:
        """Return the dtype of autocast on `device`; None to keep the caller's precision."""
        if self.precision == "bf16":
            return torch.bfloat16
        return autocast_dtype(device, enabled=self.mixed_evaluation and not training)

    def autocast(self, model: nn.Module) -> AbstractContextManager:
        """Return the autocast context for `model` in its current mode; `model` may be a wrapper."""
        segmenter = segmenter_within(model)
        dtype = None if segmenter is None else self.dtype(segmenter.device, training=segmenter.training)
        if segmenter is None or dtype is None:
            return nullcontext()
        if segmenter.device.type == "cpu":
            warn_of_slow_bf16()
        return torch.autocast(segmenter.device.type, dtype=dtype)

    def compile(self, model: nn.Module) -> None:
        """Compile backbone and head of this project's models in place, so that parameter names stay the same."""
        segmenter = segmenter_within(model)
        if segmenter is None or not self.compilation:
            return
        for part in (segmenter.backbone, segmenter.sem_seg_head):
            # recompile for each size of a padded batch; after 8 sizes torch stops and runs the others uncompiled. With
            # symbolic sizes, the padding to windows in each stage creates terms that torch never finishes simplifying
            part.compile(mode=self.compilation, dynamic=False)


class Executed(nn.Module):
    """Wrapper that runs `model` (or a wrapper of it) under `execution`, for loops that only call the model."""

    def __init__(self, model: nn.Module, execution: Execution):
        super().__init__()
        self.model = model
        self.execution = execution
        self.training = model.training

    def forward(self, batched_inputs: list[dict]):
        """Return the outputs of the model."""
        with self.execution.autocast(self.model):
            return self.model(batched_inputs)


def segmenter_within(model: nn.Module) -> SemanticSegmenter | None:
    """Return the model of this project that `model` is or wraps; None for models of other projects."""
    return next((module for module in model.modules() if isinstance(module, SemanticSegmenter)), None)
