"""Static quantization of an ONNX graph: its products with constant weights compute in 8-bit integers.

QuantizeLinear and DequantizeLinear around the inputs of a product ("QDQ") are standard operators. Runtimes with 8-bit
kernels fuse them with the product; others compute the same values in fp32. Weights are symmetric int8 with a scale for
each output channel, and use 7 bits. Activations are uint8 with one range for each tensor, measured on calibration
images. Softmax, normalization, sampling, products of two activations and the products of FLOAT_MODULES stay fp32.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from semask_d2.export.interface import INPUT
from semask_d2.export.running import library_errors

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

    Weights = dict[str, Any]  # TensorProto by name
    Ranges = dict[str, tuple[float, float]]

PRODUCTS = ("MatMul", "Gemm", "Conv")
CLIPPING = ("Relu", "Clip")  # runtimes fold them into the quantization that follows
# positions and weights of samples, and the products that decide the scores; their share of the time is small
FLOAT_MODULES = (
    "sampling_offsets",
    "attention_weights",
    "conv_offset_mask",
    "class_embed",
    "mask_embed",
    "conv_seg",
)
LEVELS = 255  # steps of uint8
# of int8: processors without VNNI add two products of uint8 and int8 in 16 bits, which have room for twice 255 * 64
MAX_WEIGHT = 64
MAX_BIAS = 2.0**30  # leaves room in int32 for the sum of the products
LEAST_STEP = 1e-12  # of a tensor that is zero


class Product(NamedTuple):
    """Node to quantize, and the activation to quantize after it, if any."""

    node: NodeProto
    result: str | None


class Constant(NamedTuple):
    """Integers that stand for fp32 values: `integers` times `step`, for each index of `axis`."""

    integers: np.ndarray
    step: np.ndarray
    axis: int


def quantize(model: ModelProto, batches: Iterable[np.ndarray], path: Path, *, results: bool) -> int:
    """Quantize a model in place, with ranges measured on `batches` of its input; return the number of products.

    With `results`, the results of convolutions are quantized too, as onnxruntime needs: it has no convolution from
    integers to fp32. OpenVINO has one, and its 1 x 1 convolutions to integers are wrong for images of any size. Raises
    `UserError`, naming `path`, if onnxruntime cannot run the model.
    """
    from onnx import numpy_helper

    read_constants_directly(model.graph)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    products = quantized_products(model.graph, weights, results=results)
    if not products:
        return 0
    after = {product.result for product in products if product.result is not None}
    measured = sorted(after | {product.node.input[0] for product in products})
    with library_errors(path):
        ranges = tensor_ranges(model, measured, batches)
    writer = Writer(ranges)
    for node, _ in products:
        source, *names = node.input
        values = [numpy_helper.to_array(weights[name]) for name in names]
        constants = integer_constants(node, writer.step(source), *values)
        del node.input[:]
        dequantized = [writer.constant(f"{node.name}/{place}", x) for place, x in enumerate(constants, 1)]
        node.input.extend([dequantized_name(source), *dequantized])
    nodes = list(model.graph.node)
    for node in nodes:  # every reader of a quantized result; other readers of a product's input stay in fp32
        for place, name in enumerate(node.input):
            if name in after:
                node.input[place] = dequantized_name(name)
    del model.graph.node[:]
    model.graph.node.extend(writer.nodes)
    model.graph.node.extend(pair for port in model.graph.input for pair in writer.activation(port.name))
    for node in nodes:
        model.graph.node.append(node)
        model.graph.node.extend(pair for name in node.output for pair in writer.activation(name))
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in weights.values() if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *writer.tensors])
    return len(products)


def read_constants_directly(graph: GraphProto) -> None:
    """Remove the Identity nodes by which the exporter shares equal constants."""
    constants = {tensor.name for tensor in graph.initializer}
    copies = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    copies = {copy: name for copy, name in copies.items() if name in constants}
    nodes = [node for node in graph.node if node.output[0] not in copies]
    for node in nodes:
        for place, name in enumerate(node.input):
            node.input[place] = copies.get(name, name)
    del graph.node[:]
    graph.node.extend(nodes)


def quantized_products(graph: GraphProto, weights: Weights, *, results: bool) -> list[Product]:
    """Return the products with constant weights that are quantized, with `results` also after a convolution.

    Its result is quantized after Relu or Clip. A convolution with the graph's output stays fp32.
    """
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {output.name for output in graph.output}
    products = []
    for node in graph.node:
        if node.op_type not in PRODUCTS or any(name not in weights for name in node.input[1:]):
            continue
        if node.input[0] in weights or any(f"/{name}/" in node.name for name in FLOAT_MODULES):
            continue
        if node.output[0] in outputs:
            continue
        result = node.output[0] if results and node.op_type == "Conv" else None
        following = readers.get(node.output[0], [])
        if result and len(following) == 1 and following[0].op_type in CLIPPING:
            result = following[0].output[0]
        products.append(Product(node, None if result in outputs else result))
    return products


def integer_constants(node: NodeProto, step: np.float32, weight: np.ndarray, *bias: np.ndarray) -> list[Constant]:
    """Return the weight of a product as int8 and its bias, if any, as int32, given the step of its input."""
    transposed = any(x.name == "transB" and x.i for x in node.attribute)
    axis = 0 if node.op_type == "Conv" or transposed else weight.ndim - 1  # that of the output channels
    others = tuple(i for i in range(weight.ndim) if i != axis)
    steps = np.abs(weight).max(others) / MAX_WEIGHT
    for values in bias:
        steps = np.maximum(steps, np.abs(values) / (step * MAX_BIAS))
    steps = np.maximum(steps, LEAST_STEP).astype(np.float32)
    integers = np.round(weight / np.expand_dims(steps, others)).clip(-MAX_WEIGHT, MAX_WEIGHT).astype(np.int8)
    biases = [Constant(np.round(x / (steps * step)).astype(np.int32), steps * step, 0) for x in bias]
    return [Constant(integers, steps, axis), *biases]


def dequantized_name(name: str) -> str:
    """Return the name of an activation after its quantization."""
    return f"{name}_dequantized"


class Writer:
    """Writer of the tensors and nodes of a quantized graph, given the ranges of its activations."""

    def __init__(self, ranges: Ranges):
        self.ranges = ranges
        self.tensors: list[Any] = []
        self.nodes: list[Any] = []  # of constants

    def step(self, name: str) -> np.float32:
        """Return the step of an activation."""
        low, high = self.ranges[name]
        return np.float32(max((high - low) / LEVELS, LEAST_STEP))

    def activation(self, name: str) -> list[Any]:
        """Return the two nodes that quantize an activation; none if it is not to be quantized."""
        if name not in self.ranges:
            return []
        step = self.step(name)
        zero = np.round(-self.ranges[name][0] / step).clip(0, LEVELS).astype(np.uint8)
        scale = [self.tensor(f"{name}_scale", np.array(step)), self.tensor(f"{name}_zero_point", np.array(zero))]
        integers = f"{name}_quantized"
        return [
            made("QuantizeLinear", [name, *scale], integers),
            made("DequantizeLinear", [integers, *scale], dequantized_name(name)),
        ]

    def constant(self, name: str, constant: Constant) -> str:
        """Add a constant, and return the name of its fp32 values."""
        zeros = np.zeros(len(constant.step), constant.integers.dtype)
        parts = {"quantized": constant.integers, "scale": constant.step, "zero_point": zeros}
        names = [self.tensor(f"{name}_{part}", values) for part, values in parts.items()]
        self.nodes.append(made("DequantizeLinear", names, dequantized_name(name), axis=constant.axis))
        return dequantized_name(name)

    def tensor(self, name: str, values: np.ndarray) -> str:
        """Add a tensor and return its name."""
        from onnx import numpy_helper

        self.tensors.append(numpy_helper.from_array(values, name))
        return name


def made(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    """Return a node with one output, by which it is named."""
    from onnx import helper

    return helper.make_node(kind, inputs, [output], name=output, **attributes)


def tensor_ranges(model: ModelProto, names: Sequence[str], batches: Iterable[np.ndarray]) -> Ranges:
    """Return the range of each of the tensors `names` over `batches` of the model's input; it includes 0."""
    import onnx
    import onnxruntime

    measured = onnx.ModelProto()
    measured.CopyFrom(model)
    outputs = [f"{name}_{kind}" for name in names for kind in ("ReduceMin", "ReduceMax")]
    for output in outputs:
        name, _, kind = output.rpartition("_")
        measured.graph.node.append(made(kind, [name], output, keepdims=0))
        measured.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, []))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(measured.SerializeToString(), options, providers=["CPUExecutionProvider"])
    extremes = np.array([session.run(outputs, {INPUT: batch}) for batch in batches], np.float64)
    lows, highs = extremes[:, 0::2].min(0), extremes[:, 1::2].max(0)
    return {name: (min(low, 0.0), max(high, 0.0)) for name, low, high in zip(names, lows, highs, strict=True)}
