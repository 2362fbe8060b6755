"""ResNet (arXiv 1512.03385) and DeepLab's variant (arXiv 1706.05587) without SeMask, under Detectron2's names.

Parameters, settings and results are those of Detectron2's `build_resnet_backbone`, and of
`build_resnet_deeplab_backbone` in its DeepLab project. On the detectron2 backend Detectron2's own builders are used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from semask_d2.d2 import BACKBONE_REGISTRY, Backbone, CfgNode, ShapeSpec, configurable
from semask_d2.modeling.backbones.base import FREEZE_KEY
from semask_d2.modeling.layers.conv import ConvNorm
from semask_d2.modeling.layers.frozen_batch_norm import FrozenBatchNorm
from semask_d2.utils.arguments import arguments_from, require, value_of

logger = logging.getLogger(__name__)

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # by depth
BASIC = (18, 34)  # depths with basic blocks (two convolutions), not bottlenecks
STAGES = ("res2", "res3", "res4", "res5")
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "FrozenBN": FrozenBatchNorm,
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
}
DEEPLAB_KEYS = {
    "stem_type": "MODEL.RESNETS.STEM_TYPE",
    "res4_dilation": "MODEL.RESNETS.RES4_DILATION",
    "res5_multi_grid": "MODEL.RESNETS.RES5_MULTI_GRID",
}
WITHOUT_DEEPLAB: dict[str, Any] = {"stem_type": "basic", "res4_dilation": 1, "res5_multi_grid": [1, 1, 1]}


def convolution(
    in_channels: int, out_channels: int, kernel: int, norm: str, *, relu: bool = True, **geometry: int
) -> ConvNorm:
    """Build a convolution without bias, its norm and, with `relu`, a ReLU; weights are Kaiming normal by fan-out."""
    activation = torch.relu_ if relu else None
    layer = ConvNorm(
        in_channels, out_channels, kernel, norm=NORMS[norm](out_channels), activation=activation, **geometry
    )
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class Stem(nn.Module):
    """Stem of stride 4: a 7x7 convolution, or DeepLab's three 3x3 convolutions, then max pooling."""

    def __init__(self, in_channels: int, out_channels: int, norm: str, kind: str):
        super().__init__()
        if kind == "basic":
            self.conv1 = convolution(in_channels, out_channels, 7, norm, stride=2)
        else:
            half = out_channels // 2
            self.conv1 = convolution(in_channels, half, 3, norm, stride=2)
            self.conv2 = convolution(half, half, 3, norm)
            self.conv3 = convolution(half, out_channels, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C, ceil(H / 4), ceil(W / 4))."""
        for layer in self.children():
            x = layer(x)
        return F.max_pool2d(x, 3, stride=2, padding=1)


class ResidualBlock(nn.Module):
    """Residual block: the subclass's convolutions, a shortcut (projected where widths differ) and a ReLU."""

    shortcut: nn.Module | None

    def __init__(self, in_channels: int, out_channels: int, norm: str, stride: int):
        super().__init__()
        project = in_channels != out_channels
        self.shortcut = convolution(in_channels, out_channels, 1, norm, relu=False, stride=stride) if project else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C, ceil(H / stride), ceil(W / stride))."""
        y = x
        for name, layer in self.named_children():
            if name != "shortcut":
                y = layer(y)
        return torch.relu_(y.add_(x if self.shortcut is None else self.shortcut(x)))


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int, norm: str, *, stride: int):
        super().__init__(in_channels, out_channels, norm, stride)
        self.conv1 = convolution(in_channels, out_channels, 3, norm, stride=stride)
        self.conv2 = convolution(out_channels, out_channels, 3, norm, relu=False)


class BottleneckBlock(ResidualBlock):
    """1x1 to `width`, 3x3 in `groups` with `dilation`, 1x1 out; `stride_in_1x1` puts the stride in the first 1x1."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm: str,
        *,
        width: int,
        stride: int,
        groups: int,
        dilation: int,
        stride_in_1x1: bool,
    ):
        super().__init__(in_channels, out_channels, norm, stride)
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = convolution(in_channels, width, 1, norm, stride=first)
        self.conv2 = convolution(width, width, 3, norm, stride=second, groups=groups, dilation=dilation)
        self.conv3 = convolution(width, out_channels, 1, norm, relu=False)


