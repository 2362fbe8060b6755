"""Verification of an export: run the file and compare its results with those of the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from semask_d2.data.augmentation import resized_tensor
from semask_d2.data.picture import Picture
from semask_d2.export.graph import SegmentationGraph, mask_scores
from semask_d2.export.running import ExportedModel
from semask_d2.export.writing import GraphSettings

SIZES = ((64, 96), (96, 64), (70, 106), (128, 128), (33, 97))
SHORT_EDGE = 80  # short edge that SIZES assume if images are resized; some are smaller, some larger


class Agreement(NamedTuple):
    """Agreement of a file with its model on one batch.

    `error` is the largest difference of scores, or of logits relative to the largest. For labels it is the largest
    amount by which the model's score of the chosen class lies below its highest score. `equal` is the fraction of equal
    labels, for logits at their size.
    """

    shape: tuple[int, ...]
    error: float
    equal: float

    def __str__(self) -> str:
        batch, _, height, width = self.shape
        return f"{batch} x {height} x {width}: maximal error {self.error:.2g}, equal labels {100 * self.equal:.4f} %"


class Limits(NamedTuple):
    """Largest error of a batch, and smallest share of equal labels, with which a file is kept."""

    error: float
    equal: float
    of_all: bool = False  # the share is that of all batches, not of each

    def refusal(self, agreements: Sequence[Agreement]) -> str:
        """Return the disagreement that is too large, with the limit; empty if the file agrees."""
        if self.of_all:
            pixels = [math.prod(agreement.shape) for agreement in agreements]
            equal = sum(x.equal * n for x, n in zip(agreements, pixels, strict=True)) / sum(pixels)
            too_few = equal < self.equal
            return f"equal labels {100 * equal:.2f} %; at least {100 * self.equal:g} % is required" if too_few else ""
        for agreement in agreements:
            # scores of two classes that differ by less than the error may swap; a NaN is no error within the limit
            if not (agreement.error <= self.error and agreement.equal >= self.equal):
                return f"{agreement}; up to {self.error:g} is allowed"
        return ""


# by the precision of the file; errors are of scores, or of logits relative to the largest. Eight bits move scores near
# the edges of segments by any amount, and what matters is how many labels change.
LIMITS = {"fp32": Limits(1e-3, 0.999), "fp16": Limits(5e-2, 0.95), "int8": Limits(math.inf, 0.98, of_all=True)}


def random_images(settings: GraphSettings, size_rule: tuple[int, int] | None, channels: int) -> Iterable[np.ndarray]:
    """Yield batches (B, C, H, W) uint8 of random images: of the size of the graph, or of several sizes."""
    generator = np.random.default_rng(0)
    sizes = SIZES if settings.size is None else (settings.size,)
    if settings.size is None and size_rule is not None and size_rule[0] > 0:
        sizes = [(height * size_rule[0] // SHORT_EDGE, width * size_rule[0] // SHORT_EDGE) for height, width in SIZES]
    for number, (height, width) in enumerate(sizes):
        batch = 1 + number % 2 if settings.batch is None else settings.batch
        coarse = generator.integers(0, 256, (batch, channels, -(-height // 8), -(-width // 8)), np.uint8)
        smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse).float(), (height, width), mode="bilinear")
        yield smooth.round().to(torch.uint8).numpy()


def graph_input(graph: SegmentationGraph, image: np.ndarray, input_type: str) -> np.ndarray:
    """Return the input of a graph for `image` (B, C, H, W) uint8."""
    if graph.normalize:
        return image if input_type == "uint8" else image.astype(np.float32)
    normalizer = graph.model.normalizer
    return (image.astype(np.float32) - normalizer.mean.numpy()) / normalizer.std.numpy()


def labels_of_logits(logits: Tensor, mask_logits: Tensor | None = None) -> Tensor:
    """Return labels (B, h, w) from the logits of a graph: those of pixels, or of classes and masks."""
    return (logits if mask_logits is None else mask_scores(logits, mask_logits)).argmax(1)


@torch.no_grad()
def agreement_on(exported: ExportedModel, graph: SegmentationGraph, image: np.ndarray, input_type: str) -> Agreement:
    """Compare both on `image` (B, C, H, W) uint8: labels and scores with the model, logits with the graph."""
    given = graph_input(graph, image, input_type)
    results = [torch.from_numpy(x) for x in exported(given)]
    if graph.outputs == "logits":
        outputs = graph(torch.from_numpy(given))
        expected = outputs if isinstance(outputs, tuple) else (outputs,)
        error = max(relative(x, y) for x, y in zip(results, expected, strict=True))
        return Agreement(image.shape, error, share_of_equals(labels_of_logits(*results), labels_of_logits(*expected)))
    scores = model_scores(graph, image)
    if graph.outputs == "scores":
        error = (
            relative(results[0], scores)
            if not graph.model.scores_are_probabilities
            else largest_magnitude(results[0] - scores)
        )
        return Agreement(image.shape, error, share_of_equals(results[0].argmax(1), scores.argmax(1)))
    chosen = scores.gather(1, results[0].long()[:, None])[:, 0]
    error = (scores.amax(1) - chosen).max().item()
    if not graph.model.scores_are_probabilities:
        error /= max(1.0, scores.abs().max().item())
    return Agreement(image.shape, error, share_of_equals(results[0], scores.argmax(1)))


def model_scores(graph: SegmentationGraph, image: np.ndarray) -> Tensor:
    """Return the model's scores (B, K, H, W) of images (B, C, H, W), resized as `Predictor` does."""
    inputs: list[dict] = [{"image": torch.from_numpy(x)} for x in image]
    if graph.size_rule is not None:
        height, width = image.shape[2:]
        pictures = [Picture.of_pixels(x) for x in np.ascontiguousarray(image.transpose(0, 2, 3, 1))]
        resized = [resized_tensor(x, *graph.size_rule, "RGB") for x in pictures]  # keep the channel order
        inputs = [{"image": x, "height": height, "width": width} for x in resized]
    predictions = graph.model.predict(inputs, scores=True)
    return torch.stack([cast(Tensor, prediction.scores) for prediction in predictions])


def relative(result: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected magnitude if that is above 1."""
    return largest_magnitude(result - expected) / max(1.0, expected.abs().max().item())


def largest_magnitude(difference: Tensor) -> float:
    """Return the largest magnitude."""
    return difference.abs().max().item()


def share_of_equals(result: Tensor, expected: Tensor) -> float:
    """Return the fraction of equal elements."""
    return (result == expected).double().mean().item()


def prove(
    exported: ExportedModel,
    graph: SegmentationGraph,
    settings: GraphSettings,
    images: Sequence[np.ndarray] = (),
) -> list[Agreement]:
    """Compare on `images`, batches (B, C, H, W) uint8, or on random images without any."""
    batches = images or random_images(settings, graph.size_rule, graph.model.channels)
    return [agreement_on(exported, graph, batch, settings.input_type) for batch in batches]
