"""Weighted sums of bilinear samples as one gather-and-sum, for a CPU without gradients.

Each sum is a bag of rows of a table, which torch's embedding bag adds up in one vectorized pass; what is left is the
arithmetic of indices and weights, done once for all corners.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LOW, HIGH = 1, 2  # zero rows and columns around a map: a sample outside of it lands in them


def suits(*tensors: Tensor) -> bool:
    """Whether the gather-and-sum may compute of these tensors: on a CPU, in fp32, without gradients, not in a graph."""
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    in_graph = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return not learns and not in_graph and all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)


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

    def sums(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums of samples at pixel positions: (B, Q, groups, levels, P) three times -> (B, Q, groups, D).

        A pixel's center is at its index; outside a map everything is zero.
        """
        batch, queries = x.shape[:2]
        height, width = torch.tensor(self.sizes, dtype=torch.float32).T[..., None]
        least = torch.tensor(-1.0)
        x, y = x.fmax(least).fmin(width), y.fmax(least).fmin(height)  # which also take no-numbers to the outside
        left, top = x.floor(), y.floor()
        x, y = x - left, y - top
        pitch = torch.tensor(self.pitches, dtype=torch.int32)[:, None]
        start = torch.tensor(self.starts, dtype=torch.int32)[:, None] + LOW * (pitch + 1)
        corner = top.int() * pitch + left.int() + start
        corner += (torch.arange(batch, dtype=torch.int32) * self.cells).view(-1, 1, 1, 1, 1)
        corner = corner * self.groups + torch.arange(self.groups, dtype=torch.int32)[:, None, None]
        steps = torch.cat([torch.zeros_like(pitch), torch.ones_like(pitch), pitch, pitch + 1], dim=1) * self.groups
        indices = corner[..., None] + steps[:, None]  # (B, Q, groups, levels, P, 4)
        across = torch.stack([1 - x, x], dim=-1)
        down = torch.stack([weights * (1 - y), weights * y], dim=-1)
        shares = down[..., :, None] * across[..., None, :]  # (..., 2, 2): upper left, upper right, lower ones
        bags = batch * queries * self.groups
        summed = F.embedding_bag(
            indices.view(bags, -1),
            self.table.flatten(0, 2),
            per_sample_weights=shares.reshape(bags, -1),
            mode="sum",
        )
        return summed.view(batch, queries, self.groups, -1)
