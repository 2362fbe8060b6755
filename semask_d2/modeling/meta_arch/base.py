"""Base class of the segmentation models: from images to scores, labels or losses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from semask_d2.d2 import Backbone, CfgNode, ImageList, build_backbone, build_sem_seg_head
from semask_d2.modeling.backbones.base import TUNING_KEY, HierarchicalBackbone
from semask_d2.modeling.kernels.graphs import in_graph
from semask_d2.modeling.layers.recomputation import CHECKPOINTING_KEY
from semask_d2.modeling.layers.semantic_decoder import SEMANTIC_MAPS, supervised_maps
from semask_d2.modeling.losses.class_weights import class_weight_tensor
from semask_d2.modeling.losses.cross_entropy import pixel_loss
from semask_d2.modeling.losses.targets import Targets, build_segment_targets, build_targets
from semask_d2.modeling.meta_arch.score_maps import ScoreMap
from semask_d2.modeling.meta_arch.segmenter import Priors, Segmenter
from semask_d2.modeling.meta_arch.sharing import ShareableModel
from semask_d2.modeling.meta_arch.weight_casts import Parts, WeightCasts, parts_in_bf16
from semask_d2.utils.arguments import known, require, value_of
from semask_d2.utils.errors import UserError


class Normalizer(nn.Module):
    """Normalization by pixel mean and standard deviation, which are buffers but not stored in checkpoints."""

    mean: Tensor
    std: Tensor
    config_keys: ClassVar = {"pixel_mean": "MODEL.PIXEL_MEAN", "pixel_std": "MODEL.PIXEL_STD"}

    def __init__(self, pixel_mean: Sequence[float], pixel_std: Sequence[float]):
        super().__init__()
        count = len(pixel_mean)
        require(count > 0, self, "pixel_mean", "a number for each channel", list(pixel_mean))
        expected = f"{count} numbers above 0"
        require(len(pixel_std) == count and min(pixel_std) > 0, self, "pixel_std", expected, list(pixel_std))
        self.register_buffer("mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Sequence[Tensor], size_divisibility: int) -> ImageList:
        """Normalize images (C, H_i, W_i) in 0..255 and zero-pad them right and bottom to one batch."""
        images = [  # copy bytes, and all images at once
            image.to(self.mean.device, self.mean.dtype if image.is_floating_point() else None, non_blocking=True)
            for image in images
        ]
        if in_graph():
            return ImageList.from_tensors([(image - self.mean) / self.std for image in images], size_divisibility)
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        height, width = (max(sides) for sides in zip(*sizes, strict=True))
        divisor = max(size_divisibility, 1)
        bottom, right = -height % divisor, -width % divisor
        if len(set(sizes)) == 1:
            batch = F.pad((torch.stack(images) - self.mean) / self.std, (0, right, 0, bottom))
        else:
            batch = self.mean.new_zeros(len(images), len(self.mean), height + bottom, width + right)
            for x, image, (image_height, image_width) in zip(batch, images, sizes, strict=True):
                x[:, :image_height, :image_width] = (image - self.mean) / self.std
        return ImageList(batch, sizes)


def build_backbone_and_head(cfg: CfgNode) -> tuple[Backbone, nn.Module]:
    """Build the backbone and the head of a config; freeze what serves only outputs that the head does not use.

    MODEL.BACKBONE.TRAIN "frozen" also freezes backbones of other projects, and the plain ResNet.
    """
    backbone = build_backbone(cfg)
    if not isinstance(backbone, HierarchicalBackbone) and (tuning := value_of(cfg, TUNING_KEY)) != "full":
        if tuning != "frozen":
            raise UserError(
                f'{TUNING_KEY}: expected "full" or "frozen" with MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME}, got '
                f'"{tuning}"; adapters need a Swin, a MiT or a ViT of this project'
            )
        backbone.requires_grad_(False)
    joint = getattr(backbone, "joint_blocks", 0)
    if joint and not {*cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES} <= {*backbone.output_shape()}:
        raise UserError(
            f"MODEL.VIT.JOINT_BLOCKS: expected 0 for the features {list(cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES)} of "
            f"{cfg.MODEL.SEM_SEG_HEAD.NAME}, got {joint}; only EncoderOnlyMaskHead has blocks of the ViT"
        )
    head = build_sem_seg_head(cfg, backbone.output_shape())
    if isinstance(backbone, HierarchicalBackbone):
        used = (*cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES, cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE)
        backbone.freeze_unused_outputs(used)
    elif stages := [x for x in value_of(cfg, CHECKPOINTING_KEY) if x != "pixel_decoder"]:
        raise UserError(
            f"{CHECKPOINTING_KEY}: {cfg.MODEL.BACKBONE.NAME} does not support it; remove {', '.join(stages)}"
        )
    return backbone, head


def output_size(inputs: dict, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the requested size of the scores: `height` and `width` of `inputs`, or else `image_size`."""
    return inputs.get("height", image_size[0]), inputs.get("width", image_size[1])


