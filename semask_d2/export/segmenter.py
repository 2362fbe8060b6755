"""Exported file as a `Segmenter`, for predictions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, cast

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
    """Segmenter that runs an exported file on the CPU, with the predictions of the original model.

    Predictions for resized images are resized back to the original size: scores and logits as the model does it, labels
    to the nearest pixel.
    """

    prior_strides: ClassVar[dict[str, int]] = {}  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def __init__(self, exported: ExportedModel):
        super().__init__()
        self.exported = exported
        self.metadata = exported.metadata
        self.scores_are_probabilities = exported.metadata.scores_are_probabilities

    def lazy_predictions(
        self, batched_inputs: list[dict], *, priors: bool = False
    ) -> Iterator[tuple[ScoreMap, Priors | None]]:
        """Yield the scores of the file, which are computed at full size."""
        for result in self.predict(batched_inputs, scores=True, priors=priors):
            yield ScoreMap.from_scores(cast(Tensor, result.scores)), None

    def predict(
        self, batched_inputs: list[dict], *, scores: bool = False, priors: bool = False, segments: bool = False
    ) -> list[Segmentation]:
        """Predict one image at a time, without segments; `UserError` for scores of a file with labels only."""
        if priors:
            raise ValueError("an exported file has no semantic maps")
        if scores and self.metadata.outputs == ["labels"]:
            raise UserError(f"{self.exported.path}: outputs labels only; export it with --outputs scores or logits")
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
            whole = upsampled(upsampled(outputs["logits"], (height, width)), size)  # twice, as in `SeMaskFPN`
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
        """Run the graph on an image (1, C, H, W) uint8; `UserError` if the file is for another shape."""
        metadata = self.metadata
        inputs = image.numpy() if metadata.input_type == "uint8" else image.numpy().astype(np.float32)
        if not metadata.normalized:
            mean, std = (np.array(x, np.float32)[:, None, None] for x in (metadata.pixel_mean, metadata.pixel_std))
            inputs = (inputs - mean) / std
        expected_shape = self.exported.shape
        if any(expected not in (None, length) for expected, length in zip(expected_shape, inputs.shape, strict=True)):
            raise UserError(
                f"{self.exported.path}: accepts input of shape {spelled(expected_shape)}, got "
                f"{spelled(inputs.shape)} after resizing; export it with --dynamic and --batch 1"
            )
        return self.exported(inputs)
