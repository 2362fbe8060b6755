"""Weighted sums of bilinear samples as one gather-and-sum on CPUs, and their gradients.

Each sum is a bag of table rows, which torch's embedding bag adds in one vectorized pass. Only the arithmetic of indices
and weights remains. It is done once for all corners, for some queries at a time so that it stays in cache. The gradient
of the table is a sum of bags too: those of the transposed matrix, for which the indices are sorted.
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
        self.tables = maps[0].new_zeros(batch, sum(counts) * self.groups, dim)
        for level, inside in zip(maps, self.maps(self.tables), strict=True):
            inside.copy_(level)

    def sums(self, image: int, x: Tensor, y: Tensor, weights: Tensor, columns: Columns) -> Tensor:
        """Return weighted sums of samples of one image: `x`, `y` and `weights` (Q, S) -> (Q, S / bag, D).

        Positions are in pixels of the sampled map, with pixel centers at integers. Samples outside of a map, or at NaN
        positions, are zero.
        """
        indices, x, y = self.corners(x, y, columns)
        bag = (-1, 4 * columns.bag)
        shares = corner_shares(weights, x, y)
        sums = F.embedding_bag(indices.view(bag), self.tables[image], per_sample_weights=shares.view(bag), mode="sum")
        return sums.view(len(x), -1, sums.shape[1])

    def gradients(
        self, image: int, x: Tensor, y: Tensor, weights: Tensor, columns: Columns, upstream: Tensor, tables: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of `x`, `y` and `weights`, given that of the `sums` of the same arguments.

        That of the tables is added to `tables`, of the same shape.
        """
        x_is_inside, y_is_inside = ((p >= -1) & (p <= size) for p, size in ((x, columns.width), (y, columns.height)))
        indices, x, y = self.corners(x, y, columns)
        shares = corner_shares(weights, x, y)
        rows, bag = upstream.flatten(0, 1), 4 * columns.bag
        tables[image] += transposed_sums(indices.view(-1), shares.view(-1), rows, bag, tables.shape[1])
        with torch.enable_grad():
            learned = shares.view(-1, bag).requires_grad_()
            sums = F.embedding_bag(indices.view(-1, bag), self.tables[image], per_sample_weights=learned, mode="sum")
        (products,) = torch.autograd.grad(sums, learned, rows)  # of upstream and rows of the table
        upper_left, upper_right, lower_left, lower_right = products.view(*x.shape, 4).unbind(-1)
        upper, lower = upper_right - upper_left, lower_right - lower_left
        left = lower_left - upper_left
        x_gradient = torch.lerp(upper, lower, y)
        y_gradient = torch.lerp(left, lower_right - upper_right, x)
        weights_gradient = upper_left + x * upper + y * torch.addcmul(left, x, lower - upper)
        return (
            x_gradient.mul_(weights).mul_(x_is_inside),
            y_gradient.mul_(weights).mul_(y_is_inside),
            weights_gradient,
        )

    def maps(self, tables: Tensor) -> list[Tensor]:
        """Return the maps of all levels, (B, H, W, groups, D), as slices of tables such as `self.tables`."""
        cells = tables.unflatten(1, (-1, self.groups))
        maps = []
        for (h, w), pitch, start in zip(self.sizes, self.pitches, self.starts, strict=True):
            padded = cells[:, start : start + (h + LOW + HIGH) * pitch].unflatten(1, (-1, pitch))
            maps.append(padded[:, LOW : LOW + h, LOW : LOW + w])
        return maps

    def corners(self, x: Tensor, y: Tensor, columns: Columns) -> tuple[Tensor, Tensor, Tensor]:
        """Return the table rows of the four pixels around each position, (Q, S, 4), and the positions between them."""
        x, y = self.inside(x, columns.width), self.inside(y, columns.height)
        left, top = x.floor(), y.floor()
        cell = top.int().mul_(columns.pitch).add_(left.int()).add_(columns.first)  # row for group 0
        cell = cell.mul_(self.groups).add_(columns.group)
        across, below = self.groups, columns.pitch * self.groups
        indices = torch.stack([cell, cell + across, cell + below, (cell + across).add_(below)], -1)
        return indices, x.sub_(left), y.sub_(top)

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


def corner_shares(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the shares of the four pixels around each position in a sum, (Q, S, 4)."""
    lower = weights * y
    upper = weights - lower
    lower_right, upper_right = lower * x, upper * x
    return torch.stack([upper.sub_(upper_right), upper_right, lower.sub_(lower_right), lower_right], -1)


def transposed_sums(indices: Tensor, shares: Tensor, rows: Tensor, bag: int, count: int) -> Tensor:
    """Return, for each of `count` table rows, the sum of the `rows` (N, D) of the bags that it is in, by its shares.

    `indices` and `shares` (N x bag) are those of the bags.
    """
    indices, places = indices.sort(stable=True)
    starts = torch.searchsorted(indices, torch.arange(count, dtype=indices.dtype))
    sources = places.div(bag, rounding_mode="floor")
    return F.embedding_bag(sources, rows, starts, per_sample_weights=shares[places], mode="sum")


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
