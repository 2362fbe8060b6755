"""Small exported files, created without a model: the class of a pixel is its brightest channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from semask_d2.export.checksum import seal
from semask_d2.export.metadata import KEY, ExportMetadata
from semask_d2.utils.classes import Classes

METADATA = ExportMetadata(
    version="1",
    architecture="SeMaskMaskFormer",
    classes=Classes(("sky", "sea", "sand"), ((0, 0, 1), (2, 3, 4), (5, 6, 7))),
    min_size=16,
    max_size=128,
    channel_order="RGB",
    size_divisibility=32,
    normalized=True,
    pixel_mean=[1.0, 2.0, 3.0],
    pixel_std=[1.0, 1.0, 1.0],
    outputs=["labels"],
    scores_are_probabilities=True,
    resize_masks_first=False,
    input_type="uint8",
)


def brightest_channel(
    *,
    inputs: tuple[str, ...] = ("image",),
    input_type: str = "UINT8",
    input_shape: Any = (1, 3, "h", "w"),
    output: str = "labels",
    output_type: str = "INT64",
    output_shape: Any = (1, "h", "w"),
    offset: int = 0,
) -> Any:
    """Return an ONNX model with the inputs of an exported file that outputs labels."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    helper, kinds = onnx.helper, onnx.TensorProto
    ends = [helper.make_tensor_value_info(name, getattr(kinds, input_type), input_shape) for name in inputs]
    result = helper.make_tensor_value_info(output, getattr(kinds, output_type), output_shape)
    nodes = [
        helper.make_node("Cast", [inputs[0]], ["float"], to=kinds.FLOAT),
        helper.make_node("ArgMax", ["float"], ["brightest"], axis=1, keepdims=0),
        helper.make_node("Add", ["brightest", "offset"], ["class"]),
        helper.make_node("Cast", ["class"], [output], to=getattr(kinds, output_type)),
    ]
    constant = helper.make_tensor("offset", kinds.INT64, [], [offset])
    graph = helper.make_graph(nodes, "brightest", ends, [result], [constant])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def save_exported(path: Path, model: Any, text: str | None = None, *, sealed: bool = True) -> Path:
    """Write `model` with metadata, by default METADATA; `text` replaces it, without a checksum."""
    import onnx

    onnx.helper.set_model_props(model, {KEY: METADATA.as_text() if text is None else text})
    onnx.save(model, path)
    if sealed and text is None:
        seal([path])
    return path
