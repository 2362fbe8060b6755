"""Exported Semantic FPN logits give the predictions of the model at any image size."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semask_d2.export.graph import SegmentationGraph
from semask_d2.export.running import ExportedModel
from semask_d2.export.segmenter import ExportedSegmenter
from tests.helpers.tiny_model import make_inputs, randomize
from tests.modeling.meta_arch.test_semantic_fpn import OUTPUT_SIZES, build


class InThisProcess(ExportedModel):
    """Graph of a model instead of a file."""

    def __init__(self, graph: SegmentationGraph):
        self.graph = graph
        self.metadata = SimpleNamespace(
            outputs=[graph.outputs],
            scores_are_probabilities=False,
            input_type="uint8",
            normalized=True,
            size_divisibility=0,
        )

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [self.graph(torch.from_numpy(image)).numpy()]


@pytest.mark.parametrize("outputs", ["logits", "scores"])
def test_semantic_fpn_is_resized_twice_as_in_the_model(outputs: str) -> None:
    model = randomize(build()).eval()
    exported = ExportedSegmenter(InThisProcess(SegmentationGraph(model, outputs)))
    (inputs,) = make_inputs((61, 33), labels=False)
    for height, width in OUTPUT_SIZES:
        given = [{**inputs, "height": height, "width": width}]
        with torch.no_grad():
            (expected,), (actual,) = (x.predict(given, scores=True) for x in (model, exported))
        torch.testing.assert_close(actual.scores, expected.scores, atol=1e-4, rtol=1e-4)


def test_a_graph_that_resizes_resizes_logits_twice() -> None:
    model = randomize(build()).eval()
    image = torch.randint(0, 256, (1, 3, 50, 70), dtype=torch.uint8)
    with torch.no_grad():
        actual = SegmentationGraph(model, "scores", size_rule=(64, 80))(image)
        logits = SegmentationGraph(model, "logits", size_rule=(64, 80))(image)
        for size in ((57, 80), (50, 70)):
            logits = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(actual, logits)
