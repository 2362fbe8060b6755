"""Lazy maps, resized and combined in bands of rows, so that no full-size map is ever in memory.

Full-size masks and scores of a large image take gigabytes, but its labels (H, W) need neither. A `Rows` is a map
(H, W, C) as a function: `rows(start, stop)` returns (stop - start, W, C). Channels come last, which makes resizing and
argmax several times faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semask_d2.modeling.kernels.half import in_fp32
from semask_d2.modeling.kernels.linear import linear

Rows = Callable[[int, int], Tensor]

BAND_ELEMENTS = 2**21  # of the largest map in a band; in fp32 8 MB, about the size of a CPU cache
GPU_BAND_ELEMENTS = 2**26


def rows_of(maps: Tensor) -> Rows:
    """Return maps (C, H, W) as `Rows`."""
    maps = maps.permute(1, 2, 0).contiguous()
    return lambda start, stop: maps[start:stop]


def resized(rows: Rows, source: tuple[int, int], target: tuple[int, int]) -> Rows:
    """Resize a map (*source, C) lazily to (*target, C): bilinear with half-pixel centers, as F.interpolate."""
    height, width, new_height, new_width = map(int, (*source, *target))  # tensors under torch.jit.trace

    def resized_in_height(start: int, stop: int) -> Tensor:
        # the host finds the source rows needed; their device computes the rest
        ends = source_rows(np.array([start, stop - 1], np.float32), height, new_height)
        first = int(ends[0])
        band = rows(first, min(int(ends[1]) + 1, height - 1) + 1)
        y = source_rows(torch.arange(start, stop, dtype=torch.float32, device=band.device), height, new_height)
        above = y.long()
        above_row = band[above - first]
        below_row = band[(above + 1).clamp(max=height - 1) - first]
        return torch.lerp(above_row, below_row, (y - above).to(band.dtype)[:, None, None])

    def resized_rows(start: int, stop: int) -> Tensor:
        band = rows(start, stop) if height == new_height else resized_in_height(start, stop)
        if width == new_width:
            return band
        maps = band[None].permute(0, 3, 1, 2)
        maps = F.interpolate(maps, size=(stop - start, new_width), mode="bilinear", align_corners=False)
        return maps.permute(0, 2, 3, 1)[0]

    return resized_rows


def source_rows(rows: Any, source: int, target: int) -> Any:
    """Return positions in a map of height `source` of fp32 `rows` of a map of height `target`."""
    return ((rows + 0.5) * (source / target) - 0.5).clip(0, source - 1)


def row_elements(channels: int, size: tuple[int, int], *sources: tuple[int, int]) -> int:
    """Return the elements needed per row of a map of `size` (H, W), in the largest of the maps it is resized from."""
    return max(channels * width * -(-height // size[0]) for height, width in (size, *sources))


def bands_of(rows: Rows, height: int, elements: int, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row and the values of each band of a map of `height`, whose rows need `elements` each."""
    step = max(1, (BAND_ELEMENTS if device.type == "cpu" else GPU_BAND_ELEMENTS) // elements)
    for start in range(0, height, step):
        yield start, rows(start, min(start + step, height))


class QueryMasks(NamedTuple):
    """Queries of one image: `class_logits` (Q, K + 1), "no object" last, and `mask_logits` (Q, h, w).

    The masks cover the padded input of `padded_size`, with the image of `image_size` in its upper left; results have
    `output_size`. All sizes are (height, width).
    """

    class_logits: Tensor
    mask_logits: Tensor
    padded_size: tuple[int, int]
    image_size: tuple[int, int]
    output_size: tuple[int, int]

    def bands(self, queries: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield bands of `queries` (N,) at `output_size`, top to bottom: first row and mask logits (rows, width, N)."""
        chosen = self.mask_logits[queries]
        padded = resized(rows_of(chosen), (chosen.shape[1], chosen.shape[2]), self.padded_size)

        def cropped(start: int, stop: int) -> Tensor:
            return padded(start, stop)[:, : self.image_size[1]]

        rows = resized(cropped, self.image_size, self.output_size)
        elements = row_elements(len(queries), self.output_size, self.image_size, self.padded_size)
        return bands_of(rows, self.output_size[0], elements, chosen.device)


class ScoreMap(NamedTuple):
    """Class scores of one image, as lazy `rows` of a map of `size` (H, W).

    `row_elements` is the result of the function of that name. `queries` are those behind the scores, if there are any
    and they come from a single pass over the image.
    """

    rows: Rows
    size: tuple[int, int]
    row_elements: int
    device: torch.device
    queries: QueryMasks | None = None

    @staticmethod
    def from_scores(scores: Tensor) -> ScoreMap:
        """Wrap scores (K, H, W) that are already in memory."""
        size = (scores.shape[-2], scores.shape[-1])
        return ScoreMap(rows_of(scores), size, row_elements(len(scores), size), scores.device)

    def scores(self) -> Tensor:
        """Compute all scores: (K, H, W), with K innermost in memory."""
        return self._collect(lambda band: band).permute(2, 0, 1)

    def labels(self) -> Tensor:
        """Compute the class with the highest score of each pixel, the lowest id on ties: (H, W) int64."""
        return self._collect(argmax_of_channels)

    def _collect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply `function` to each band (rows, W, K) and collect the results in one map (H, W, ...)."""
        whole = None
        for start, band in self._bands():
            part = function(band)
            if whole is None:
                whole = part.new_empty(self.size + part.shape[2:])
            whole[start : start + len(part)] = part
        assert whole is not None  # a map has at least one row
        return whole

    def _bands(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row and the scores (rows, W, K) of each band, from top to bottom."""
        return bands_of(self.rows, int(self.size[0]), self.row_elements, self.device)


def score_map_of_queries(queries: QueryMasks, *, resize_masks_first: bool, in_bf16: bool = False) -> ScoreMap:
    """Return the class scores (K, H, W) of an image's queries (MaskFormer, arXiv 2107.06278, section 3.4).

    The score of a class at a pixel is the sum over queries of class probability times mask probability. Masks are
    resized to the padded input, and the scores there are cropped and resized to the output size. With
    `resize_masks_first` the mask logits are cropped and resized instead, before the sigmoid. With `in_bf16` the sums
    are products in bf16.
    """
    probability = queries.class_logits.softmax(-1)[:, :-1].T.contiguous()  # (K, Q)
    if in_bf16:
        probability = probability.bfloat16()
    _, height, width = queries.mask_logits.shape
    image_size, output_size = queries.image_size, queries.output_size
    padded = resized(rows_of(queries.mask_logits), (height, width), queries.padded_size)

    def cropped(start: int, stop: int) -> Tensor:
        return padded(start, stop)[:, : image_size[1]]

    masks = resized(cropped, image_size, output_size) if resize_masks_first else cropped

    def scores(start: int, stop: int) -> Tensor:
        return in_fp32(linear(masks(start, stop).sigmoid().to(probability.dtype), probability))

    rows = scores if resize_masks_first else resized(scores, image_size, output_size)
    elements = row_elements(max(probability.shape), output_size, image_size, queries.padded_size)
    return ScoreMap(rows, output_size, elements, queries.mask_logits.device, queries)


def argmax_of_channels(band: Tensor) -> Tensor:
    """Return `band.argmax(-1)`; on a CPU by NumPy, whose argmax is vectorized."""
    return torch.from_numpy(band.detach().numpy().argmax(-1)) if band.device.type == "cpu" else band.argmax(-1)
