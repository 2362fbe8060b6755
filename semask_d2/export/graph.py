"""Model as a single function of a batch of images, in standard operators only."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2.export.resizing import resize_images
from semask_d2.modeling.meta_arch.base import SemanticSegmenter
from semask_d2.modeling.transformer_decoders import MaskPredictions

Outputs = Literal["labels", "scores", "logits"]
LABELS, SCORES = ("labels",), ("scores",)
MASK_LOGITS, PIXEL_LOGITS = ("class_logits", "mask_logits"), ("logits",)


def output_names(model: SemanticSegmenter, outputs: Outputs) -> tuple[str, ...]:
    """Return the names of the outputs: labels, scores, or the logits of the head."""
    if outputs == "logits":
        return MASK_LOGITS if model.scores_are_probabilities else PIXEL_LOGITS
    return LABELS if outputs == "labels" else SCORES


class SegmentationGraph(nn.Module):
    """Graph from images (B, C, H, W) in 0..255 to `labels` (B, H, W) int64 or `scores` (B, K, H, W) at their size.

    Outputs "logits" are those of the head: `class_logits` (B, Q, K + 1) and `mask_logits` (B, Q, h, w) of the padded
    image at stride 4, or the `logits` (B, K, h, w) of Semantic FPN. With `normalize` False the caller normalizes
    images. With a `size_rule`, the short edge and longest side of `resized_shape`, images are first resized.
    """

    def __init__(
        self,
        model: SemanticSegmenter,
        outputs: Outputs = "labels",
        *,
        normalize: bool = True,
        size_rule: tuple[int, int] | None = None,
    ):
        super().__init__()
        self.model = model
        self.outputs: Outputs = outputs
        self.normalize = normalize
        self.size_rule = size_rule

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the outputs in the order of `output_names`."""
        x = image.float()
        size = (image.shape[-2], image.shape[-1])
        if self.size_rule is not None:
            x = resize_images(x, *self.size_rule)
        if self.normalize:
            x = (x - self.model.normalizer.mean) / self.model.normalizer.std
        height, width = x.shape[-2:]
        divisor = self.model.size_divisibility
        if divisor > 1:
            x = F.pad(x, (0, -width % divisor, 0, -height % divisor))
        predictions = self.model.sem_seg_head(self.model.backbone(x))
        if isinstance(predictions, MaskPredictions):
            class_logits, mask_logits = predictions.class_logits[-1], predictions.mask_logits()
            if self.outputs == "logits":
                return class_logits, mask_logits
            padded = (x.shape[-2], x.shape[-1])
            masks = upsampled(mask_logits, padded)
            if self.size_rule is None:
                # padding is cut last, where there is the least to copy
                if self.outputs == "labels":
                    return mask_labels(class_logits, masks).reshape(-1, *padded)[..., :height, :width]
                return mask_scores(class_logits, masks)[..., :height, :width]
            masks = masks[..., :height, :width]
            scores = resized_scores(class_logits, masks, size, masks_first=resizes_masks_first(self.model))
        else:
            if self.outputs == "logits":
                return predictions
            scores = upsampled(predictions, (height, width))
            if self.size_rule is not None:
                scores = upsampled(scores, size)  # a second time, as in `SeMaskFPN`
        return scores.argmax(1) if self.outputs == "labels" else scores


def upsampled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (B, C, h, w) to (B, C, *size) bilinearly, with half-pixel centers."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def mask_scores(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Return class scores (B, K, H, W) from `class_logits` (B, Q, K + 1) and `mask_logits` (B, Q, H, W).

    Scores are sums over queries of class times mask probability (MaskFormer, arXiv 2107.06278, section 3.4).
    """
    probability = class_logits.softmax(-1)[..., :-1].transpose(1, 2)  # (B, K, Q)
    scores = torch.matmul(probability, mask_logits.sigmoid().flatten(2))
    return scores.unflatten(2, mask_logits.shape[-2:])


def mask_labels(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Return the argmax of `mask_scores`, flattened to (B, H W)."""
    probability = class_logits.softmax(-1)[..., :-1]  # (B, Q, K)
    # scores of a pixel are contiguous, because onnxruntime takes three times as long for maxima over another axis
    return torch.matmul(mask_logits.sigmoid().flatten(2).transpose(1, 2), probability).argmax(-1)


def resizes_masks_first(model: SemanticSegmenter) -> bool:
    """Return whether a model resizes masks to the size of the image before it computes scores."""
    return getattr(model, "resize_masks_first", False)


def resized_scores(class_logits: Tensor, mask_logits: Tensor, size: tuple[int, int], *, masks_first: bool) -> Tensor:
    """Return `mask_scores` at another `size` (H, W): resized, or with `masks_first` from resized mask logits."""
    if masks_first:
        return mask_scores(class_logits, upsampled(mask_logits, size))
    return upsampled(mask_scores(class_logits, mask_logits), size)
