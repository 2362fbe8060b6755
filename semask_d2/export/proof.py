"""The proof of an export: the file is run, and what it says is compared with what the model says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semask_d2.data.augmentation import resized_tensor
from semask_d2.export.graph import SegmentationGraph
from semask_d2.export.running import ExportedModel
from semask_d2.export.writing import GraphSettings

TOLERANCE, HALF_TOLERANCE = 1e-3, 5e-2  # of a score, or of a logit in units of the largest
EQUAL = 0.999  # of the labels; others may be where two classes' scores differ by less than the tolerance
SIZES = ((64, 96), (96, 64), (70, 106), (128, 128), (33, 97))
SHORT_EDGE = 80  # that those sizes are for where pictures are resized: some are smaller and some larger


class Agreement(NamedTuple):
    """How a file agrees with its model on one batch.

    `error` is the largest difference of a score, or of a logit in units of the largest; of labels, by how much the
    model's own score of a chosen class lies below its highest. `equal` is the share of equal labels, None of logits.
    """

    shape: tuple[int, ...]
    error: float
    equal: float | None

    def within(self, tolerance: float) -> bool:
        """Whether the file may be used."""
        few = self.equal is None or self.equal >= (EQUAL if tolerance == TOLERANCE else 1 - tolerance)
        return few and self.error <= tolerance  # and so False where the error is no number

    def __str__(self) -> str:
        batch, _, height, width = self.shape
        labels = "" if self.equal is None else f", equal labels {100 * self.equal:.4f} %"
        return f"{batch} x {height} x {width}: maximal error {self.error:.2g}{labels}"


def random_pictures(settings: GraphSettings, size_rule: tuple[int, int] | None) -> Iterable[np.ndarray]:
    """Batches (B, 3, H, W) uint8 of random pictures: of the graph's size, or of several."""
    generator = np.random.default_rng(0)
    sizes = SIZES if settings.size is None else (settings.size,)
    if settings.size is None and size_rule is not None and size_rule[0] > 0:
        sizes = [(height * size_rule[0] // SHORT_EDGE, width * size_rule[0] // SHORT_EDGE) for height, width in SIZES]
    for number, (height, width) in enumerate(sizes):
        batch = 1 + number % 2 if settings.batch is None else settings.batch
        coarse = generator.integers(0, 256, (batch, 3, -(-height // 8), -(-width // 8)), np.uint8)
        smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse).float(), (height, width), mode="bilinear")
        yield smooth.round().to(torch.uint8).numpy()


@torch.no_grad()
def agreement_on(exported: ExportedModel, graph: SegmentationGraph, image: np.ndarray, input_type: str) -> Agreement:
    """Run both on `image` (B, 3, H, W) uint8: labels and scores beside the model's own, logits beside the graph's."""
    given = image if graph.normalize and input_type == "uint8" else image.astype(np.float32)
    if not graph.normalize:
        normalizer = graph.model.normalizer
        given = (given - normalizer.mean.numpy()) / normalizer.std.numpy()
    found = [torch.from_numpy(x) for x in exported(given)]
    if graph.outputs == "logits":
        expected = graph(torch.from_numpy(given))
        pairs = zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True)
        return Agreement(image.shape, max(relative(x, y) for x, y in pairs), None)
    scores = model_scores(graph, image)
    if graph.outputs == "scores":
        error = (
            relative(found[0], scores)
            if not graph.model.scores_are_probabilities
            else largest_magnitude(found[0] - scores)
        )
        return Agreement(image.shape, error, share_of_equals(found[0].argmax(1), scores.argmax(1)))
    chosen = scores.gather(1, found[0].long()[:, None])[:, 0]
    error = (scores.amax(1) - chosen).max().item()
    if not graph.model.scores_are_probabilities:
        error /= max(1.0, scores.abs().max().item())
    return Agreement(image.shape, error, share_of_equals(found[0], scores.argmax(1)))


def model_scores(graph: SegmentationGraph, image: np.ndarray) -> Tensor:
    """The scores (B, K, H, W) of pictures (B, 3, H, W) by the model itself, resized as `Predictor` does it."""
    inputs: list[dict] = [{"image": torch.from_numpy(x)} for x in image]
    if graph.size_rule is not None:
        height, width = image.shape[2:]
        pictures = [Image.fromarray(x) for x in np.ascontiguousarray(image.transpose(0, 2, 3, 1))]
        resized = [resized_tensor(picture, *graph.size_rule, "RGB") for picture in pictures]  # its channels stay
        inputs = [{"image": x, "height": height, "width": width} for x in resized]
    results = graph.model.predict(inputs, scores=True)
    return torch.stack([cast(Tensor, result.scores) for result in results])


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference, in units of the largest of what is expected where that is above 1."""
    return largest_magnitude(found - expected) / max(1.0, expected.abs().max().item())


def largest_magnitude(difference: Tensor) -> float:
    """The largest magnitude."""
    return difference.abs().max().item()


def share_of_equals(found: Tensor, expected: Tensor) -> float:
    """The share of equal elements."""
    return (found == expected).double().mean().item()


def prove(
    exported: ExportedModel,
    graph: SegmentationGraph,
    settings: GraphSettings,
    pictures: Sequence[np.ndarray] = (),
) -> list[Agreement]:
    """Compare on `pictures`, batches (B, 3, H, W) uint8, or on random ones where there are none."""
    batches = pictures or random_pictures(settings, graph.size_rule)
    return [agreement_on(exported, graph, batch, settings.input_type) for batch in batches]
