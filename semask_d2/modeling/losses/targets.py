"""Labels of a batch as the criteria use them: one label map an image, and the classes that are present in it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from semask_d2.utils.errors import UserError


class SemanticTargets(NamedTuple):
    """`labels` (B, H, W) int64 with `ignore_label` where unlabeled; `classes`, B ascending lists of class ids.

    `class_ids` are those lists as int64 tensors beside the labels. Every present class of an image is one target mask;
    no binary mask is ever built.
    """

    labels: Tensor
    classes: list[list[int]]
    class_ids: Sequence[Tensor]
    ignore_label: int

    @property
    def masks(self) -> Tensor:
        """Where the target masks are: the label maps."""
        return self.labels

    @property
    def segment_ids(self) -> Sequence[Tensor]:
        """What the label maps hold where each target mask is: its class."""
        return self.class_ids

    @property
    def num_masks(self) -> int:
        """How many target masks the batch holds."""
        return sum(map(len, self.classes))


class Segments(NamedTuple):
    """The true segments of one image: `classes` (M,) and `masks`, where they are, the same for both of its forms.

    Segments that do not overlap are one integer map (H, W), M ids from 1 on in the order of `classes` and 0 for none,
    of which no mask is ever built; those that may overlap are masks (M, H, W) of 0 and 1.
    """

    masks: Tensor
    classes: Tensor


class SegmentTargets(NamedTuple):
    """The target masks of a batch of images with segments, as the criteria use them.

    `masks`, per image, are those of `Segments` padded to the batch's size, `class_ids` (M,) their classes and
    `segment_ids` (M,) what an integer map holds where they are. `labels` (B, H, W) are the semantic labels that the
    segments imply, with `ignore_label` where unlabeled, for the loss of the semantic maps.
    """

    labels: Tensor
    masks: Sequence[Tensor]
    class_ids: Sequence[Tensor]
    segment_ids: Sequence[Tensor]
    ignore_label: int

    @property
    def num_masks(self) -> int:
        """How many target masks the batch holds."""
        return sum(map(len, self.class_ids))


Targets = SemanticTargets | SegmentTargets


def build_segment_targets(
    segments: Sequence[Segments], semantic: SemanticTargets, *, num_classes: int, names: Sequence[str]
) -> SegmentTargets:
    """Pad the segments of each image to the size of the batch's semantic labels, beside these.

    `names` are the images' names for the `UserError` that a class outside 0..num_classes - 1 raises.
    """
    size, device = semantic.labels.shape[-2:], semantic.labels.device
    masks, class_ids, segment_ids = [], [], []
    for (own, classes), name in zip(segments, names, strict=True):
        wrong = [i for i in classes.tolist() if not 0 <= i < num_classes]
        if wrong:
            raise UserError(
                f"segments of {name}: classes {wrong[:10]} are outside 0..{num_classes - 1} "
                f"(MODEL.SEM_SEG_HEAD.NUM_CLASSES {num_classes}); correct the annotations or the config"
            )
        below, right = size[0] - own.shape[-2], size[1] - own.shape[-1]
        masks.append(F.pad(own.to(device, non_blocking=True), (0, right, 0, below)))
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
    """Pad integer label maps (H_i, W_i), each at most `size`, with `ignore_label` and list their classes.

    Label maps that are still on the CPU are counted there, without a wait for the device. `names` are the images'
    names for the `UserError` that an id outside 0..num_classes - 1 raises.
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
    # maps and class ids are one tensor, of bytes where all ids fit, so that they cross to a GPU together and soon
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
    """The distinct values of an integer map, ascending."""
    if labels.dtype == torch.uint8:  # counting is much faster than sorting
        return torch.bincount(labels.flatten(), minlength=1).nonzero().flatten().tolist()
    return labels.unique().tolist()
