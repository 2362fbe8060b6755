"""Sliding windows: an image of any size in overlapping windows, whose scores are blended where they overlap.

Windows are computed from top to bottom as the rows of the result are asked for, and forgotten once they are passed.
What is held at a time are the predictions of the rows of windows that meet a band, at the model's own stride, and the
band: never the scores of the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from semask_d2.d2 import CfgNode
from semask_d2.modeling.layers.semantic_decoder import SEMANTIC_MAPS
from semask_d2.modeling.meta_arch.foreign import as_segmenter
from semask_d2.modeling.meta_arch.score_maps import ScoreMap, resized
from semask_d2.modeling.meta_arch.segmenter import Priors, Segmenter, in_batches
from semask_d2.utils.arguments import arguments_from, naming_config_keys, require
from semask_d2.utils.errors import UserError

BLENDINGS = ("linear", "mean")
DEVICE_KINDS = ("cpu", "cuda", "mps")


class SlidingWindows(Segmenter):
    """`model` in windows of at most `size` (height, width), which overlap by at least the share `overlap` of a side.

    Scores are blended with weights that fall "linear" to a window's edges, or as their "mean"; those of models with
    logits as probabilities, and given as logarithms of these. What one window covers goes to the model as it is.
    Semantic maps, where asked for, take a second pass and are held whole.
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
        require(0 <= overlap <= 0.9, self, "overlap", "a share from 0 to 0.9", overlap)
        require(blending in BLENDINGS, self, "blending", '"linear" or "mean"', blending)
        self.model = as_segmenter(model)
        self.scores_are_probabilities = self.model.scores_are_probabilities
        self.training = model.training
        self.size = (int(size[0]), int(size[1]))
        self.overlap = overlap
        self.blending = blending

    @property
    def has_priors(self) -> bool:
        """Whether the model has semantic maps."""
        return self.model.has_priors

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Per image `sem_seg`: scores (K, height, width)."""
        return self.scored(batched_inputs)

    def lazy_predictions(
        self, batched_inputs: list[dict], *, priors: bool = False
    ) -> Iterator[tuple[ScoreMap, Priors | None]]:
        """Scores that are computed as their rows are asked for, from top to bottom."""
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
        """The size of each window of an image, their tops and their lefts."""
        height, width = image.shape[-2:]
        size = (min(self.size[0], height), min(self.size[1], width))
        return size, window_starts(height, size[0], self.overlap), window_starts(width, size[1], self.overlap)

    def _score_map(self, inputs: dict) -> ScoreMap:
        image = inputs["image"]
        height, width = image.shape[-2:]
        (window_height, window_width), tops, lefts = self._grid(image)
        autocast = callers_autocast()

        def predicted(top: int) -> list[ScoreMap]:
            """The windows side by side from row `top` on."""
            sizes = {"height": window_height, "width": window_width}
            images = [image[:, top : top + window_height, left : left + window_width] for left in lefts]
            with autocast():
                batches = in_batches([{"image": x, **sizes} for x in images], image.device)
                return [score_map for batch in batches for score_map, _ in self.model.lazy_predictions(batch)]

        held = {0: predicted(0)}
        device = held[0][0].device
        row_weights = window_weights(height, window_height, tops, self.blending).to(device)
        column_weights = window_weights(width, window_width, lefts, self.blending).to(device)

        def rows(start: int, stop: int) -> Tensor:
            needed = [top for top in tops if top < stop and top + window_height > start]
            for top in held.keys() - set(needed):
                del held[top]
            total = None
            for top in needed:
                if top not in held:
                    held[top] = predicted(top)
                first, last = max(start, top), min(stop, top + window_height)
                of_rows = row_weights[tops.index(top), first:last, None, None]
                for score_map, left, of_columns in zip(held[top], lefts, column_weights, strict=True):
                    part = score_map.rows(first - top, last - top)
                    if not self.scores_are_probabilities:
                        part = part.softmax(-1)
                    if total is None:
                        total = part.new_zeros(stop - start, width, part.shape[-1])
                    right = left + window_width
                    total[first - start : last - start, left:right] += part * of_rows * of_columns[left:right, None]
            assert total is not None  # the windows cover all rows
            return total if self.scores_are_probabilities else total.clamp_(min=torch.finfo(total.dtype).tiny).log_()

        size = (inputs.get("height", height), inputs.get("width", width))
        elements = held[0][0].row_elements * len(lefts) * -(-height // size[0])
        return ScoreMap(resized(rows, (height, width), size), size, elements, device)

    def _priors(self, image: Tensor) -> Priors:
        """The semantic maps of all windows in one map each, to the nearest cell; later windows lie above earlier."""
        whole: Priors = {}
        (height, width), tops, lefts = self._grid(image)
        for top in tops:
            for left in lefts:
                window = {"image": image[:, top : top + height, left : left + width]}
                ((_, priors),) = self.model.lazy_predictions([window], priors=True)
                assert priors is not None  # they were asked for
                for stage, name in enumerate(SEMANTIC_MAPS):
                    stride, prior = 4 * 2**stage, priors[name]
                    cells = [-(-side // stride) for side in image.shape[-2:]]
                    if name not in whole:
                        whole[name] = prior.new_zeros(len(prior), *cells)
                    row = min(round(top / stride), cells[0] - prior.shape[1])
                    column = min(round(left / stride), cells[1] - prior.shape[2])
                    whole[name][:, row : row + prior.shape[1], column : column + prior.shape[2]] = prior
        return whole


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows start along a side of `length` pixels: evenly spread, as few as overlap by `overlap` or more."""
    count = int(np.ceil((length - window) / max(1, int(window * (1 - overlap))))) + 1
    return np.linspace(0, length - window, count).round().astype(int).tolist()


def window_weights(length: int, window: int, starts: list[int], blending: str) -> Tensor:
    """Each window's weight at each pixel of a side, (windows, length), which add up to 1 over the windows."""
    ramp = torch.arange(1, window + 1, dtype=torch.float64)
    shape = torch.minimum(ramp, ramp.flip(0)) if blending == "linear" else torch.ones(window, dtype=torch.float64)
    weights = torch.zeros(len(starts), length, dtype=torch.float64)
    for row, start in zip(weights, starts, strict=True):
        row[start : start + window] = shape
    return (weights / weights.sum(0)).float()


def callers_autocast() -> Callable[[], AbstractContextManager]:
    """Return the mixed precision of now, of each kind of device, for what is computed later."""
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
    """`model` in the windows of TEST.SLIDING, of INPUT.CROP.SIZE where its SIZE is [0, 0], or where off as it is."""
    if not cfg.TEST.SLIDING.ENABLED:
        return as_segmenter(model)
    refuse_segments(cfg, "TEST.SLIDING.ENABLED")
    arguments = arguments_from(cfg, SlidingWindows.config_keys)
    if not any(arguments["size"]):
        arguments["size"] = cfg.INPUT.CROP.SIZE
    with naming_config_keys():
        return SlidingWindows(model, **arguments)


def refuse_segments(cfg: CfgNode, key: str) -> None:
    """Raise `UserError` where a config asks for segments while `key` is on, which blends scores, not segments."""
    for task in ("INSTANCE_ON", "PANOPTIC_ON"):
        if cfg.MODEL.MASK_FORMER.TEST[task]:
            raise UserError(
                f"{key}: expected False with MODEL.MASK_FORMER.TEST.{task} True, as it is for semantic segmentation "
                "alone; set one of them to False"
            )
