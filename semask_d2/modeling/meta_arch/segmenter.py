"""What is asked of anything that segments images: a model, or a model at several scales or in windows."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from semask_d2.modeling.meta_arch.score_maps import ScoreMap

Priors = dict[str, Tensor]  # the semantic maps `sem2`..`sem5` (K, h_i, w_i) of an image without its padding

# of the images that go through a model together where they are views of one picture
BATCH_PIXELS = 2**20
GPU_BATCH_PIXELS = 2**23


class Segmentation(NamedTuple):
    """What a model sees in one image: `labels` (H, W) int64 class ids and, where asked for, the rest.

    `scores` (K, H, W) float, of which the highest is the label. They are no calibrated probabilities: those of mask
    models are sums over queries of class probability times mask probability, from 0 to about 1, whose sum over the
    classes is not 1; those of Semantic FPN are logits. `priors` are the semantic maps. `segments` are what the model
    finds in Detectron2's forms, by their names `panoptic_seg` and `instances`.
    """

    labels: Tensor
    scores: Tensor | None = None
    priors: Priors | None = None
    segments: dict[str, Any] | None = None


class Segmenter(nn.Module, metaclass=ABCMeta):
    """Images in, and labels or scores out.

    `scores_are_probabilities` says whether scores can be averaged as they are; where not, they are logits.
    """

    scores_are_probabilities: bool

    @property
    @abstractmethod
    def has_priors(self) -> bool:
        """Whether there are semantic maps to show."""

    @abstractmethod
    def lazy_predictions(
        self, batched_inputs: list[dict], *, priors: bool = False
    ) -> Iterator[tuple[ScoreMap, Priors | None]]:
        """Each image's scores at its `height` and `width`, not computed yet, and its semantic maps where asked for."""

    def segments(self, score_map: ScoreMap) -> dict[str, Any]:
        """The `panoptic_seg` and `instances` that this model is set to find, of an image's predictions; here none."""
        return {}

    def predict(
        self, batched_inputs: list[dict], *, scores: bool = False, priors: bool = False, segments: bool = False
    ) -> list[Segmentation]:
        """Each image's labels at its `height` and `width` (the argmax of its scores), and what else is asked.

        Scores that nobody asks for are never made whole. Raises `ValueError` for priors that there are not.
        """
        if priors and not self.has_priors:
            raise ValueError("this model gives no semantic maps (NUM_SEM_BLOCKS 0, or none)")
        results = []
        for score_map, prior in self.lazy_predictions(batched_inputs, priors=priors):
            with torch.autocast(score_map.device.type, enabled=False):  # a caller's would decide ties in half precision
                whole = score_map.scores() if scores else None
                labels = score_map.labels() if whole is None else whole.argmax(0)
                found = self.segments(score_map) if segments else None
            results.append(Segmentation(labels, whole, prior, found))
        return results

    def predict_labels(self, batched_inputs: list[dict]) -> list[Tensor]:
        """The class of each pixel, (height, width) int64 per image."""
        return [result.labels for result in self.predict(batched_inputs)]

    def scored(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Detectron2's form of predictions: per image `sem_seg`, scores (K, height, width)."""
        return [{"sem_seg": cast(Tensor, result.scores)} for result in self.predict(batched_inputs, scores=True)]


def in_batches(images: list[dict], device: torch.device) -> Iterator[list[dict]]:
    """Inputs of one size in batches of bounded pixels, of one image at least."""
    pixels = images[0]["image"].shape[-2] * images[0]["image"].shape[-1]
    count = max(1, (BATCH_PIXELS if device.type == "cpu" else GPU_BATCH_PIXELS) // pixels)
    for start in range(0, len(images), count):
        yield images[start : start + count]
