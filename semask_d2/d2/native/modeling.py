"""Replacement for `detectron2.modeling` and `detectron2.structures.ImageList`: registries, backbones, image batches."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn

from semask_d2.d2.native.config import CfgNode

BACKBONE_REGISTRY = Registry("BACKBONE")
SEM_SEG_HEADS_REGISTRY = Registry("SEM_SEG_HEADS")
META_ARCH_REGISTRY = Registry("META_ARCH")


@dataclass
class ShapeSpec:
    """Channels, size and stride of a feature map, as far as they are known in advance; None is unknown."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None


class Backbone(nn.Module, metaclass=ABCMeta):
    """A network that turns images (N, C, H, W) into named feature maps.

    A subclass overrides `output_shape`, or sets `_out_features` (names), `_out_feature_channels` and
    `_out_feature_strides` (both by name).
    """

    _out_features: list[str]
    _out_feature_channels: dict[str, int]
    _out_feature_strides: dict[str, int]

    @abstractmethod
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the feature maps."""

    @property
    def size_divisibility(self) -> int:
        """Divisor that the padded height and width need; 0 if any size will do."""
        return 0

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return the channels and stride of each feature map."""
        channels, strides = self._out_feature_channels, self._out_feature_strides
        return {name: ShapeSpec(channels=channels[name], stride=strides[name]) for name in self._out_features}


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
    """Build MODEL.BACKBONE.NAME; without `input_shape`, images have one channel per entry of MODEL.PIXEL_MEAN."""
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)
    assert isinstance(backbone, Backbone), f"{cfg.MODEL.BACKBONE.NAME} did not return a Backbone."
    return backbone


def build_sem_seg_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build MODEL.SEM_SEG_HEAD.NAME for feature maps of these shapes."""
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, input_shape)


def build_model(cfg: CfgNode) -> nn.Module:
    """Build MODEL.META_ARCHITECTURE on MODEL.DEVICE, without loading weights."""
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).to(torch.device(cfg.MODEL.DEVICE))


@dataclass(eq=False)
class ImageList:
    """Images of several sizes in one `tensor` (N, ..., H, W), padded at the right and the bottom.

    `image_sizes` holds the (height, width) of each image without padding; indexing removes the padding.
    """

    tensor: Tensor
    image_sizes: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, index: int) -> Tensor:
        height, width = self.image_sizes[index]
        return self.tensor[index, ..., :height, :width]

    @staticmethod
    def from_tensors(tensors: Sequence[Tensor], size_divisibility: int = 0, pad_value: float = 0.0) -> ImageList:
        """Batch tensors of shape (..., H_i, W_i) with equal leading dimensions, if any.

        The common size is the largest height and width, rounded up to a multiple of `size_divisibility`.
        """
        sizes = [(t.shape[-2], t.shape[-1]) for t in tensors]
        height, width = (max(side) for side in zip(*sizes, strict=True))
        divisor = max(size_divisibility, 1)
        height, width = (-(-side // divisor) * divisor for side in (height, width))

        batch = tensors[0].new_full((len(tensors), *tensors[0].shape[:-2], height, width), pad_value)
        for padded, tensor in zip(batch, tensors, strict=True):
            assert tensor.shape[:-2] == padded.shape[:-2], (tensor.shape, tensors[0].shape)
            padded[..., : tensor.shape[-2], : tensor.shape[-1]].copy_(tensor)
        return ImageList(batch, sizes)
