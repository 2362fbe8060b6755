"""Bilinear samples of maps and of label maps at arbitrary points.

Points are (x, y) in [0, 1], where (0, 0) and (1, 1) are corners of the image; a pixel's value sits at its center, and
everything outside the map is zero (`align_corners=False`, zero padding).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Sample `maps` (B, C, H, W) at `points` (B, P, 2): (B, C, P)."""
    grid = (2 * points[:, None]).sub_(1)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False).squeeze(2)


def sample_class_masks(labels: Tensor, points: Tensor, classes: Tensor) -> Tensor:
    """Sample the binary masks `labels == class` bilinearly, without building them all at once: (M, P).

    `labels` is one map (H, W), `classes` (M,) ids of at least 0; `points` is (P, 2), shared by all masks, or
    (..., M, P, 2), one set for each mask, with samples (..., M, P). If `labels` are masks (M, H, W) of 0 and 1, which
    may overlap, these are sampled instead.
    """
    if labels.dim() == 3:
        return sample_masks(labels, points)
    if labels.device.type != "cpu" or points.dim() == 2 or not len(classes):
        return class_shares(labels, points, classes)
    samples = points.new_empty(points.shape[:-1])
    for m, class_id in enumerate(classes):  # much faster than indexing on a CPU
        mask = (labels == class_id).to(points.dtype)
        mask_points = points[..., m, :, :]
        samples[..., m, :] = sample_points(mask[None, None], mask_points.reshape(1, -1, 2)).view(mask_points.shape[:-1])
    return samples


def sample_masks(masks: Tensor, points: Tensor) -> Tensor:
    """Sample each of `masks` (M, H, W) bilinearly at `points`, given as for `sample_class_masks`."""
    samples = points.new_empty((*points.shape[:-3], len(masks), points.shape[-2]))
    for m, mask in enumerate(masks):  # convert one mask at a time to floating point, to save memory
        mask_points = points if points.dim() == 2 else points[..., m, :, :]
        sampled = sample_points(mask[None, None].to(points.dtype), mask_points.reshape(1, -1, 2))
        samples[..., m, :] = sampled.view(mask_points.shape[:-1])
    return samples


def class_shares(labels: Tensor, points: Tensor, classes: Tensor) -> Tensor:
    """Compute `sample_class_masks` without building masks: sum the bilinear weights of the neighbors in the class."""
    height, width = labels.shape
    padded = F.pad(labels.long(), (1, 2, 1, 2), value=-1)  # -1 is no class, so the outside counts for no mask
    pitch = padded.shape[1]
    x = (points[..., 0] * width - 0.5).clamp(-1, width)
    y = (points[..., 1] * height - 0.5).clamp(-1, height)
    left, top = x.floor(), y.floor()
    right_share, lower_share = x - left, y - top
    corner = (top.long() + 1) * pitch + left.long() + 1
    flat, classes = padded.flatten(), classes[:, None]

    def row(start: Tensor) -> Tensor:
        return torch.where(flat[start] == classes, 1 - right_share, 0) + torch.where(
            flat[start + 1] == classes, right_share, 0
        )

    return (1 - lower_share) * row(corner) + lower_share * row(corner + pitch)
