"""Base class of the SeMask backbones: named outputs, a semantic layer per stage, and frozen stages."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from torch import nn
from typing_extensions import Self

from semask_d2.d2 import Backbone, CfgNode
from semask_d2.modeling.layers.recomputation import CHECKPOINTING_KEY, PARTS
from semask_d2.modeling.layers.semantic_attention import (
    SemanticInit,
    SemanticKind,
    SemanticLayer,
    SemanticResidual,
)
from semask_d2.utils.arguments import arguments_from, require

logger = logging.getLogger(__name__)

STRIDES = (4, 8, 16, 32)
FREEZE_KEY = {"freeze_at": "MODEL.BACKBONE.FREEZE_AT"}
SHARED_KEYS = {**FREEZE_KEY, "checkpointing": CHECKPOINTING_KEY}  # that every backbone reads


@dataclass(frozen=True)
class SemanticSettings:
    """Settings of a backbone's semantic layers, one after each stage; `num_blocks` 0 builds none.

    `windowed_stages` lists the stages (from 0) that attend within windows of side `window`; the others attend
    globally. The parameters have the same shapes either way, so loading cannot detect windows that differ from those
    a checkpoint was trained with. With `attention` "centers" all stages attend globally.
    """

    config_keys: ClassVar[Mapping[str, str]] = {  # each backbone's section has these keys
        "num_classes": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
        "window": "MODEL.SWIN.SEM_WINDOW_SIZE",
        "windowed_stages": "MODEL.SWIN.SEM_WINDOWED_STAGES",
        "num_blocks": "MODEL.SWIN.NUM_SEM_BLOCKS",
        "init": "MODEL.SWIN.SEM_INIT",
        "attention": "MODEL.SWIN.SEM_ATTENTION",
        "residual": "MODEL.SWIN.SEM_RESIDUAL",
    }

    num_classes: int
    window: int
    windowed_stages: Sequence[int]
    num_blocks: int
    init: SemanticInit
    attention: SemanticKind
    residual: SemanticResidual

    @classmethod
    def from_config(cls, cfg: CfgNode, section: str) -> SemanticSettings:
        """Read SEM_* and NUM_SEM_BLOCKS from the config section MODEL.`section`."""
        keys = {name.removeprefix("semantic."): key for name, key in semantic_keys(section).items()}
        return cls(**arguments_from(cfg, keys))

    def layer(self, stage: int, dim: int) -> SemanticLayer | None:
        """Build the semantic layer that follows `stage`, which has `dim` channels; None without semantic layers."""
        if not self.num_blocks:
            return None
        in_windows = stage in self.windowed_stages and self.attention != "centers"
        return SemanticLayer(
            dim,
            self.num_classes,
            window=self.window if in_windows else None,
            num_blocks=self.num_blocks,
            init=self.init,
            kind=self.attention,
            residual=self.residual,
        )


def semantic_keys(section: str) -> dict[str, str]:
    """Return the config keys of `SemanticSettings` for a backbone whose config section is MODEL.`section`."""
    keys = SemanticSettings.config_keys
    return {f"semantic.{name}": key.replace("MODEL.SWIN.", f"MODEL.{section}.") for name, key in keys.items()}


class HierarchicalBackbone(Backbone):
    """A backbone of four stages with outputs `res2`..`res5`, and `sem2`..`sem5` where it has semantic layers.

    `freeze_at` counts as in Detectron2's ResNet: 0 trains everything, 1 freezes the stem, 2 also the blocks of the
    first stage, 5 all four. Frozen parts stay in evaluation mode. Semantic layers and output norms are always trained,
    because pretrained weights seldom include them. `checkpointing` names the stages ("res2") whose blocks recompute
    their activations in the backward pass instead of storing them.
    """

    config_keys: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self, *, semantic: SemanticSettings, drop_path_rate: float, freeze_at: int, checkpointing: Sequence[str]
    ) -> None:
        super().__init__()
        self.semantic = semantic
        self.drop_path_rate = drop_path_rate
        self.freeze_at = freeze_at
        self._out_features: list[str] = []
        self._out_feature_channels: dict[str, int] = {}
        self._out_feature_strides: dict[str, int] = {}
        self.frozen: list[nn.Module] = []
        self.checkpointing = tuple(checkpointing)
        require(set(checkpointing) <= set(PARTS), self, "checkpointing", f"some of {PARTS}", list(checkpointing))
        stages = list(semantic.windowed_stages)
        indices = "stage indices from 0 to 3"
        require(set(stages) <= set(range(4)), self, "semantic.windowed_stages", indices, stages)
        choices = {
            "init": get_args(SemanticInit),
            "attention": get_args(SemanticKind),
            "residual": get_args(SemanticResidual),
        }
        for name, values in choices.items():
            value = getattr(semantic, name)
            require(value in values, self, f"semantic.{name}", " or ".join(f'"{x}"' for x in values), value)
        for name in ("num_classes", "window"):
            value = getattr(semantic, name)
            require(value >= 1, self, f"semantic.{name}", "at least 1", value)
        require(semantic.num_blocks >= 0, self, "semantic.num_blocks", "at least 0", semantic.num_blocks)
        require(0 <= drop_path_rate < 1, self, "drop_path_rate", "at least 0 and below 1", drop_path_rate)

    def require_dividing_heads(self, dims: Sequence[int], num_heads: Sequence[int]) -> None:
        """Raise `ArgumentError` unless the number of heads of each stage divides its number of channels."""
        for stage, (dim, heads) in enumerate(zip(dims, num_heads, strict=True)):
            expected = f"numbers that divide the channels of their stage; stage {stage} has {dim} channels"
            require(heads >= 1 and dim % heads == 0, self, "num_heads", expected, list(num_heads))

    def declare_outputs(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        out_features: Collection[str] | None = None,
        *,
        semantic_strides: Sequence[int] | None = None,
    ) -> None:
        """Declare the outputs in `out_features` (None: all), with width and stride, and all semantic maps.

        `semantic_strides` None means that semantic maps have the strides of the features.
        """
        outputs = [(f"res{i}", dim, stride) for i, (dim, stride) in enumerate(zip(dims, strides, strict=True), 2)]
        if out_features is not None:
            outputs = [output for output in outputs if output[0] in out_features]
        if self.semantic.num_blocks:
            outputs += [
                (f"sem{i}", self.semantic.num_classes, stride)
                for i, stride in enumerate(semantic_strides or strides, 2)
            ]
        for output in outputs:
            self.declare(*output)

    def declare(self, name: str, channels: int, stride: int) -> None:
        """Declare one output."""
        self._out_features.append(name)
        self._out_feature_channels[name] = channels
        self._out_feature_strides[name] = stride

    def freeze(self, parts: Sequence[Sequence[nn.Module]]) -> None:
        """Freeze the first `freeze_at` of `parts`: the stem and the blocks of each stage."""
        freeze_at = self.freeze_at
        require(0 <= freeze_at <= len(parts), self, "freeze_at", f"from 0 to {len(parts)}", freeze_at)
        self.frozen = [module for part in parts[:freeze_at] for module in part]
        for module in self.frozen:
            module.requires_grad_(False)
        if freeze_at:
            names = ["the stem", *(f"res{i}" for i in range(2, 6))][:freeze_at]
            logger.info("%s %d freezes %s", FREEZE_KEY["freeze_at"], freeze_at, ", ".join(names))

    def output_norm(self, name: str) -> nn.Module | None:
        """Return the norm that is applied to the output `name` ("res2") alone; None without one."""
        return None

    def freeze_unused_outputs(self, used: Collection[str]) -> None:
        """Freeze norms of unused outputs: distributed training needs a gradient for every trainable parameter."""
        for name in self._out_features:
            norm = self.output_norm(name)
            if norm is not None and name not in used:
                norm.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen modules stay in evaluation mode."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    @property
    def size_divisibility(self) -> int:
        """Stride of `res5`, 32: with inputs padded to a multiple of it, every stage divides the input exactly."""
        return max(self._out_feature_strides.values())


def backbone_arguments(cls: type[HierarchicalBackbone], cfg: CfgNode, section: str) -> dict[str, Any]:
    """Return the arguments that a backbone's `from_config` reads: those of `config_keys` and the semantic settings."""
    keys = {name: key for name, key in cls.config_keys.items() if not name.startswith("semantic.")}
    return {"semantic": SemanticSettings.from_config(cfg, section), **arguments_from(cfg, keys)}
