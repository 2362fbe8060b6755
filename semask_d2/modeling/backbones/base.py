"""Base class of the SeMask backbones: named outputs, a semantic layer per stage, and what training changes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

from semask_d2.d2 import Backbone, CfgNode
from semask_d2.modeling.backbones.layer_order import layers_of
from semask_d2.modeling.backbones.lora import LoraSettings, add_adapters, is_adapter
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
STAGE_OUTPUTS = ("res2", "res3", "res4", "res5")
Tuning = Literal["full", "frozen", "lora"]
TUNING_KEY = "MODEL.BACKBONE.TRAIN"
FREEZE_KEY = {"freeze_at": "MODEL.BACKBONE.FREEZE_AT"}
SHARED_KEYS = {  # that every backbone reads
    **FREEZE_KEY,
    "checkpointing": CHECKPOINTING_KEY,
    "tuning": TUNING_KEY,
    "lora_rank": "MODEL.BACKBONE.LORA.RANK",
    "lora_alpha": "MODEL.BACKBONE.LORA.ALPHA",
    "lora_dropout": "MODEL.BACKBONE.LORA.DROPOUT",
    "lora_targets": "MODEL.BACKBONE.LORA.TARGETS",
}


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

    The additions of a backbone, which pretrained weights seldom include, are always trained: semantic layers, output
    norms and pyramids. `tuning` decides about all other layers, the pretrained ones:

    - "full": they are trained, except for the first `freeze_at` parts. These count as in Detectron2's ResNet: 0 freezes
      nothing, 1 the stem, 2 also the blocks of the first stage, 5 all four. Frozen parts stay in evaluation mode.
    - "frozen": all stay as they are, in evaluation mode, and keep no activations. Semantic layers are a side network:
      they read the output of a stage and write to the outputs, and the next stage gets the output of the stage itself.
      So no gradient flows through pretrained layers.
    - "lora": they stay as they are, but get low-rank adapters, which are trained (`add_adapters`). Dropout and
      stochastic depth work as in training; batch norms keep their statistics. Frozen parts get no adapters.

    `checkpointing` names the stages ("res2") whose blocks recompute their activations in the backward pass instead of
    storing them.
    """

    config_keys: ClassVar[Mapping[str, str]] = {}
    attention_projections: ClassVar[Sequence[str]] = ()  # ends of their names: what adapters are for by default

    def __init__(
        self,
        *,
        semantic: SemanticSettings,
        drop_path_rate: float,
        freeze_at: int,
        checkpointing: Sequence[str],
        tuning: Tuning,
        lora_rank: int,
        lora_alpha: float,
        lora_dropout: float,
        lora_targets: Sequence[str],
    ) -> None:
        super().__init__()
        self.semantic = semantic
        self.drop_path_rate = drop_path_rate
        self.freeze_at = freeze_at
        self.tuning = tuning
        self.lora = LoraSettings(lora_rank, lora_alpha, lora_dropout, (*lora_targets,))
        self._out_features: list[str] = []
        self._out_feature_channels: dict[str, int] = {}
        self._out_feature_strides: dict[str, int] = {}
        self.parts: list[list[nn.Module]] = []
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
        tunings = get_args(Tuning)
        require(tuning in tunings, self, "tuning", " or ".join(f'"{x}"' for x in tunings), tuning)
        require(lora_rank >= 1, self, "lora_rank", "at least 1", lora_rank)
        require(lora_alpha > 0, self, "lora_alpha", "a number above 0", lora_alpha)
        require(0 <= lora_dropout < 1, self, "lora_dropout", "at least 0 and below 1", lora_dropout)
        names = all(isinstance(name, str) and name for name in lora_targets)
        require(names, self, "lora_targets", 'ends of names, such as ["attn.qkv", "mlp.fc1"]', list(lora_targets))

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
        """Freeze pretrained layers as `tuning` and `freeze_at` say; the last step of a backbone's construction.

        `parts` are the stem and the blocks of each stage, in the order of their application.
        """
        freeze_at = self.freeze_at
        require(0 <= freeze_at <= len(parts), self, "freeze_at", f"from 0 to {len(parts)}", freeze_at)
        self.parts = [[*part] for part in parts]
        self.frozen = [module for part in parts[:freeze_at] for module in part]
        if freeze_at:
            for module in self.frozen:
                module.requires_grad_(False)
            for parameter in self.pretrained_layers()[0]:  # the stem's may lie outside of its modules
                parameter.requires_grad_(False)
            names = ["the stem", *STAGE_OUTPUTS][:freeze_at]
            logger.info("%s %d freezes %s", FREEZE_KEY["freeze_at"], freeze_at, ", ".join(names))
        if self.tuning == "full":
            return
        self.requires_grad_(False)
        if self.tuning == "lora":
            additions = {module for addition in self.additions() for module in addition.modules()}
            excluded = additions | {module for part in self.frozen for module in part.modules()}
            add_adapters(self, self.lora, self.attention_projections, excluded)
        for module in self.additions():
            module.requires_grad_(True)
        trained = "adapters and additions" if self.tuning == "lora" else "additions"
        logger.info("%s %s: only %s of the backbone are trained", TUNING_KEY, self.tuning, trained)

    def additions(self) -> list[nn.Module]:
        """Return the modules that are trained in any case: semantic layers, output norms and pyramids."""
        semantic_layers = [module for module in self.modules() if isinstance(module, SemanticLayer)]
        return [*semantic_layers, *(module for name in STAGE_OUTPUTS for module in self.output_modules(name))]

    def pretrained_layers(self) -> list[list[nn.Parameter]]:
        """Return the parameters of the pretrained layers in the order of application; the stem is the first layer."""
        additions = {parameter for module in self.additions() for parameter in module.parameters()}
        return layers_of(self.parts, [parameter for parameter in self.parameters() if parameter not in additions])

    def pretrained_names(self) -> set[str]:
        """Return the names, in the state dict, of the parameters and buffers of pretrained layers."""
        added = {id(x) for module in self.additions() for x in module.state_dict(keep_vars=True).values()}
        state = self.state_dict(keep_vars=True)
        return {name for name, value in state.items() if id(value) not in added and not is_adapter(name)}

    def body_gradients(self) -> AbstractContextManager[Any]:
        """Return the context for pretrained layers: without gradients if they are frozen."""
        frozen = self.tuning == "frozen" and torch.is_grad_enabled()
        return torch.no_grad() if frozen else nullcontext()

    def refine(self, semantic_layer: nn.Module | None, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Apply the semantic layer of a stage, if it has one, to the stage's output (B, H, W, C).

        Returns the input of the next stage, the features to output, and the semantic map, None without a layer.
        """
        if not isinstance(semantic_layer, SemanticLayer):
            return x, x, None
        refined, semantics = semantic_layer(x)
        return (x if self.tuning == "frozen" else refined), refined, semantics

    def semantic_layer(self, name: str) -> SemanticLayer | None:
        """Return the semantic layer of the stage with the output `name` ("res2"); None without semantic layers."""
        layers = [module for module in self.modules() if isinstance(module, SemanticLayer)]
        return layers[STAGE_OUTPUTS.index(name)] if layers else None

    def output_modules(self, name: str) -> list[nn.Module]:
        """Return the modules that are applied to the output `name` ("res2") alone: norms, and levels of a pyramid."""
        return []

    def freeze_unused_outputs(self, used: Collection[str]) -> None:
        """Freeze what serves unused outputs only: distributed training needs a gradient for every trained parameter."""
        for name in STAGE_OUTPUTS:
            if name in used:
                continue
            for module in self.output_modules(name):
                module.requires_grad_(False)
            semantic_layer = self.semantic_layer(name)
            if name == STAGE_OUTPUTS[-1]:
                feeds_others = name not in self._out_features  # the blocks of a head
            else:
                feeds_others = self.tuning != "frozen"
            if semantic_layer is not None and not feeds_others:
                for parameter in semantic_layer.parameters_of_features():
                    parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen modules stay in evaluation mode."""
        super().train(mode)
        if self.tuning == "frozen":
            for module in self.children():
                module.eval()
            for module in self.additions():
                module.train(mode)
        elif self.tuning == "lora":
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
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
