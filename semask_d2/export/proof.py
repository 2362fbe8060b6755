"""Verification of an export: run the file and compare its results with those of the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from semask_d2.data.augmentation import resized_tensor
from semask_d2.data.picture import Picture
from semask_d2.export.graph import SegmentationGraph
from semask_d2.export.running import ExportedModel
from semask_d2.export.writing import GraphSettings

TOLERANCE, HALF_TOLERANCE = 1e-3, 5e-2  # of scores, or of logits relative to the largest
EQUAL = 0.999  # of the labels; scores of two classes that differ by less than the tolerance may swap
SIZES = ((64, 96), (96, 64), (70, 106), (128, 128), (33, 97))
SHORT_EDGE = 80  # short edge that SIZES assume if images are resized; some are smaller, some larger


class Agreement(NamedTuple):
    """Agreement of a file with its model on one batch.

    `error` is the largest difference of scores, or of logits relative to the largest. For labels it is the largest
    amount by which the model's score of the chosen class lies below its highest score. `equal` is the fraction of equal
    labels, None for logits.
    """

    shape: tuple[int, ...]
    error: float
    equal: float | None

    def within(self, tolerance: float) -> bool:
        """Return whether the file agrees closely enough to be used."""
        labels_agree = self.equal is None or self.equal >= (EQUAL if tolerance == TOLERANCE else 1 - tolerance)
        return labels_agree and self.error <= tolerance  # False if the error is NaN

    def __str__(self) -> str:
        batch, _, height, width = self.shape
        labels = "" if self.equal is None else f", equal labels {100 * self.equal:.4f} %"
        return f"{batch} x {height} x {width}: maximal error {self.error:.2g}{labels}"


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


@torch.no_grad()
def agreement_on(exported: ExportedModel, graph: SegmentationGraph, image: np.ndarray, input_type: str) -> Agreement:
    """Compare both on `image` (B, C, H, W) uint8: labels and scores with the model, logits with the graph."""
    given = image if graph.normalize and input_type == "uint8" else image.astype(np.float32)
    if not graph.normalize:
        normalizer = graph.model.normalizer
        given = (given - normalizer.mean.numpy()) / normalizer.std.numpy()
    results = [torch.from_numpy(x) for x in exported(given)]
    if graph.outputs == "logits":
        expected = graph(torch.from_numpy(given))
        pairs = zip(results, expected if isinstance(expected, tuple) else (expected,), strict=True)
        return Agreement(image.shape, max(relative(x, y) for x, y in pairs), None)
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
