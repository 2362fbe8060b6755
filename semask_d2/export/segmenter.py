"""An exported file in the place of a model, for predictions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semask_d2.export.graph import resized_scores, upsampled
from semask_d2.export.interface import spelled
from semask_d2.export.running import ExportedModel
from semask_d2.modeling.meta_arch.base import output_size
from semask_d2.modeling.meta_arch.score_maps import ScoreMap
from semask_d2.modeling.meta_arch.segmenter import Priors, Segmentation, Segmenter
from semask_d2.utils.errors import UserError


class ExportedSegmenter(Segmenter):
    """Predicts as the model that was exported does, on the CPU.

    Where a picture was resized for the model, its prediction is brought to its own size: scores and logits as the model
    does it, labels to the nearest pixel, as there is nothing else to go by.
    """

    has_priors = False  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def __init__(self, exported: ExportedModel):
        super().__init__()
        self.exported = exported
        self.metadata = exported.metadata
        self.scores_are_probabilities = exported.metadata.scores_are_probabilities

    def lazy_predictions(
        self, batched_inputs: list[dict], *, priors: bool = False
    ) -> Iterator[tuple[ScoreMap, Priors | None]]:
        """The file's scores, which are whole."""
        for result in self.predict(batched_inputs, scores=True, priors=priors):
            yield ScoreMap.of_scores(cast(Tensor, result.scores)), None

    def predict(
        self, batched_inputs: list[dict], *, scores: bool = False, priors: bool = False, segments: bool = False
    ) -> list[Segmentation]:
        """As `Segmenter.predict`, one picture at a time, no segments; `UserError` for scores of a file of labels."""
        if priors:
            raise ValueError("an exported file gives no semantic maps")
        if scores and self.metadata.outputs == ["labels"]:
            raise UserError(f"{self.exported.path}: gives labels alone; export it with --outputs scores or logits")
        return [self._one(inputs, scores=scores) for inputs in batched_inputs]

    def _one(self, inputs: dict, *, scores: bool) -> Segmentation:
        image: Tensor = inputs["image"]
        height, width = image.shape[1:]
        size = output_size(inputs, (height, width))
        outputs = dict(zip(self.metadata.outputs, map(torch.from_numpy, self._run(image[None])), strict=True))
        if "labels" in outputs:
            labels = outputs["labels"].long()
            if size != (height, width):
                labels = F.interpolate(labels[None].double(), size, mode="nearest-exact")[0].long()
            return Segmentation(labels[0])
        if "logits" in outputs:
            whole = upsampled(upsampled(outputs["logits"], (height, width)), size)  # twice, as `SeMaskFPN` does it
        elif "scores" in outputs:
            whole = upsampled(outputs["scores"], size)
        else:
            divisor = max(1, self.metadata.size_divisibility)
            padded = (height + -height % divisor, width + -width % divisor)
            masks = upsampled(outputs["mask_logits"], padded)[..., :height, :width]
            masks_first = self.metadata.resize_masks_first
            whole = resized_scores(outputs["class_logits"], masks, size, masks_first=masks_first)
        return Segmentation(whole[0].argmax(0), whole[0] if scores else None)

    def _run(self, image: Tensor) -> list[np.ndarray]:
        """The graph's outputs of a picture (1, 3, H, W) uint8; `UserError` where the file is for others."""
        metadata = self.metadata
        given = image.numpy() if metadata.input_type == "uint8" else image.numpy().astype(np.float32)
        if not metadata.normalized:
            mean, std = (np.array(x, np.float32)[:, None, None] for x in (metadata.pixel_mean, metadata.pixel_std))
            given = (given - mean) / std
        wanted = self.exported.shape
        if any(length not in (None, own) for length, own in zip(wanted, given.shape, strict=True)):
            raise UserError(
                f"{self.exported.path}: takes batches of {spelled(wanted)}, this picture is one of "
                f"{spelled(given.shape)} after resizing; export it with --dynamic and --batch 1"
            )
        return self.exported(given)
