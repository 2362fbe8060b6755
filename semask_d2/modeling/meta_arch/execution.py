"""How a model is run: in which precision, and compiled or not. Models themselves know nothing of it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from semask_d2.d2 import CfgNode
from semask_d2.modeling.layers.precision import autocast_dtype
from semask_d2.modeling.meta_arch.base import SemanticSegmenter
from semask_d2.utils.arguments import arguments_from, naming_config_keys, require

COMPILATIONS = ("", "default", "reduce-overhead")  # torch.compile's modes; "" compiles nothing


@dataclass(frozen=True)
class Execution:
    """The precision that this project's models run in, and how they are compiled.

    `precision` "bf16" is for training and evaluation; `mixed_evaluation` is the quick dtype of a GPU, for evaluation.
    Models of other projects run as their caller runs them.
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
        """Return how a config's model is run; `UserError` for values that no model can be run with."""
        with naming_config_keys():
            return cls(**arguments_from(cfg, cls.config_keys))

    def dtype(self, device: torch.device, *, training: bool) -> torch.dtype | None:
        """Return the dtype of autocast on `device`; None where the caller's precision holds."""
        if self.precision == "bf16":
            return torch.bfloat16
        return autocast_dtype(device, enabled=self.mixed_evaluation and not training)

    def autocast(self, model: nn.Module) -> AbstractContextManager:
        """Return the context to run `model` in, by its mode; the model may stand within wrappers."""
        segmenter = segmenter_within(model)
        dtype = None if segmenter is None else self.dtype(segmenter.device, training=segmenter.training)
        if segmenter is None or dtype is None:
            return nullcontext()
        return torch.autocast(segmenter.device.type, dtype=dtype)

    def compile(self, model: nn.Module) -> None:
        """Compile backbone and head of this project's models in place, so that no name of a parameter changes."""
        segmenter = segmenter_within(model)
        if segmenter is None or not self.compilation:
            return
        for part in (segmenter.backbone, segmenter.sem_seg_head):
            # anew for each size of a padded batch, until torch has had enough of them (8) and the others run as they
            # are: with symbolic sizes, each stage's padding to windows makes terms that keep it busy for ever
            part.compile(mode=self.compilation, dynamic=False)


class Executed(nn.Module):
    """`model`, or a wrapper of one, run as `execution` says, for loops that only call it."""

    def __init__(self, model: nn.Module, execution: Execution):
        super().__init__()
        self.model = model
        self.execution = execution
        self.training = model.training

    def forward(self, batched_inputs: list[dict]):
        """The model's outputs."""
        with self.execution.autocast(self.model):
            return self.model(batched_inputs)


def segmenter_within(model: nn.Module) -> SemanticSegmenter | None:
    """Return this project's model that `model` is or wraps; None for models of other projects."""
    return next((module for module in model.modules() if isinstance(module, SemanticSegmenter)), None)
