"""Evaluation without scores."""

from __future__ import annotations

from torch import Tensor, nn


class LabelsOnly(nn.Module):
    """A model's labels for evaluators that need no more: per image `sem_seg`, (height, width) class ids.

    The scores (K, height, width) of a large image take far longer and far more memory. `model` has `predict_labels`,
    as this project's meta-architectures have it.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        return [{"sem_seg": labels} for labels in self.model.predict_labels(batched_inputs)]
