"""Sliding-window inference on images of any size, with scores blended where windows overlap.

Windows are computed from top to bottom as rows of the result are requested, and discarded afterwards. Memory holds one
band, and the predictions of the windows that overlap it, at the stride of the model; never the scores of the whole
image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from semask_d2.d2 import CfgNode
from semask_d2.modeling.meta_arch.foreign import as_segmenter
from semask_d2.modeling.meta_arch.score_maps import ScoreMap, resized
from semask_d2.modeling.meta_arch.segmenter import Priors, Segmenter, in_batches
from semask_d2.utils.arguments import arguments_from, naming_config_keys, require
from semask_d2.utils.errors import UserError

BLENDINGS = ("linear", "mean")
DEVICE_KINDS = ("cpu", "cuda", "mps")


class SlidingWindows(Segmenter):
    """`model` applied to windows of at most `size` (height, width), overlapping by at least the fraction `overlap`.

    Blending is "linear", with weights that decrease toward the edges of a window, or "mean". Scores that are logits are
    blended as probabilities and returned as their logarithms. An image within one window goes to the model directly.
    Semantic maps, if requested, take a second pass and are kept in memory at full size.
    """

    config_keys: ClassVar = {
        "size": "TEST.SLIDING.SIZE",
        "overlap": "TEST.SLIDING.OVERLAP",
        "blending": "TEST.SLIDING.BLENDING",
    }

    def __init__(self, model: nn.Module, *, size: tuple[int, int], overlap: float, blending: str):
        super().__init__()
        whole_sides = len(size) == 2 and all(side >= 1 and side == int(side) for side in size)
        require(whole_sides, self, "size", "two sides in pixels (or [0, 0] with an INPUT.CROP.SIZE in pixels)", size)
        require(0 <= overlap <= 0.9, self, "overlap", "a fraction from 0 to 0.9", overlap)
        require(blending in BLENDINGS, self, "blending", '"linear" or "mean"', blending)
        self.model = as_segmenter(model)
        self.scores_are_probabilities = self.model.scores_are_probabilities
        self.training = model.training
        self.size = (int(size[0]), int(size[1]))
        self.overlap = overlap
        self.blending = blending

    @property
    def prior_strides(self) -> dict[str, int]:
        """True if the model has semantic maps."""
        return self.model.prior_strides

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Return per image `sem_seg`: scores (K, height, width)."""
        return self.scored(batched_inputs)

    def lazy_predictions(
        self, batched_inputs: list[dict], *, priors: bool = False
    ) -> Iterator[tuple[ScoreMap, Priors | None]]:
        """Yield scores that are computed when their rows are requested, from top to bottom."""
        if all(self._is_one_window(inputs["image"]) for inputs in batched_inputs):
            yield from self.model.lazy_predictions(batched_inputs, priors=priors)
            return
        for inputs in batched_inputs:
            if self._is_one_window(inputs["image"]):
                yield from self.model.lazy_predictions([inputs], priors=priors)
            else:
                yield self._score_map(inputs), self._priors(inputs["image"]) if priors else None

    def _is_one_window(self, image: Tensor) -> bool:
        return image.shape[-2] <= self.size[0] and image.shape[-1] <= self.size[1]

    def _grid(self, image: Tensor) -> tuple[tuple[int, int], list[int], list[int]]:
        """Return the size of the windows of an image, their top rows and their left columns."""
        height, width = image.shape[-2:]
        size = (min(self.size[0], height), min(self.size[1], width))
        return size, window_starts(height, size[0], self.overlap), window_starts(width, size[1], self.overlap)

    def _score_map(self, inputs: dict) -> ScoreMap:
        image = inputs["image"]
        height, width = image.shape[-2:]
        (window_height, window_width), tops, lefts = self._grid(image)
        autocast = callers_autocast()

        def predict_row(top: int) -> list[ScoreMap]:
            """Predict the windows whose first row is `top`."""
            sizes = {"height": window_height, "width": window_width}
            images = [image[:, top : top + window_height, left : left + window_width] for left in lefts]
            with autocast():
                batches = in_batches([{"image": x, **sizes} for x in images], image.device)
                return [score_map for batch in batches for score_map, _ in self.model.lazy_predictions(batch)]

        window_rows = {0: predict_row(0)}
        device = window_rows[0][0].device
        row_weights = window_weights(height, window_height, tops, self.blending).to(device)
        column_weights = window_weights(width, window_width, lefts, self.blending).to(device)

        def rows(start: int, stop: int) -> Tensor:
            needed = [top for top in tops if top < stop and top + window_height > start]
            for top in window_rows.keys() - set(needed):
                del window_rows[top]
            total = None
            for top in needed:
                if top not in window_rows:
                    window_rows[top] = predict_row(top)
                first, last = max(start, top), min(stop, top + window_height)
                row_weight = row_weights[tops.index(top), first:last, None, None]
                for score_map, left, column_weight in zip(window_rows[top], lefts, column_weights, strict=True):
                    part = score_map.rows(first - top, last - top)
                    if not self.scores_are_probabilities:
                        part = part.softmax(-1)
                    if total is None:
                        total = part.new_zeros(stop - start, width, part.shape[-1])
                    right = left + window_width
                    total[first - start : last - start, left:right] += (
                        part * row_weight * column_weight[left:right, None]
                    )
            assert total is not None  # the windows cover all rows
            return total if self.scores_are_probabilities else total.clamp_(min=torch.finfo(total.dtype).tiny).log_()

        size = (inputs.get("height", height), inputs.get("width", width))
        elements = window_rows[0][0].row_elements * len(lefts) * -(-height // size[0])
        return ScoreMap(resized(rows, (height, width), size), size, elements, device)

    def _priors(self, image: Tensor) -> Priors:
        """Compose the semantic maps of all windows, aligned to the nearest cell; later windows overwrite earlier."""
        whole: Priors = {}
        (height, width), tops, lefts = self._grid(image)
        for top in tops:
            for left in lefts:
                window = {"image": image[:, top : top + height, left : left + width]}
                ((_, priors),) = self.model.lazy_predictions([window], priors=True)
                assert priors is not None  # requested above
                for name, stride in self.prior_strides.items():
                    prior = priors[name]
                    cells = [-(-side // stride) for side in image.shape[-2:]]
                    if name not in whole:
                        whole[name] = prior.new_zeros(len(prior), *cells)
                    row = min(round(top / stride), cells[0] - prior.shape[1])
                    column = min(round(left / stride), cells[1] - prior.shape[2])
                    whole[name][:, row : row + prior.shape[1], column : column + prior.shape[2]] = prior
        return whole


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Return evenly spaced window starts along a side of `length` pixels, as few as `overlap` permits."""
    count = int(np.ceil((length - window) / max(1, int(window * (1 - overlap))))) + 1
    return np.linspace(0, length - window, count).round().astype(int).tolist()


def window_weights(length: int, window: int, starts: list[int], blending: str) -> Tensor:
    """Return the weight of each window at each pixel of a side, (windows, length), with sum 1 over windows."""
    ramp = torch.arange(1, window + 1, dtype=torch.float64)
    shape = torch.minimum(ramp, ramp.flip(0)) if blending == "linear" else torch.ones(window, dtype=torch.float64)
    weights = torch.zeros(len(starts), length, dtype=torch.float64)
    for row, start in zip(weights, starts, strict=True):
        row[start : start + window] = shape
    return (weights / weights.sum(0)).float()


def callers_autocast() -> Callable[[], AbstractContextManager]:
    """Return a context factory that restores the current autocast of every kind of device later."""
    kinds = [kind for kind in DEVICE_KINDS if torch.is_autocast_enabled(kind)]
    dtypes = {kind: torch.get_autocast_dtype(kind) for kind in kinds}

    @contextmanager
    def restored() -> Iterator[None]:
        with ExitStack() as stack:
            for kind, dtype in dtypes.items():
                stack.enter_context(torch.autocast(kind, dtype=dtype))
            yield

    return restored


def with_sliding(cfg: CfgNode, model: nn.Module) -> Segmenter:
    """Wrap `model` in the windows of TEST.SLIDING if enabled; SIZE [0, 0] means INPUT.CROP.SIZE."""
    if not cfg.TEST.SLIDING.ENABLED:
        return as_segmenter(model)
    refuse_segments(cfg, "TEST.SLIDING.ENABLED")
    arguments = arguments_from(cfg, SlidingWindows.config_keys)
    if not any(arguments["size"]):
        arguments["size"] = cfg.INPUT.CROP.SIZE
    with naming_config_keys():
        return SlidingWindows(model, **arguments)


def refuse_segments(cfg: CfgNode, key: str) -> None:
    """Raise `UserError` if the config enables segments together with `key`, which blends scores only."""
    for task in ("INSTANCE_ON", "PANOPTIC_ON"):
        if cfg.MODEL.MASK_FORMER.TEST[task]:
            raise UserError(
                f"{key}: expected False with MODEL.MASK_FORMER.TEST.{task} True, because it supports semantic "
                "segmentation only; set one of them to False"
            )
