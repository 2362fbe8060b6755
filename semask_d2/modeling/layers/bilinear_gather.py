"""Weighted sums of bilinear samples as one gather-and-sum, for a CPU without gradients.

Each sum is a bag of rows of a table, which torch's embedding bag adds up in one vectorized pass; what is left is the
arithmetic of indices and weights, done once for all corners.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semask_d2.modeling.layers.linear import in_graph

LOW, HIGH = 1, 2  # zero rows and columns around a map: a sample outside of it lands in them


def suits(*tensors: Tensor) -> bool:
    """Whether the gather-and-sum may compute of these tensors: on a CPU, in fp32, without gradients, not in a graph."""
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return not learns and not in_graph() and all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)


class PaddedMaps:
    """Maps of several sizes in one table of rows (B x cells x groups, D), each map with zeros around it."""

    def __init__(self, batch: int, groups: int, dim: int, sizes: list[tuple[int, int]]):
        self.groups = groups
        self.sizes = sizes
        self.pitches = [w + LOW + HIGH for _, w in sizes]
        counts = [(h + LOW + HIGH) * pitch for (h, _), pitch in zip(sizes, self.pitches, strict=True)]
        self.starts = [sum(counts[:i]) for i in range(len(counts))]
        self.cells = sum(counts)
        self.table = torch.zeros(batch, self.cells, groups, dim)

    def put(self, level: int, cells: Tensor) -> None:
        """Fill in the map of `level`, (B, h, w, groups, D)."""
        (h, w), pitch, start = self.sizes[level], self.pitches[level], self.starts[level]
        rows = h + LOW + HIGH
        whole = self.table[:, start : start + rows * pitch].view(len(cells), rows, pitch, *cells.shape[3:])
        whole[:, LOW : LOW + h, LOW : LOW + w] = cells

    def sums(self, x: Tensor, y: Tensor, weights: Tensor, queries: int) -> Tensor:
        """Weighted sums of samples at pixel positions: (levels, P, B x queries x groups) three times -> (..., D).

        A pixel's center is at its index; outside a map everything is zero. The sums come innermost because then every
        step runs over long rows, with one number a level.
        """
        height, width = torch.tensor(self.sizes, dtype=torch.float32).T[..., None, None]
        least = torch.tensor(-1.0)
        x, y = x.fmax(least).fmin(width), y.fmax(least).fmin(height)  # which also take no-numbers to the outside
        left, top = x.floor(), y.floor()
        x, y = x.sub_(left), y.sub_(top)
        pitch = torch.tensor(self.pitches, dtype=torch.float32)[:, None, None]
        cell = (top.mul_(pitch).add_(left)).int()  # exact in fp32 up to 16 million cells
        origin = torch.tensor(self.starts, dtype=torch.int32)[:, None, None] + LOW * (pitch.int() + 1)
        batch = len(self.table)
        row = (torch.arange(batch, dtype=torch.int32) * self.cells * self.groups).view(-1, 1, 1)
        row = (row + torch.arange(self.groups, dtype=torch.int32)).expand(batch, queries, self.groups).flatten()
        cell = cell.add_(origin).mul_(self.groups).add_(row)
        below, across = pitch.int() * self.groups, self.groups
        indices = torch.stack([cell, cell + across, cell + below, cell + (below + across)])
        lower = weights * y
        upper = weights - lower
        shares = torch.stack([upper, upper * x, lower, lower * x])
        shares[0] -= shares[1]
        shares[2] -= shares[3]
        return F.embedding_bag(
            indices.flatten(0, 2).T.contiguous(),
            self.table.flatten(0, 2),
            per_sample_weights=shares.flatten(0, 2).T.contiguous(),
            mode="sum",
        )
