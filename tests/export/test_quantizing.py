"""Quantization of small ONNX graphs against the formula: products of rounded weights and rounded activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semask_d2.export.quantizing import integer_constants, quantize
from semask_d2.export.running import UnusableExport

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
PATH = Path("model.onnx")


def model_of(nodes: list[Any], constants: dict[str, np.ndarray], shape: list[int]) -> Any:
    """Return a model from `image` of `shape` to `out`."""
    tensors = [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()]
    ends = (
        [helper.make_tensor_value_info("image", FLOAT, shape)],
        [helper.make_tensor_value_info("out", FLOAT, ["n"] * len(shape))],
    )
    graph = helper.make_graph(nodes, "graph", *ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(kind: str, inputs: str, output: str, name: str = "", **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], name=name or f"/{output}/{kind}", **attributes)


def run(model: Any, image: np.ndarray, *, optimized: bool = False) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["out"], {"image": image})[0]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rounded(x: np.ndarray) -> np.ndarray:
    """Return an activation rounded to 256 values from its smallest to its largest, of which one is 0."""
    low, high = min(x.min(), 0), max(x.max(), 0)
    step = (high - low) / 255
    zero = round(-low / step)
    return ((np.round(x / step) + zero).clip(0, 255) - zero) * step


def rounded_weight(x: np.ndarray, axis: int) -> np.ndarray:
    """Return a weight rounded to 129 values in each output channel."""
    channels = np.moveaxis(x.copy(), axis, 0)
    for channel in channels:
        step = np.abs(channel).max() / 64
        channel[:] = np.round(channel / step) * step
    return np.moveaxis(channels, 0, axis)


def kinds(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_a_product_of_matrices_equals_the_formula() -> None:
    image, weight = normal(2, 6, 10), normal(10, 7, seed=1)
    model = model_of([node("MatMul", "image w", "y"), node("Identity", "y", "out")], {"w": weight}, [2, 6, 10])
    assert quantize(model, [image], PATH, results=True) == 1
    onnx.checker.check_model(model)
    expected = rounded(image) @ rounded_weight(weight, 1)
    np.testing.assert_allclose(run(model, image), expected, atol=1e-5)
    np.testing.assert_allclose(run(model, image, optimized=True), expected, atol=1e-4)
    assert np.abs(expected - image @ weight).max() > 1e-3  # rounding is visible
    assert [
        tensor.name for tensor in model.graph.initializer if tensor.data_type == FLOAT and len(tensor.dims) > 1
    ] == []


def test_two_products_fit_into_16_bits() -> None:
    """Processors without VNNI add the products of two neighbors in 16 bits, and keep the largest value of those."""
    image, weight = np.ones((6, 10), np.float32), normal(10, 7, seed=1)
    model = model_of([node("MatMul", "image w", "y"), node("Identity", "y", "out")], {"w": weight}, [6, 10])
    assert quantize(model, [image], PATH, results=True) == 1
    tensors = [x for x in model.graph.initializer if x.data_type == onnx.TensorProto.INT8]
    integers = next(onnx.numpy_helper.to_array(x) for x in tensors if len(x.dims) == 2)
    assert np.abs(integers.astype(int)).max(0).tolist() == [64] * 7
    assert 2 * 255 * 64 < 2**15


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_product_with_a_bias_equals_the_formula(transposed: int) -> None:
    image, weight, bias = normal(6, 10), normal(10, 7, seed=1), normal(7, seed=2)
    constants = {"w": weight.T.copy() if transposed else weight, "b": bias}
    nodes = [node("Gemm", "image w b", "y", transB=transposed), node("Identity", "y", "out")]
    model = model_of(nodes, constants, [6, 10])
    assert quantize(model, [image], PATH, results=True) == 1
    product = rounded(image) @ rounded_weight(weight, 1)
    step = np.ptp(image) / 255 * np.abs(weight).max() / 64  # of the bias, which is rounded too
    for optimized in (False, True):
        np.testing.assert_allclose(run(model, image, optimized=optimized), product + bias, atol=step)


@pytest.mark.parametrize("groups", [1, 4])
def test_convolutions_equal_the_formula(groups: int) -> None:
    image, first, bias, second = (
        normal(1, 4, 9, 8),
        normal(8, 4 // groups, 3, 3, seed=1),
        normal(8, seed=2),
        normal(8, 3),
    )
    nodes = [
        node("Conv", "image w1 b", "a", pads=[1, 1, 1, 1], group=groups),
        node("Relu", "a", "b1"),
        node("Transpose", "b1", "c", perm=[0, 2, 3, 1]),
        node("MatMul", "c w2", "d"),
        node("Softmax", "d", "out"),
    ]
    model = model_of(nodes, {"w1": first, "b": bias, "w2": second}, [1, 4, 9, 8])
    assert quantize(model, [image], PATH, results=True) == 2
    onnx.checker.check_model(model)
    given = torch.from_numpy(rounded(image)).float(), torch.from_numpy(rounded_weight(first, 0)), torch.from_numpy(bias)
    hidden = rounded(F.conv2d(*given, padding=1, groups=groups).relu().numpy()).transpose(0, 2, 3, 1)
    logits = torch.from_numpy(rounded(hidden) @ rounded_weight(second, 1))
    step = hidden.max() / 255 * np.abs(second).sum()  # a sum near the middle of two values may be rounded to either
    for optimized in (False, True):
        np.testing.assert_allclose(run(model, image, optimized=optimized), logits.softmax(-1), atol=step)
    assert kinds(model)[kinds(model).index("Conv") :][:3] == ["Conv", "Relu", "QuantizeLinear"]
    without = model_of([*nodes[:2], node("Identity", "b1", "out")], {"w1": first, "b": bias}, [1, 4, 9, 8])
    assert quantize(without, [image], PATH, results=False) == 1
    assert kinds(without).count("QuantizeLinear") == 1
    expected = F.conv2d(*given, padding=1, groups=groups).relu().numpy()
    np.testing.assert_allclose(run(without, image), expected, atol=1e-3)


def test_what_stays_in_floating_point() -> None:
    image, weight = normal(1, 8, 8), normal(8, 8, seed=1)
    nodes = [
        node("MatMul", "image w", "a", "/head/sampling_offsets/MatMul"),
        node("MatMul", "a image", "b"),  # of two activations
        node("MatMul", "b w", "c", "/head/class_embed/MatMul"),
        node("Softmax", "c", "out"),
    ]
    model = model_of(nodes, {"w": weight}, [1, 8, 8])
    assert quantize(model, [image], PATH, results=True) == 0
    assert kinds(model) == ["MatMul", "MatMul", "MatMul", "Softmax"]
    conv = model_of([node("Conv", "image w", "out")], {"w": normal(5, 8, 1)}, [1, 8, 8])
    assert quantize(conv, [image], PATH, results=True) == 0  # the last product
    assert kinds(conv) == ["Conv"]


def test_shared_constants_and_several_readers() -> None:
    image, weight = normal(1, 4, 5, 5), normal(4, 4, 1, 1, seed=1)
    nodes = [
        node("Identity", "w", "same"),
        node("Conv", "image w", "a"),
        node("Conv", "a same", "b"),
        node("Relu", "b", "c"),
        node("Add", "a b", "d"),  # reads two quantized results
        node("Add", "c d", "out"),
    ]
    model = model_of(nodes, {"w": weight}, [1, 4, 5, 5])
    assert quantize(model, [image], PATH, results=True) == 2
    onnx.checker.check_model(model)
    product = torch.from_numpy(rounded_weight(weight, 0))
    a = rounded(F.conv2d(torch.from_numpy(rounded(image)).float(), product).numpy())
    b = rounded(F.conv2d(torch.from_numpy(a).float(), product).numpy())
    step = max(np.ptp(a), np.ptp(b)) / 255
    np.testing.assert_allclose(run(model, image), a + b + b.clip(0), atol=3 * step)
    assert "Identity" not in kinds(model)


def test_ranges_are_those_of_all_images() -> None:
    images = [0.5 * normal(1, 4, 4), 3 * normal(1, 4, 4, seed=1), normal(1, 4, 4, seed=2)]
    nodes = [node("MatMul", "image w", "y"), node("Identity", "y", "out")]
    model = model_of(nodes, {"w": np.eye(4, dtype=np.float32)}, [1, 4, 4])
    quantize(model, images, PATH, results=True)
    step = (max(x.max() for x in images) - min(x.min() for x in images)) / 255
    for image in images:
        np.testing.assert_allclose(run(model, image), image, atol=0.51 * step)
    assert run(model, 100 * images[0]).max() <= max(x.max() for x in images) + step


def test_zeros_and_a_large_bias_give_finite_values() -> None:
    weight, bias = np.zeros((8, 3), np.float32), np.array([0, 1e6, -1e-9], np.float32)
    weight[:, 2] = 1e-30
    (product, added) = integer_constants(node("Gemm", "x w b", "y"), np.float32(1e-6), weight, bias)
    assert product.integers.dtype == np.int8
    assert added.integers.dtype == np.int32
    np.testing.assert_allclose(added.integers * added.step, bias, rtol=1e-6, atol=1e-12)
    image = np.zeros((1, 4, 8), np.float32)
    model = model_of([node("MatMul", "image w", "y"), node("Identity", "y", "out")], {"w": weight}, [1, 4, 8])
    quantize(model, [image], PATH, results=True)
    assert np.array_equal(run(model, image), np.zeros((1, 4, 3)))


def test_a_model_that_cannot_run_is_named() -> None:
    model = model_of([node("MatMul", "image w", "y"), node("Identity", "y", "out")], {"w": normal(8, 8)}, [1, 8, 8])
    with pytest.raises(UnusableExport, match=r"^model\.onnx: cannot be run \(.*; export it again"):
        quantize(model, [normal(1, 8, 7)], PATH, results=True)
