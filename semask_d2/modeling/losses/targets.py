"""Targets of a batch for the losses: label maps with their present classes, or segments."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from semask_d2.utils.errors import UserError


class SemanticTargets(NamedTuple):
    """Semantic labels (B, H, W) int64, `ignore_label` where unlabeled; `classes` are B ascending lists of class ids.

    `class_ids` are the same lists as int64 tensors on the device of the labels. Every class present in an image is one
    target mask; no binary mask is ever built.
    """

    labels: Tensor
    classes: list[list[int]]
    class_ids: Sequence[Tensor]
    ignore_label: int

    @property
    def masks(self) -> Tensor:
        """Label maps, which contain the target masks."""
        return self.labels

    @property
    def segment_ids(self) -> Sequence[Tensor]:
        """Value of each target mask in the label maps: its class."""
        return self.class_ids

    @property
    def num_masks(self) -> int:
        """Number of target masks in the batch."""
        return sum(map(len, self.classes))


class Segments(NamedTuple):
    """Ground-truth segments of one image: `classes` (M,), and `masks` in one of two forms.

    Segments that do not overlap are one integer map (H, W), with ids 1..M in the order of `classes` and 0 for no
    segment; no mask is ever built from it. Segments that may overlap are masks (M, H, W) of 0 and 1.
    """

    masks: Tensor
    classes: Tensor


class SegmentTargets(NamedTuple):
    """Target masks of a batch of images with segments.

    Per image, `masks` are those of `Segments` padded to the size of the batch, `class_ids` (M,) are their classes and
    `segment_ids` (M,) their values in an integer map. `labels` (B, H, W) are the semantic labels of the segments, with
    `ignore_label` where unlabeled, for the loss of the semantic maps.
    """

    labels: Tensor
    masks: Sequence[Tensor]
    class_ids: Sequence[Tensor]
    segment_ids: Sequence[Tensor]
    ignore_label: int

    @property
    def num_masks(self) -> int:
        """Number of target masks in the batch."""
        return sum(map(len, self.class_ids))


Targets = SemanticTargets | SegmentTargets


def build_segment_targets(
    segments: Sequence[Segments], semantic: SemanticTargets, *, num_classes: int, names: Sequence[str]
) -> SegmentTargets:
    """Pad the segments of each image to the size of the semantic labels, and return both as targets.

    `names` identify images in the `UserError` raised for a class outside 0..num_classes - 1.
    """
    size, device = semantic.labels.shape[-2:], semantic.labels.device
    masks, class_ids, segment_ids = [], [], []
    for (image_masks, classes), name in zip(segments, names, strict=True):
        wrong = [i for i in classes.tolist() if not 0 <= i < num_classes]
        if wrong:
            raise UserError(
                f"segments of {name}: classes {wrong[:10]} are outside 0..{num_classes - 1} "
                f"(MODEL.SEM_SEG_HEAD.NUM_CLASSES {num_classes}); correct the annotations or the config"
            )
        below, right = size[0] - image_masks.shape[-2], size[1] - image_masks.shape[-1]
        masks.append(F.pad(image_masks.to(device, non_blocking=True), (0, right, 0, below)))
        class_ids.append(classes.to(device, non_blocking=True).long())
        segment_ids.append(torch.arange(1, len(classes) + 1, device=device))
    return SegmentTargets(semantic.labels, masks, class_ids, segment_ids, semantic.ignore_label)


def build_targets(
    label_maps: Sequence[Tensor],
    size: tuple[int, int],
    *,
    num_classes: int,
    ignore_label: int,
    device: torch.device,
    names: Sequence[str],
) -> SemanticTargets:
    """Pad integer label maps (H_i, W_i), each at most `size`, with `ignore_label`, and list their classes.

    Classes of label maps on the CPU are listed there, without waiting for the device. `names` identify images in the
    `UserError` raised for an id outside 0..num_classes - 1.
    """
    classes = []
    for labels, name in zip(label_maps, names, strict=True):
        ids = present_ids(labels)
        wrong = [i for i in ids if i != ignore_label and not 0 <= i < num_classes]
        if wrong:
            raise UserError(
                f"labels of {name}: ids {wrong[:10]} are outside 0..{num_classes - 1} (MODEL.SEM_SEG_HEAD.NUM_CLASSES "
                f"{num_classes}) and are not the ignore label {ignore_label}; correct the label file or the config"
            )
        classes.append([i for i in ids if i != ignore_label])
    counts = [len(ids) for ids in classes]
    # maps and class ids are packed in one tensor, of bytes if all ids fit, for a single, small copy to the GPU
    fits_bytes = num_classes <= 256 and 0 <= ignore_label <= 255
    source = label_maps[0].device
    pixels = len(label_maps) * size[0] * size[1]
    packed = torch.full(
        (pixels + sum(counts),),
        ignore_label,
        dtype=torch.uint8 if fits_bytes else torch.int64,
        device=source,
        pin_memory=source.type == "cpu" and device.type == "cuda" and torch.cuda.is_available(),
    )
    for row, labels in zip(packed[:pixels].view(-1, *size), label_maps, strict=True):
        row[: labels.shape[0], : labels.shape[1]] = labels
    packed[pixels:] = torch.tensor(list(chain(*classes)), dtype=packed.dtype)
    packed = packed.to(device, non_blocking=True).long()
    return SemanticTargets(packed[:pixels].view(-1, *size), classes, packed[pixels:].split(counts), ignore_label)


def present_ids(labels: Tensor) -> list[int]:
    """Return the distinct values of an integer map, ascending."""
    if labels.dtype == torch.uint8:  # counting is much faster than sorting
        return torch.bincount(labels.flatten(), minlength=1).nonzero().flatten().tolist()
    return labels.unique().tolist()