def image_names(batched_inputs: list[dict]) -> list[str]:
    """Return a name of each image of a batch for messages."""
    return [x.get("file_name", f"image {i} of the batch") for i, x in enumerate(batched_inputs)]


class MaskLogits(NamedTuple):
    """Logits of a mask model: `class_logits` (B, Q, K + 1), "no object" last, and `mask_logits` (B, Q, h, w).

    `semask_d2.postprocessing` turns them into labels, panoptic maps and instances.
    """

    class_logits: Tensor
    mask_logits: Tensor


class PixelLogits(NamedTuple):
    """Logits of Semantic FPN: `logits` (B, K, h, w)."""

    logits: Tensor


def require_dicts(inputs: Any, channels: int) -> None:
    """Raise `UserError` unless a model's input is Detectron2's list of dicts with an `image`."""
    if not isinstance(inputs, (list, tuple)) or not all(isinstance(x, Mapping) and "image" in x for x in inputs):
        raise UserError(f"input of the model: {no_images(inputs, channels)}")


def no_images(inputs: Any, channels: int) -> str:
    """Return what a model expects instead of `inputs`."""
    first = inputs[0] if isinstance(inputs, (list, tuple)) and inputs else None
    advice = "; a Predictor takes paths, PIL images and arrays, also in lists: semask_d2.Predictor(model)"
    if isinstance(first, Tensor):
        advice = "; torch.stack joins tensors of one size, and a Predictor takes a list of others"
    elif type(inputs).__module__ == "numpy":
        advice = "; torch.from_numpy(array).permute(0, 3, 1, 2) makes one of arrays (B, H, W, C), or use a Predictor"
    kind = type(inputs).__name__ + (f" of {type(first).__name__}" if first is not None else "")
    expected = f"a tensor (B, {channels}, H, W) of images in 0..255, or Detectron2's list of dicts"
    return f"expected {expected}, got a {kind}{advice}"


