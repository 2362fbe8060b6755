"""Maps that are resized and combined a band of rows at a time, so that none is held whole at full size.

Full-size masks and scores of a large image take gigabytes, and its labels (H, W) need neither. Here a `Rows` is a map
(H, W, C) as a function: `rows(start, stop)` gives (stop - start, W, C). Channels come last because resizing and argmax
are several times faster so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semask_d2.modeling.kernels.linear import linear

Rows = Callable[[int, int], Tensor]

BAND_ELEMENTS = 2**21  # of a band's widest map in fp32: 8 MB, near a CPU's caches
GPU_BAND_ELEMENTS = 2**26


def rows_of(maps: Tensor) -> Rows:
    """The rows of maps (C, H, W)."""
    maps = maps.permute(1, 2, 0).contiguous()
    return lambda start, stop: maps[start:stop]


def resized(rows: Rows, source: tuple[int, int], target: tuple[int, int]) -> Rows:
    """A map (*source, C) resized to (*target, C): bilinear, with half-pixel centers, as F.interpolate does it."""
    height, width, new_height, new_width = map(int, (*source, *target))  # under torch.jit.trace they are tensors

    def of_height(start: int, stop: int) -> Tensor:
        # which rows of the source are wanted is a question of the host; the rest is computed where they are
        ends = source_rows(np.array([start, stop - 1], np.float32), height, new_height)
        first = int(ends[0])
        band = rows(first, min(int(ends[1]) + 1, height - 1) + 1)
        y = source_rows(torch.arange(start, stop, dtype=torch.float32, device=band.device), height, new_height)
        above = y.long()
        above_row = band[above - first]
        below_row = band[(above + 1).clamp(max=height - 1) - first]
        return torch.lerp(above_row, below_row, (y - above).to(band.dtype)[:, None, None])

    def of_size(start: int, stop: int) -> Tensor:
        band = rows(start, stop) if height == new_height else of_height(start, stop)
        if width == new_width:
            return band
        maps = band[None].permute(0, 3, 1, 2)
        maps = F.interpolate(maps, size=(stop - start, new_width), mode="bilinear", align_corners=False)
        return maps.permute(0, 2, 3, 1)[0]

    return of_size


def source_rows(rows: Any, source: int, target: int) -> Any:
    """Where rows of a map of height `target`, an array or tensor of fp32, lie in the rows of one of height `source`."""
    return ((rows + 0.5) * (source / target) - 0.5).clip(0, source - 1)


def row_elements(channels: int, size: tuple[int, int], *sources: tuple[int, int]) -> int:
    """The elements that a row of a map of `size` (H, W) takes of the largest of the maps it is resized from."""
    return max(channels * width * -(-height // size[0]) for height, width in (size, *sources))


def bands_of(rows: Rows, height: int, elements: int, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """The first row and the values of each band of a map of `height`, whose rows take `elements` each."""
    step = max(1, (BAND_ELEMENTS if device.type == "cpu" else GPU_BAND_ELEMENTS) // elements)
    for start in range(0, height, step):
        yield start, rows(start, min(start + step, height))


class QueryMasks(NamedTuple):
    """The queries of one image: `class_logits` (Q, K + 1), the last one "no object", and `mask_logits` (Q, h, w).

    The masks cover the padded input of `padded_size`, of which the image is the upper left `image_size`; results are
    of `output_size`. All sizes are (height, width).
    """

    class_logits: Tensor
    mask_logits: Tensor
    padded_size: tuple[int, int]
    image_size: tuple[int, int]
    output_size: tuple[int, int]

    def bands(self, queries: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The first row and the mask logits (rows, width, N) of these queries (N,) at `output_size`, top to bottom."""
        chosen = self.mask_logits[queries]
        padded = resized(rows_of(chosen), (chosen.shape[1], chosen.shape[2]), self.padded_size)

        def cropped(start: int, stop: int) -> Tensor:
            return padded(start, stop)[:, : self.image_size[1]]

        rows = resized(cropped, self.image_size, self.output_size)
        elements = row_elements(len(queries), self.output_size, self.image_size, self.padded_size)
        return bands_of(rows, self.output_size[0], elements, chosen.device)


class ScoreMap(NamedTuple):
    """The class scores of one image: `rows` gives some rows of the map, whose `size` is (H, W).

    `row_elements` counts what one of its rows takes of the largest map behind it, as the function of that name does.
    `queries` are those that the scores come of, where there are any and one pass over the image gave them.
    """

    rows: Rows
    size: tuple[int, int]
    row_elements: int
    device: torch.device
    queries: QueryMasks | None = None

    @staticmethod
    def of_scores(scores: Tensor) -> ScoreMap:
        """The map of scores (K, H, W) that are whole already."""
        size = (scores.shape[-2], scores.shape[-1])
        return ScoreMap(rows_of(scores), size, row_elements(len(scores), size), scores.device)

    def scores(self) -> Tensor:
        """All scores: (K, H, W), with K innermost in memory."""
        return self._collect(lambda band: band).permute(2, 0, 1)

    def labels(self) -> Tensor:
        """The class of each pixel's highest score, the lowest one of equals: (H, W) int64."""
        return self._collect(argmax_of_channels)

    def _collect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """`function` of each band (rows, W, K), in one map (H, W, ...)."""
        whole = None
        for start, band in self._bands():
            part = function(band)
            if whole is None:
                whole = part.new_empty(self.size + part.shape[2:])
            whole[start : start + len(part)] = part
        assert whole is not None  # a map has rows
        return whole

    def _bands(self) -> Iterator[tuple[int, Tensor]]:
        """The first row and the scores (rows, W, K) of each band, from top to bottom."""
        return bands_of(self.rows, int(self.size[0]), self.row_elements, self.device)


def score_map_of_queries(queries: QueryMasks, *, resize_masks_first: bool) -> ScoreMap:
    """Return the class scores (K, H, W) of an image's queries (MaskFormer, arXiv 2107.06278, section 3.4).

    A pixel's score for a class is the sum over queries of class probability times mask probability. Masks are resized
    to the padded input, and the scores there are cropped and resized to the output size. With `resize_masks_first`
    the mask logits are cropped and resized instead, before the sigmoid.
    """
    probability = queries.class_logits.softmax(-1)[:, :-1].T.contiguous()  # (K, Q)
    _, height, width = queries.mask_logits.shape
    image_size, output_size = queries.image_size, queries.output_size
    padded = resized(rows_of(queries.mask_logits), (height, width), queries.padded_size)

    def cropped(start: int, stop: int) -> Tensor:
        return padded(start, stop)[:, : image_size[1]]

    masks = resized(cropped, image_size, output_size) if resize_masks_first else cropped

    def scores(start: int, stop: int) -> Tensor:
        return linear(masks(start, stop).sigmoid(), probability)

    rows = scores if resize_masks_first else resized(scores, image_size, output_size)
    elements = row_elements(max(probability.shape), output_size, image_size, queries.padded_size)
    return ScoreMap(rows, output_size, elements, queries.mask_logits.device, queries)


def argmax_of_channels(band: Tensor) -> Tensor:
    """`band.argmax(-1)`; on a CPU NumPy's, which is vectorized."""
    return torch.from_numpy(band.detach().numpy().argmax(-1)) if band.device.type == "cpu" else band.argmax(-1)
