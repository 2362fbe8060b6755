"""Adapter of other models, such as Detectron2's SemanticSegmentor, to the `Segmenter` interface."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor, nn

from semask_d2.modeling.meta_arch.score_maps import ScoreMap
from semask_d2.modeling.meta_arch.segmenter import Priors, Segmentation, Segmenter


class ForeignSegmenter(Segmenter):
    """Adapter of a model that returns `sem_seg` scores (K, height, width) per image.

    The scores of such models are logits, and they have no semantic maps.
    """

    scores_are_probabilities = False
    prior_strides: ClassVar[dict[str, int]] = {}  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Return the outputs of the wrapped model."""
        return self.model(batched_inputs)

    def lazy_predictions(
        self, batched_inputs: list[dict], *, priors: bool = False
    ) -> Iterator[tuple[ScoreMap, Priors | None]]:
        """Yield the scores of the wrapped model, which are computed at full size."""
        for output in self.model(batched_inputs):
            yield ScoreMap.from_scores(output["sem_seg"].float()), None

    def predict(
        self, batched_inputs: list[dict], *, scores: bool = False, priors: bool = False, segments: bool = False
    ) -> list[Segmentation]:
        """Predict as `Segmenter.predict` does, without copying the scores."""
        if priors:
            raise ValueError(f"{type(self.model).__name__} has no semantic maps")
        whole = [output["sem_seg"].float() for output in self.model(batched_inputs)]
        return [Segmentation(x.argmax(0), x if scores else None, segments={} if segments else None) for x in whole]


def as_segmenter(model: nn.Module) -> Segmenter:
    """Return `model` itself if it is a `Segmenter`, else an adapter of it."""
    return model if isinstance(model, Segmenter) else ForeignSegmenter(model)
