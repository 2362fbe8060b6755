"""Samples of maps and of label maps at points, against grid_sample of explicit binary masks."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semask_d2.modeling.layers.points import class_shares, sample_class_masks, sample_points

sides = st.integers(1, 7)
# outside, on borders and corners, on pixel centers and edges, and anywhere
coordinates = st.one_of(
    st.sampled_from([-3.0, -0.5, -1e-7, 0.0, 0.25, 0.5, 1.0, 1 + 1e-7, 1.5, 40.0]),
    st.floats(-0.3, 1.3, allow_nan=False),
)


def masked_samples(labels: Tensor, points: Tensor, classes: Tensor) -> Tensor:
    """Sample explicit masks (M, H, W) at points (M, P, 2), in float64."""
    masks = (labels[None] == classes[:, None, None]).double()
    grid = (2 * points - 1).double()[:, None]
    return F.grid_sample(masks[:, None], grid, padding_mode="zeros", align_corners=False)[:, 0, 0]


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    height=sides,
    width=sides,
    points=st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=12),
    seed=st.integers(0, 9),
)
def test_class_masks_equal_grid_samples_of_explicit_masks(height: int, width: int, points: list, seed: int) -> None:
    labels = torch.randint(0, 4, (height, width), generator=torch.Generator().manual_seed(seed))
    labels[labels == 3] = 255
    classes = torch.tensor([2, 0, 1])
    points = torch.tensor(points, dtype=torch.float64)
    shared = sample_class_masks(labels, points, classes)
    expected = masked_samples(labels, points.expand(3, -1, -1), classes)
    torch.testing.assert_close(shared, expected, atol=1e-9, rtol=0)
    mask_points = torch.stack([points, points.flip(1), 1 - points])
    for implementation in (sample_class_masks, class_shares):
        expected = masked_samples(labels, mask_points, classes)
        torch.testing.assert_close(implementation(labels, mask_points, classes), expected, atol=1e-9, rtol=0)
        two_layers = implementation(labels, torch.stack([mask_points, mask_points.flip(1)]), classes)
        torch.testing.assert_close(two_layers, torch.stack([expected, expected.flip(1)]), atol=1e-9, rtol=0)


def test_class_masks_without_classes() -> None:
    assert sample_class_masks(torch.zeros(3, 3), torch.rand(5, 2), torch.empty(0, dtype=torch.int64)).shape == (0, 5)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(height=sides, width=sides, x=coordinates, y=coordinates)
def test_each_pixel_counts_by_its_distance(height: int, width: int, x: float, y: float) -> None:
    every_pixel = torch.arange(height * width)  # each pixel is a separate class
    point = torch.tensor([[x, y]], dtype=torch.float64)
    got = sample_class_masks(every_pixel.view(height, width), point, every_pixel)[:, 0]
    column, row = x * width - 0.5, y * height - 0.5
    expected = torch.zeros(height * width, dtype=torch.float64)
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                expected[i * width + j] += (1 - abs(row - i)) * (1 - abs(column - j))
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=0)


def test_sample_points_reads_pixels_at_their_centers() -> None:
    maps = torch.randn(2, 3, 4, 5)
    x, y = (torch.arange(5) + 0.5) / 5, (torch.arange(4) + 0.5) / 4
    y, x = torch.meshgrid(y, x, indexing="ij")
    points = torch.stack([x, y], -1).flatten(0, 1).expand(2, -1, -1)
    torch.testing.assert_close(sample_points(maps, points), maps.flatten(2))
    corner = sample_points(maps, torch.zeros(2, 1, 2))[..., 0]
    torch.testing.assert_close(corner, maps[:, :, 0, 0] / 4)  # three of the four pixels are outside


def test_sample_points_gradients() -> None:
    maps = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    points = torch.rand(1, 5, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: sample_points(m, points), (maps,))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_label_types(dtype: torch.dtype) -> None:
    labels = torch.tensor([[0, 255]], dtype=dtype)
    samples = sample_class_masks(labels, torch.tensor([[0.25, 0.5], [0.5, 0.5], [0.75, 0.5]]), torch.tensor([0]))
    torch.testing.assert_close(samples, torch.tensor([[1.0, 0.5, 0.0]]))
