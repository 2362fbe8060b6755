"""Labels of a batch as the criteria use them: one label map an image, and the classes that are present in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from semask_d2.utils.errors import UserError


class SemanticTargets(NamedTuple):
    """`labels` (B, H, W) int64 with `ignore_label` where unlabeled; `classes`, B ascending lists of class ids.

    Every present class of an image is one target mask; no binary mask is ever built.
    """

    labels: Tensor
    classes: list[list[int]]
    ignore_label: int

    @property
    def num_masks(self) -> int:
        """How many target masks the batch holds."""
        return sum(map(len, self.classes))


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
    batch = torch.full((len(label_maps), *size), ignore_label, dtype=torch.int64, device=label_maps[0].device)
    classes = []
    for row, labels, name in zip(batch, label_maps, names, strict=True):
        ids = present_ids(labels)
        wrong = [i for i in ids if i != ignore_label and not 0 <= i < num_classes]
        if wrong:
            raise UserError(
                f"labels of {name}: ids {wrong[:10]} are outside 0..{num_classes - 1} (MODEL.SEM_SEG_HEAD.NUM_CLASSES "
                f"{num_classes}) and are not the ignore label {ignore_label}; correct the label file or the config"
            )
        classes.append([i for i in ids if i != ignore_label])
        row[: labels.shape[0], : labels.shape[1]] = labels
    return SemanticTargets(batch.to(device, non_blocking=True), classes, ignore_label)


def present_ids(labels: Tensor) -> list[int]:
    """The distinct values of an integer map, ascending."""
    if labels.dtype == torch.uint8:  # counting is much faster than sorting
        return torch.bincount(labels.flatten(), minlength=1).nonzero().flatten().tolist()
    return labels.unique().tolist()
