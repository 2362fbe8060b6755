"""Weighted sums of bilinear samples as one gather-and-sum, for a CPU without gradients.

Each sum is a bag of rows of a table, which torch's embedding bag adds up in one vectorized pass; what is left is the
arithmetic of indices and weights, done once for all corners, a part of the queries at a time so that it stays in cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from semask_d2.modeling.kernels.graphs import in_graph

PART = 2**16  # samples that are gathered at a time
LOW, HIGH = 1, 2  # zero rows and columns around a map: a sample outside of it lands in them


def suits(*tensors: Tensor) -> bool:
    """Whether the gather-and-sum may compute of these tensors: on a CPU, in fp32, not in a graph."""
    return not in_graph() and all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)


class PaddedMaps:
    """Maps of several sizes in one table of rows (B x cells x groups, D), each map with zeros around it."""

    def __init__(self, maps: Sequence[Tensor]):
        """`maps` (B, H, W, groups, D), one a level."""
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
        """Weighted sums of samples of one image: `x`, `y` and `weights` (Q, S) -> (Q, S / bag, D).

        Positions are in pixels of the map that is sampled, a pixel's center being at its index. What is outside of a
        map is zero, and so is a sample whose position is no number.
        """
        x, y = self.inside(x, columns.width), self.inside(y, columns.height)
        left, top = x.floor(), y.floor()
        x, y = x.sub_(left), y.sub_(top)
        cell = top.int().mul_(columns.pitch).add_(left.int()).add_(columns.first)  # rows of one group
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
        """Positions moved to where the zeros around a map begin, if they are beyond that."""
        return torch.minimum(position.nan_to_num(-1.0).clamp_(min=-1.0), size)

    def columns(self, levels: Sequence[int], groups: Sequence[int], bag: int) -> Columns:
        """The constants of S samples a query: the level and the group of each; `bag` consecutive ones are summed."""

        def of_level(values: Sequence[int]) -> list[int]:
            return [values[level] for level in levels]

        pitch = torch.tensor(of_level(self.pitches), dtype=torch.int32)
        return Columns(
            width=torch.tensor(of_level([w for _, w in self.sizes]), dtype=torch.float32),
            height=torch.tensor(of_level([h for h, _ in self.sizes]), dtype=torch.float32),
            pitch=pitch,
            first=torch.tensor(of_level(self.starts), dtype=torch.int32) + LOW * (pitch + 1),
            group=torch.tensor(groups, dtype=torch.int32),
            bag=bag,
        )


class Columns(NamedTuple):
    """What the samples of a query have in common with those of all others, each tensor (S,)."""

    width: Tensor
    height: Tensor
    pitch: Tensor
    first: Tensor  # the row of the map's first pixel
    group: Tensor
    bag: int


def parts(queries: int, samples: int) -> Iterator[slice]:
    """The queries, of `samples` each, a part at a time."""
    step = max(1, PART // samples)
    for start in range(0, queries, step):
        yield slice(start, min(start + step, queries))
