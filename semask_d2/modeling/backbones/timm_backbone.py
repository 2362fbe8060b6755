"""SeMask with any timm backbone whose stages form a chain: swin, convnext, resnet, efficientnet, mobilenet, ..."""

from __future__ import annotations

import logging
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from semask_d2.d2 import BACKBONE_REGISTRY, configurable
from semask_d2.modeling.backbones.base import (
    SHARED_KEYS,
    STRIDES,
    HierarchicalBackbone,
    backbone_arguments,
    semantic_keys,
)
from semask_d2.modeling.backbones.lora import TIMM_PROJECTIONS
from semask_d2.modeling.layers.recomputation import run
from semask_d2.utils.arguments import ArgumentError, require

if TYPE_CHECKING:
    from timm.models import FeatureInfo

logger = logging.getLogger(__name__)


@BACKBONE_REGISTRY.register()
class SeMaskTimm(HierarchicalBackbone):
    """A timm model with a semantic layer after each stage (strides 4, 8, 16 and 32).

    As in SeMask Swin, the output of a semantic layer feeds the next stage and, through a LayerNorm, the output of its
    stage. `shared` are the arguments of `HierarchicalBackbone`.
    """

    config_keys: ClassVar = {
        **semantic_keys("TIMM"),
        **SHARED_KEYS,
        "name": "MODEL.TIMM.NAME",
        "drop_path_rate": "MODEL.TIMM.DROP_PATH_RATE",
    }
    attention_projections: ClassVar = TIMM_PROJECTIONS

    @configurable
    def __init__(self, *, name: str, in_channels: int = 3, **shared: Any):
        super().__init__(**shared)
        try:
            self.body = create_body(name, self.drop_path_rate, in_channels)
        except ValueError as error:
            raise ArgumentError(self, "name", f'expected {error}, got "{name}"') from error
        self.channels_last = getattr(self.body, "output_fmt", "NCHW") == "NHWC"
        features = cast("FeatureInfo", self.body.feature_info)
        self.chain = module_chain(self.body)
        self.stage_by_end = {end: stage for stage, end in enumerate(stage_ends(self.body))}
        dims = features.channels()
        self.semantic_layers = nn.ModuleList(self.semantic.layer(i, dim) or nn.Identity() for i, dim in enumerate(dims))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)
        self.declare_outputs(dims, STRIDES)
        self.freeze(self.stem_and_stages())
        for stage, modules in enumerate(self.stem_and_stages()[1:]):
            has_batch_norm = any(isinstance(m, _BatchNorm) for module in modules for m in module.modules())
            expected = f"no stage with BatchNorm (recomputing would update it twice); {name} has one there"
            allowed = not (has_batch_norm and f"res{stage + 2}" in self.checkpointing)
            require(allowed, self, "checkpointing", expected, self.checkpointing)

    def output_modules(self, name: str) -> list[nn.Module]:
        return [self.norms[int(name[3:]) - 2]]

    def stem_and_stages(self) -> list[list[nn.Module]]:
        """Return the modules of the chain in five parts: the stem and the four stages."""
        parts: list[list[nn.Module]] = [[]]
        for name in self.chain:
            module = self.body.get_submodule(name)
            parts[-1].append(module)
            if name in self.stage_by_end:
                parts.append([])
        first = parts[0]
        return [first[:-1], first[-1:], *parts[1 : len(STRIDES)]]

    @classmethod
    def from_config(cls, cfg, input_shape):
        """Return the arguments of `__init__` from `cfg.MODEL.TIMM` and the head's class count."""
        return {"in_channels": input_shape.channels, **backbone_arguments(cls, cfg, "TIMM")}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalized images (B, 3, H, W) to all features in `output_shape()`, (B, C, h, w)."""
        outputs = {}
        stage = 0  # of the current module
        for name in self.chain:
            with self.body_gradients():
                x = run(self.body.get_submodule(name), x, recompute=f"res{stage + 2}" in self.checkpointing)
            if name not in self.stage_by_end:
                continue
            stage = self.stage_by_end[name]
            tokens = x if self.channels_last else x.permute(0, 2, 3, 1)
            tokens, features, semantics = self.refine(self.semantic_layers[stage], tokens)
            if semantics is not None:
                outputs[f"sem{stage + 2}"] = semantics.permute(0, 3, 1, 2)
            outputs[f"res{stage + 2}"] = self.norms[stage](features).permute(0, 3, 1, 2)
            x = tokens if self.channels_last else tokens.permute(0, 3, 1, 2)
            stage += 1
        return outputs


def module_chain(body: nn.Module) -> list[str]:
    """Return the names of the modules of `body` in the order of application; `blocks` are listed one by one."""
    names: list[str] = []
    for name, module in body.named_children():
        if isinstance(module, nn.Sequential) and name == "blocks":  # in EfficientNets and MobileNets
            names += [f"{name}.{i}" for i in range(len(module))]
        else:
            names.append(name)
    return names


def stage_ends(body: nn.Module) -> list[str]:
    """Return the name in `module_chain` of the last module of each stage."""
    from timm.models import FeatureListNet

    if isinstance(body, FeatureListNet):
        return list(body.return_layers)
    return cast("FeatureInfo", body.feature_info).module_name()


def create_body(name: str, drop_path_rate: float, in_channels: int = 3) -> nn.Module:
    """Build the timm model `name` as a chain of modules; `ValueError` if timm has none, or its stages do not fit.

    Model families without stochastic depth are built without it, with a warning.
    """
    import timm  # imported late: it takes seconds, and only this backbone needs it
    from timm.models import FeatureListNet
    from timm.models.efficientnet import EfficientNetFeatures
    from timm.models.mobilenetv3 import MobileNetV3Features

    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3)
        raise ValueError("the name of a timm model" + (f", such as {' or '.join(near)}" if near else ""))
    options: dict[str, Any] = {"pretrained": False, "features_only": True, "in_chans": in_channels}
    options["drop_path_rate"] = drop_path_rate
    if name.startswith("swin"):  # otherwise they accept images of a fixed size only
        options["strict_img_size"] = False
    else:
        published = timm.get_pretrained_cfg(name, allow_unregistered=True)
        if published is not None and published.fixed_input_size:
            raise ValueError("a timm model that accepts images of any size")
    try:
        try:
            body = timm.create_model(name, **options)
        except TypeError as error:
            if "drop_path_rate" not in str(error):
                raise
            if options.pop("drop_path_rate"):
                logger.warning("%s has no stochastic depth: MODEL.TIMM.DROP_PATH_RATE is not used", name)
            body = timm.create_model(name, **options)
    except (RuntimeError, TypeError, AssertionError, ValueError, AttributeError, NotImplementedError) as error:
        raise ValueError(f"a timm model that outputs stages of features ({type(error).__name__}: {error})") from error
    if not isinstance(body, (FeatureListNet, EfficientNetFeatures, MobileNetV3Features)):
        raise ValueError("a timm model whose stages form a chain of modules")
    reductions = body.feature_info.reduction()
    indices = [i for i, reduction in enumerate(reductions) if reduction in STRIDES]
    if tuple(reductions[i] for i in indices) != STRIDES:
        raise ValueError(f"a timm model with features of strides {list(STRIDES)}, not {reductions}")
    if len(indices) != len(reductions):
        body = timm.create_model(name, **options, out_indices=indices)
    return body
