"""Models from elsewhere, such as Detectron2's SemanticSegmentor, as ours are used for predictions."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from semask_d2.modeling.meta_arch.score_maps import ScoreMap
from semask_d2.modeling.meta_arch.segmenter import Priors, Segmentation, Segmenter


class ForeignSegmenter(Segmenter):
    """A model that gives `sem_seg` (K, height, width) scores per image, with what `Segmenter` says and does.

    Scores of such models are logits, and there are no semantic maps.
    """

    scores_are_probabilities = False
    has_priors = False  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """The model's own outputs."""
        return self.model(batched_inputs)

    def lazy_predictions(
        self, batched_inputs: list[dict], *, priors: bool = False
    ) -> Iterator[tuple[ScoreMap, Priors | None]]:
        """The model's own scores, which are whole."""
        for output in self.model(batched_inputs):
            yield ScoreMap.of_scores(output["sem_seg"].float()), None

    def predict(
        self, batched_inputs: list[dict], *, scores: bool = False, priors: bool = False, segments: bool = False
    ) -> list[Segmentation]:
        """As `Segmenter.predict`, without a copy of the scores."""
        if priors:
            raise ValueError(f"{type(self.model).__name__} gives no semantic maps")
        whole = [output["sem_seg"].float() for output in self.model(batched_inputs)]
        return [Segmentation(x.argmax(0), x if scores else None, segments={} if segments else None) for x in whole]


def as_segmenter(model: nn.Module) -> Segmenter:
    """`model` itself if it is a `Segmenter`, else in the adapter."""
    return model if isinstance(model, Segmenter) else ForeignSegmenter(model)
