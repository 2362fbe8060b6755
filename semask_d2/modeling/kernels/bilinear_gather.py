"""Weighted sums of bilinear samples as one gather-and-sum, for CPUs without gradients.

Each sum is a bag of table rows, which torch's embedding bag adds in one vectorized pass. Only the arithmetic of indices
and weights remains. It is done once for all corners, for some queries at a time so that it stays in cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from semask_d2.modeling.kernels.graphs import in_graph

PART = 2**16  # samples gathered at a time
LOW, HIGH = 1, 2  # zero rows and columns before and after a map, for samples outside of it


def is_supported(*tensors: Tensor) -> bool:
    """Return whether gather-and-sum supports these tensors: on a CPU, in fp32, not in a graph."""
    return not in_graph() and all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)


class PaddedMaps:
    """Maps of several sizes in one table of rows (B x cells x groups, D), each padded with zeros."""

    def __init__(self, maps: Sequence[Tensor]):
        """Build the table from `maps` (B, H, W, groups, D), one per level."""
        batch, _, _, self.groups, dim = maps[0].shape
        self.sizes = [(m.shape[1], m.shape[2]) for m in maps]
        self.pitches = [w + LOW + HIGH for _, w in self.sizes]
        counts = [(h + LOW + HIGH) * pitch for (h, _), pitch in zip(self.sizes, self.pitches, strict=True)]
        self.starts = [sum(counts[:i]) for i in range(len(counts))]
        table = maps[0].new_zeros(batch, sum(counts), self.groups, dim)
        for level, ((h, w), pitch, start) in enumerate(zip(self.sizes, self.pitches, self.starts, strict=True)):
            padded = table[:, start : start + counts[level]].view(batch, -1, pitch, self.groups, dim)
            padded[:, LOW : LOW + h, LOW : LOW + w] = maps[level]
        self.tables = table.flatten(1, 2)  # (B, cells x groups, D)

    def sums(self, image: int, x: Tensor, y: Tensor, weights: Tensor, columns: Columns) -> Tensor:
        """Return weighted sums of samples of one image: `x`, `y` and `weights` (Q, S) -> (Q, S / bag, D).

        Positions are in pixels of the sampled map, with pixel centers at integers. Samples outside of a map, or at NaN
        positions, are zero.
        """
        x, y = self.inside(x, columns.width), self.inside(y, columns.height)
        left, top = x.floor(), y.floor()
        x, y = x.sub_(left), y.sub_(top)
        cell = top.int().mul_(columns.pitch).add_(left.int()).add_(columns.first)  # row for group 0
        cell = cell.mul_(self.groups).add_(columns.group)
        across, below = self.groups, columns.pitch * self.groups
        indices = torch.stack([cell, cell + across, cell + below, (cell + across).add_(below)], -1)
        lower = weights * y
        upper = weights - lower
        lower_right, upper_right = lower * x, upper * x
        shares = torch.stack([upper.sub_(upper_right), upper_right, lower.sub_(lower_right), lower_right], -1)
        bag = (-1, 4 * columns.bag)
        sums = F.embedding_bag(indices.view(bag), self.tables[image], per_sample_weights=shares.view(bag), mode="sum")
        return sums.view(len(x), -1, sums.shape[1])

    @staticmethod
    def inside(position: Tensor, size: Tensor) -> Tensor:
        """Clamp positions to the first zero row or column around a map."""
        return torch.minimum(position.nan_to_num(-1.0).clamp_(min=-1.0), size)

    def columns(self, levels: Sequence[int], groups: Sequence[int], bag: int) -> Columns:
        """Return the constants of the S samples of a query from their levels and groups; `bag` in a row are summed."""

        def per_sample(values: Sequence[int]) -> list[int]:
            return [values[level] for level in levels]

        pitch = torch.tensor(per_sample(self.pitches), dtype=torch.int32)
        return Columns(
            width=torch.tensor(per_sample([w for _, w in self.sizes]), dtype=torch.float32),
            height=torch.tensor(per_sample([h for h, _ in self.sizes]), dtype=torch.float32),
            pitch=pitch,
            first=torch.tensor(per_sample(self.starts), dtype=torch.int32) + LOW * (pitch + 1),
            group=torch.tensor(groups, dtype=torch.int32),
            bag=bag,
        )


class Columns(NamedTuple):
    """Constants of the samples that are the same for every query, each (S,)."""

    width: Tensor
    height: Tensor
    pitch: Tensor
    first: Tensor  # row of the first pixel of the map
    group: Tensor
    bag: int


def parts(queries: int, samples: int) -> Iterator[slice]:
    """Yield slices of the queries, of `samples` samples each, that fit in cache."""
    step = max(1, PART // samples)
    for start in range(0, queries, step):
        yield slice(start, min(start + step, queries))