class ResNet(Backbone):
    """ResNet-18 to 152, with the outputs of `stem` and `res2`..`res5` that `out_features` names.

    Strides are 4 to 32, smaller where `res4_dilation` or `res5_dilation` replaces a stride. `freeze_at` 1 freezes the
    stem, 2 also the first stage, 5 everything; frozen batch norms become "FrozenBN".
    """

    config_keys: ClassVar[Mapping[str, str]] = {
        **FREEZE_KEY,
        **DEEPLAB_KEYS,
        "depth": "MODEL.RESNETS.DEPTH",
        "norm": "MODEL.RESNETS.NORM",
        "stem_out_channels": "MODEL.RESNETS.STEM_OUT_CHANNELS",
        "res2_out_channels": "MODEL.RESNETS.RES2_OUT_CHANNELS",
        "num_groups": "MODEL.RESNETS.NUM_GROUPS",
        "width_per_group": "MODEL.RESNETS.WIDTH_PER_GROUP",
        "stride_in_1x1": "MODEL.RESNETS.STRIDE_IN_1X1",
        "res5_dilation": "MODEL.RESNETS.RES5_DILATION",
        "out_features": "MODEL.RESNETS.OUT_FEATURES",
        "deform_on_per_stage": "MODEL.RESNETS.DEFORM_ON_PER_STAGE",
    }

    @configurable
    def __init__(
        self,
        *,
        in_channels: int = 3,
        depth: int,
        norm: str,
        stem_type: str,
        stem_out_channels: int,
        res2_out_channels: int,
        num_groups: int,
        width_per_group: int,
        stride_in_1x1: bool,
        res4_dilation: int,
        res5_dilation: int,
        res5_multi_grid: Sequence[int],
        out_features: Sequence[str],
        deform_on_per_stage: Sequence[bool],
        freeze_at: int,
    ):
        super().__init__()
        require(depth in BLOCKS, self, "depth", f"one of {list(BLOCKS)}", depth)
        require(norm in NORMS, self, "norm", f"one of {list(NORMS)}", norm)
        require(stem_type in ("basic", "deeplab"), self, "stem_type", '"basic" or "deeplab"', stem_type)
        names = ("stem", *STAGES)
        require(
            bool(out_features) and {*out_features} <= {*names}, self, "out_features", f"some of {names}", out_features
        )
        require(0 <= freeze_at <= 5, self, "freeze_at", "from 0 to 5", freeze_at)
        expected = "False for every stage; only the detectron2 backend has deformable convolutions in a ResNet"
        require(not any(deform_on_per_stage), self, "deform_on_per_stage", expected, deform_on_per_stage)
        require(num_groups >= 1, self, "num_groups", "at least 1", num_groups)
        for name, count in {
            "stem_out_channels": stem_out_channels,
            "res2_out_channels": res2_out_channels,
            "width_per_group": width_per_group,
        }.items():
            require(count >= 2, self, name, "at least 2", count)
        self.check_dilation(res4_dilation, res5_dilation, res5_multi_grid)
        if depth in BASIC:
            for name, value, allowed in (
                ("res2_out_channels", res2_out_channels, 64),
                ("num_groups", num_groups, 1),
                ("res4_dilation", res4_dilation, 1),
                ("res5_dilation", res5_dilation, 1),
            ):
                require(value == allowed, self, name, f"{allowed}, with a depth of 18 or 34", value)

        self.stem = Stem(in_channels, stem_out_channels, norm, stem_type)
        self._out_features = list(out_features)
        self._out_feature_channels, self._out_feature_strides = {"stem": stem_out_channels}, {"stem": 4}
        channels, stride = stem_out_channels, 4
        last = max(names.index(name) for name in out_features)
        self.stage_names = STAGES[:last]  # later stages would get no gradient
        for i, name in enumerate(self.stage_names):
            dilation = {"res4": res4_dilation, "res5": res5_dilation}.get(name, 1)
            first_stride = 1 if name == "res2" or dilation > 1 else 2
            out_channels, width = res2_out_channels * 2**i, num_groups * width_per_group * 2**i
            blocks: list[nn.Module] = []
            for j in range(BLOCKS[depth][i]):
                block_stride = 1 if j else first_stride
                if depth in BASIC:
                    blocks.append(BasicBlock(channels, out_channels, norm, stride=block_stride))
                else:
                    grid = res5_multi_grid[j] if name == "res5" else 1
                    block = BottleneckBlock(
                        channels,
                        out_channels,
                        norm,
                        width=width,
                        stride=block_stride,
                        groups=num_groups,
                        dilation=dilation * grid,
                        stride_in_1x1=stride_in_1x1,
                    )
                    blocks.append(block)
                channels = out_channels
            self.add_module(name, nn.Sequential(*blocks))
            stride *= first_stride
            self._out_feature_channels[name], self._out_feature_strides[name] = channels, stride
        for part in [self.stem, *(getattr(self, name) for name in self.stage_names)][:freeze_at]:
            freeze(part)

    def check_dilation(self, res4: int, res5: int, multi_grid: Sequence[int]) -> None:
        """Raise `ArgumentError` for an invalid combination of dilations."""
        require(res4 in (1, 2), self, "res4_dilation", "1 or 2", res4)
        allowed = (4,) if res4 == 2 else (1, 2, 4)
        expected = " or ".join(map(str, allowed)) + f", with a RES4_DILATION of {res4}"
        require(res5 in allowed, self, "res5_dilation", expected, res5)
        expected = "three numbers of at least 1, one per block"
        require(len(multi_grid) == 3 and min(multi_grid) >= 1, self, "res5_multi_grid", expected, list(multi_grid))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec):
        """Return the arguments of `__init__` from `cfg.MODEL.RESNETS`, except DeepLab's."""
        keys = {name: key for name, key in cls.config_keys.items() if name not in DEEPLAB_KEYS}
        return {"in_channels": input_shape.channels, **arguments_from(cfg, keys)}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalized images (B, 3, H, W) to all features in `output_shape()`, (B, C, h, w)."""
        x = self.stem(x)
        outputs = {"stem": x}
        for name in self.stage_names:
            outputs[name] = x = getattr(self, name)(x)
        return {name: outputs[name] for name in outputs if name in self._out_features}


def freeze(part: nn.Module) -> None:
    """Freeze a part of a ResNet, including the statistics of its batch norms."""
    part.requires_grad_(False)
    for layer in list(part.modules()):
        if isinstance(layer, ConvNorm) and isinstance(layer.norm, _BatchNorm):
            layer.norm = FrozenBatchNorm.from_batch_norm(layer.norm)


def build_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build a ResNet from MODEL.RESNETS; as in Detectron2, DeepLab's keys are not read."""
    for name, key in DEEPLAB_KEYS.items():
        if (value := value_of(cfg, key)) != WITHOUT_DEEPLAB[name]:
            logger.warning("%s %s is not used: only build_resnet_deeplab_backbone reads it", key, value)
    return ResNet(cfg, input_shape, **WITHOUT_DEEPLAB)


def build_resnet_deeplab_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build a ResNet from MODEL.RESNETS, with DeepLab's stem and dilations of the last two stages."""
    return ResNet(cfg, input_shape, **arguments_from(cfg, DEEPLAB_KEYS))


for _build in (build_resnet_backbone, build_resnet_deeplab_backbone):
    if _build.__name__ not in BACKBONE_REGISTRY:
        BACKBONE_REGISTRY.register(_build)
