"""Models from elsewhere, such as Detectron2's SemanticSegmentor, as ours are used for predictions."""

from __future__ import annotations

from torch import Tensor, nn

from semask_d2.modeling.meta_arch.base import Segmentation, SemanticSegmenter


class ForeignSegmenter(nn.Module):
    """A model that gives `sem_seg` (K, height, width) scores per image, with what `SemanticSegmenter` says and does.

    Scores of such models are logits, and there are no semantic maps.
    """

    scores_are_probabilities = False
    has_priors = False

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """The model's own outputs."""
        return self.model(batched_inputs)

    def predict(self, batched_inputs: list[dict], *, scores: bool = False, priors: bool = False) -> list[Segmentation]:
        """As `SemanticSegmenter.predict`."""
        if priors:
            raise ValueError(f"{type(self.model).__name__} gives no semantic maps")
        whole = [output["sem_seg"].float() for output in self.model(batched_inputs)]
        return [Segmentation(x.argmax(0), x if scores else None) for x in whole]

    def predict_labels(self, batched_inputs: list[dict]) -> list[Tensor]:
        """As `SemanticSegmenter.predict_labels`."""
        return [result.labels for result in self.predict(batched_inputs)]


def as_segmenter(model: nn.Module) -> SemanticSegmenter | ForeignSegmenter:
    """`model` itself if it is ours, else in the adapter."""
    return model if isinstance(model, (SemanticSegmenter, ForeignSegmenter)) else ForeignSegmenter(model)
