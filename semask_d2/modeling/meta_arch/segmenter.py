"""Interface of everything that segments images: a model, or a model at several scales or in sliding windows."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from semask_d2.modeling.meta_arch.score_maps import ScoreMap

Priors = dict[str, Tensor]  # semantic maps `sem2`..`sem5` (K, h_i, w_i) of an image without padding

# per batch, if the inputs are views of one image
BATCH_PIXELS = 2**20
GPU_BATCH_PIXELS = 2**23


class Segmentation(NamedTuple):
    """Prediction for one image: `labels` (H, W) int64 class ids and, if requested, the rest.

    `scores` (K, H, W) float, whose argmax is the label. They are not calibrated probabilities. Scores of mask models
    are sums over queries of class probability times mask probability, from 0 to about 1, and do not add up to 1 over
    the classes; scores of Semantic FPN are logits. `priors` are the semantic maps. `segments` are `panoptic_seg` and
    `instances` in Detectron2's format.
    """

    labels: Tensor
    scores: Tensor | None = None
    priors: Priors | None = None
    segments: dict[str, Any] | None = None


class Segmenter(nn.Module, metaclass=ABCMeta):
    """Interface from images to labels or scores.

    If `scores_are_probabilities`, scores can be averaged directly; otherwise they are logits.
    """

    scores_are_probabilities: bool

    @property
    @abstractmethod
    def prior_strides(self) -> dict[str, int]:
        """Strides of the semantic maps by name, {} for a model without them."""

    @property
    def has_priors(self) -> bool:
        """True if the model has semantic maps."""
        return bool(self.prior_strides)

    @abstractmethod
    def lazy_predictions(
        self, batched_inputs: list[dict], *, priors: bool = False
    ) -> Iterator[tuple[ScoreMap, Priors | None]]:
        """Yield lazy scores of each image at its `height` and `width`, and its semantic maps if `priors`."""

    def segments(self, score_map: ScoreMap) -> dict[str, Any]:
        """Return `panoptic_seg` and `instances` of an image, if the model predicts them; {} by default."""
        return {}

    def predict(
        self, batched_inputs: list[dict], *, scores: bool = False, priors: bool = False, segments: bool = False
    ) -> list[Segmentation]:
        """Return the labels of each image at its `height` and `width`, the argmax of its scores, and what is requested.

        Full-size scores are only computed if requested. Raises `ValueError` for `priors` if the model has none.
        """
        if priors and not self.has_priors:
            raise ValueError("this model has no semantic maps (NUM_SEM_BLOCKS is 0 or missing)")
        results = []
        for score_map, prior in self.lazy_predictions(batched_inputs, priors=priors):
            with torch.autocast(score_map.device.type, enabled=False):  # half precision of the caller would create ties
                whole = score_map.scores() if scores else None
                labels = score_map.labels() if whole is None else whole.argmax(0)
                segment_predictions = self.segments(score_map) if segments else None
            results.append(Segmentation(labels, whole, prior, segment_predictions))
        return results

    def predict_labels(self, batched_inputs: list[dict]) -> list[Tensor]:
        """Return the class of each pixel, (height, width) int64 per image."""
        return [result.labels for result in self.predict(batched_inputs)]

    def scored(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Return predictions in Detectron2's format: per image `sem_seg`, scores (K, height, width)."""
        return [{"sem_seg": cast(Tensor, result.scores)} for result in self.predict(batched_inputs, scores=True)]


def in_batches(images: list[dict], device: torch.device) -> Iterator[list[dict]]:
    """Yield inputs of one size in batches of a bounded number of pixels, at least one image each."""
    pixels = images[0]["image"].shape[-2] * images[0]["image"].shape[-1]
    count = max(1, (BATCH_PIXELS if device.type == "cpu" else GPU_BATCH_PIXELS) // pixels)
    for start in range(0, len(images), count):
        yield images[start : start + count]
