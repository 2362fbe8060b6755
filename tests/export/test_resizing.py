"""Resizing in graphs against Pillow (rows first), with the same sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from semask_d2.data.augmentation import resized_shape, resized_tensor
from semask_d2.data.picture import Picture
from semask_d2.export.resizing import resize_images, target_size
from semask_d2.export.writing import quiet

SIDES = st.integers(1, 90)


def random_images(height: int, width: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def as_evaluated(batch: np.ndarray, short_edge: int, max_size: int) -> np.ndarray:
    return np.stack([resized_tensor(Picture.of_pixels(x), short_edge, max_size, "RGB") for x in batch])


def rows_first(image: np.ndarray, short_edge: int, max_size: int) -> np.ndarray:
    new_height, new_width = resized_shape(*image.shape[:2], short_edge, max_size)
    rows = Image.fromarray(image).resize((new_width, image.shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(rows.resize((new_width, new_height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


@given(SIDES, SIDES, st.integers(0, 70), st.integers(70, 100))
@settings(max_examples=100, deadline=None)
def test_it_is_pillows_resizing(height: int, width: int, short_edge: int, max_size: int) -> None:
    batch = random_images(height, width)
    actual = resize_images(torch.from_numpy(batch).permute(0, 3, 1, 2).float(), short_edge, max_size).numpy()
    np.testing.assert_array_equal(actual, np.stack([rows_first(x, short_edge, max_size) for x in batch]))
    # some versions of Pillow resize the columns of narrow images first
    assert np.abs(actual - as_evaluated(batch, short_edge, max_size)).max() <= 1


@pytest.mark.parametrize("size", [(1080, 1920), (720, 1280), (640, 480)])
def test_photos_are_resized_as_in_evaluation(size: tuple[int, int]) -> None:
    batch = random_images(*size, 1)
    actual = resize_images(torch.from_numpy(batch).permute(0, 3, 1, 2).float(), 180, 2560)  # six to one has many ties
    np.testing.assert_array_equal(actual.numpy(), as_evaluated(batch, 180, 2560))


def test_sizes_in_a_graph_follow_the_rule() -> None:
    sizes = np.random.default_rng(0).integers(1, 5000, (2000, 2)).tolist()
    ties = [[768, 1023], [3072, 4095], [480, 853], [1, 5000], [427, 640]]
    for height, width in [*sizes, *ties]:
        for rule in ((640, 2560), (512, 1024), (0, 100)):
            actual = target_size(torch.tensor(height), torch.tensor(width), *rule)
            assert tuple(map(int, actual)) == resized_shape(height, width, *rule)


class Resize(nn.Module):
    """Graph that only resizes."""

    def forward(self, image: Tensor) -> Tensor:
        """Resize images (B, 3, H, W) uint8."""
        return resize_images(image.float(), 64, 120)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resize") / "resize.onnx"
    example = torch.zeros(2, 3, 40, 50, dtype=torch.uint8)
    axes = {"image": {0: "batch", 2: "height", 3: "width"}}
    with quiet():
        torch.onnx.export(
            Resize(), (example,), path, dynamo=False, opset_version=17, input_names=["image"], dynamic_axes=axes
        )
    return path


@pytest.mark.parametrize("shape", [(40, 50), (64, 64), (100, 83), (96, 500), (768, 1023)])
def test_runtimes_agree(shape: tuple[int, int], file: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    batch = random_images(*shape)
    image, expected = np.ascontiguousarray(batch.transpose(0, 3, 1, 2)), as_evaluated(batch, 64, 120)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"image": image})[0], expected)
    precision = {"INFERENCE_PRECISION_HINT": "f32"}
    (actual,) = openvino.Core().compile_model(file, "CPU", precision)([image]).values()
    np.testing.assert_array_equal(actual, expected)