def require_images(images: Tensor, channels: int) -> None:
    """Raise `UserError` unless a tensor holds images (B, `channels`, H, W), uint8 or floats in 0..255."""
    if not isinstance(images, Tensor):
        raise UserError(f"images: {no_images(images, channels)}")
    if images.ndim != 4 or images.shape[1] != channels or not images.numel():
        raise UserError(f"images: expected (B, {channels}, H, W), got {tuple(images.shape)}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise UserError(f"images: expected uint8 or floating point, got {images.dtype}")
    if in_graph() or images.dtype == torch.uint8:
        return
    low, high = images.aminmax()
    if low < 0 or 0 < high <= 1:
        raise UserError(
            f"images: expected values from 0 to 255, because the model normalizes images, got {low.item():.3g} to "
            f"{high.item():.3g}; multiply images in 0..1 by 255, and do not normalize them"
        )


class SemanticSegmenter(Segmenter, ShareableModel):
    """Backbone and head, with a prior loss on the backbone's semantic maps if it has any.

    A subclass turns predictions of the head into score maps and losses. Batches are padded to a multiple of
    `size_divisibility`; 0 pads nothing.
    """

    class_weights: Tensor | None
    prior_align_corners: bool  # for resizing the semantic maps
    takes_uint8_labels = True
    pads_training_images = False  # True if the model applies INPUT.SIZE_DIVISIBILITY instead of the mapper
    config_keys: ClassVar[Mapping[str, str]] = {
        "num_classes": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
        "ignore_label": "MODEL.SEM_SEG_HEAD.IGNORE_VALUE",
        "prior_weight": "MODEL.MASK_FORMER.CATE_WEIGHT",
        "prior_per_stage": "MODEL.MASK_FORMER.SEM_LOSS_PER_STAGE",
        "class_weights": "MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS",
    }

    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        normalizer: Normalizer,
        num_classes: int,
        ignore_label: int,
        prior_weight: float,
        size_divisibility: int,
        class_weights: Sequence[float | str],
        prior_per_stage: bool,
    ):
        super().__init__()
        require(num_classes >= 1, self, "num_classes", "at least 1", num_classes)
        require(prior_weight >= 0, self, "prior_weight", "at least 0", prior_weight)
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.normalizer = normalizer
        self.weight_casts = WeightCasts()
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.prior_weight = prior_weight
        self.prior_per_stage = prior_per_stage
        self.size_divisibility = size_divisibility
        self.train_size_divisibility = size_divisibility
        weights = class_weight_tensor(self, class_weights, num_classes)
        self.register_buffer("class_weights", weights, persistent=False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a backbone without trained parameters stays in evaluation mode."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
            self.backbone.eval()
        self.weight_casts.clear()
        return self

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.normalizer.mean.device

    @property
    def prior_strides(self) -> dict[str, int]:
        """Strides of the backbone's semantic maps by name, {} if it has none."""
        shapes = self.backbone.output_shape()
        return {name: known(shapes[name].stride) for name in SEMANTIC_MAPS if name in shapes}

    @property
    def channels(self) -> int:
        """Number of channels of its images."""
        return len(self.normalizer.mean)

    def forward(
        self, inputs: list[dict] | Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor] | list[dict[str, Any]] | MaskLogits | PixelLogits:
        """Run the model on a tensor of images or on Detectron2's list of dicts.

        For a tensor (B, C, H, W) in 0..255, it returns `logits`, or with `labels` (B, H, W) the losses of `loss`.

        Each dict has `image` (C, H, W) and in training its labels `sem_seg` (H, W); optional `segments` (`Segments`)
        replace the classes as target masks. In training it returns weighted losses by name. Otherwise, per image,
        `sem_seg`: scores (K, height, width), at `height` and `width` of the dict or else at the size of the image.
        """
        if labels is not None:
            return self.loss(cast(Tensor, inputs), labels)  # which refuses other inputs
        if isinstance(inputs, Tensor):
            return self.logits(inputs)
        require_dicts(inputs, self.channels)
        if self.training:
            return self.losses(inputs)
        return [self.output(score_map) for score_map, _ in self.lazy_predictions(inputs)]

    def losses(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        """Return the weighted losses by name, in the current mode of each module."""
        images = self.normalizer([x["image"] for x in batched_inputs], self.train_size_divisibility)
        features = self.backbone(images.tensor)
        targets = self.targets(batched_inputs, images)
        prior_loss = self.prior_loss(features, targets)  # before the head, so that their memory peaks do not add up
        predictions = self.sem_seg_head(features)
        return {**self.head_losses(predictions, targets), **prior_loss}

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the weighted losses by name of `images` (B, C, H, W) in 0..255 and integer `labels` (B, H, W).

        Training minimizes their sum. Raises `UserError` for other shapes or types and for unknown ids.
        """
        require_images(images, self.channels)
        if not isinstance(labels, Tensor):
            raise UserError(f"labels: expected a tensor of integers (B, H, W), got a {type(labels).__name__}")
        if labels.shape != images.shape[:1] + images.shape[2:] or labels.is_floating_point():
            raise UserError(
                f"labels: expected integers (B, H, W) for images {tuple(images.shape)}, got {labels.dtype} "
                f"{tuple(labels.shape)}"
            )
        return self.losses([{"image": image, "sem_seg": x} for image, x in zip(images, labels, strict=True)])

    def logits(self, images: Tensor) -> MaskLogits | PixelLogits:
        """Return the head's final logits for `images` (B, C, H, W) in 0..255, which the model normalizes.

        They cover the images padded right and bottom to a multiple of `size_divisibility`. Raises `UserError` for other
        shapes or types.
        """
        require_images(images, self.channels)
        padded = self.normalizer(list(images), self.size_divisibility)
        backbone, head = self.inference_parts()
        return self.final_logits(head(backbone(padded.tensor)))

    def lazy_predictions(
        self, batched_inputs: list[dict], *, priors: bool = False
    ) -> Iterator[tuple[ScoreMap, Priors | None]]:
        """Yield the scores of each image, to be resized lazily, and its semantic maps if `priors`."""
        for batch in self.batches(batched_inputs):
            images = self.normalizer([x["image"] for x in batch], self.size_divisibility)
            backbone, head = self.inference_parts()
            features = backbone(images.tensor)
            predictions = head(features)
            maps = self.prior_maps(images, features) if priors else [None] * len(batch)
            del features
            with self.full_precision():
                score_maps = self.score_maps(batch, images, predictions)
            yield from zip(score_maps, maps, strict=True)

    def inference_parts(self) -> Parts:
        """Return backbone and head; under bf16 autocast on a CPU without gradients, with weights that are cast once."""
        in_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        if in_graph() or not in_bf16 or self.device.type != "cpu" or self.training or torch.is_grad_enabled():
            return self.backbone, self.sem_seg_head
        return parts_in_bf16(self.backbone, self.sem_seg_head, self.weight_casts)

    def full_precision(self) -> torch.autocast:
        """Return a context without autocast, for computations on features and predictions."""
        return torch.autocast(self.device.type, enabled=False)

    def targets(self, batched_inputs: list[dict], images: ImageList) -> Targets:
        """Return the targets at the size of the padded batch, from segments where the inputs have them."""
        names = image_names(batched_inputs)
        targets = build_targets(
            [x["sem_seg"] for x in batched_inputs],
            (images.tensor.shape[-2], images.tensor.shape[-1]),
            num_classes=self.num_classes,
            ignore_label=self.ignore_label,
            device=self.device,
            names=names,
        )
        if "segments" not in batched_inputs[0]:
            return targets
        segments = [x["segments"] for x in batched_inputs]
        return build_segment_targets(segments, targets, num_classes=self.num_classes, names=names)

    def prior_loss(self, features: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """Return the weighted loss of the semantic maps, {} without any."""
        align_corners = self.prior_align_corners
        with self.full_precision():
            maps = supervised_maps(features, per_stage=self.prior_per_stage, align_corners=align_corners)
        losses = [
            pixel_loss(
                semantics,
                targets.labels,
                self.ignore_label,
                align_corners=align_corners,
                class_weights=self.class_weights,
            )
            for semantics in maps
        ]
        return {"loss_cate": self.prior_weight * torch.stack(losses).mean()} if losses else {}

    def output(self, score_map: ScoreMap) -> dict[str, Any]:
        """Return the predictions of one image in Detectron2's format."""
        with self.full_precision():
            return {"sem_seg": score_map.scores()}

    def batches(self, batched_inputs: list[dict]) -> list[list[dict]]:
        """Return the batches to evaluate: all images together, because they are padded."""
        return [batched_inputs]

    @staticmethod
    def prior_maps(images: ImageList, features: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Crop the semantic maps to the cells that cover each image, rounded up, for `Segmentation.priors`."""
        maps: list[dict[str, Tensor]] = [{} for _ in images.image_sizes]
        padded = images.tensor.shape[-2:]
        for name in SEMANTIC_MAPS:
            for prior, whole, size in zip(maps, features[name], images.image_sizes, strict=True):
                rows, columns = (-(-s * n // p) for s, n, p in zip(size, whole.shape[-2:], padded, strict=True))
                prior[name] = whole[:, :rows, :columns]
        return maps

    @abstractmethod
    def final_logits(self, predictions) -> MaskLogits | PixelLogits:
        """Return the head's final logits as plain tensors."""

    @abstractmethod
    def head_losses(self, predictions, targets: Targets) -> dict[str, Tensor]:
        """Return the weighted losses of the head's predictions."""

    @abstractmethod
    def score_maps(self, batched_inputs: list[dict], images: ImageList, predictions) -> list[ScoreMap]:
        """Return the scores of each image from the head's predictions."""
