"""The sine position encoding against its formula, cell by cell."""

from __future__ import annotations

import math

import pytest
import torch

from semask_d2.modeling.layers.position_encoding import sine_position_encoding


@pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 4), (3, 5, 16), (4, 2, 8)])
def test_equals_the_formula(height: int, width: int, channels: int) -> None:
    encoding = sine_position_encoding(height, width, channels, torch.device("cpu"))
    half = channels // 2
    expected = torch.empty(channels, height, width)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                position, size = (i, height) if c < half else (j, width)
                angle = (position + 1) / (size + 1e-6) * 2 * math.pi
                angle /= 10000 ** (2 * ((c % half) // 2) / half)
                expected[c, i, j] = math.sin(angle) if c % 2 == 0 else math.cos(angle)
    torch.testing.assert_close(encoding, expected, atol=1e-5, rtol=0)


def test_every_cell_of_a_map_differs() -> None:
    cells = sine_position_encoding(9, 11, 32, torch.device("cpu")).flatten(1).T
    distance = torch.cdist(cells, cells) + 10 * torch.eye(len(cells))
    assert distance.min() > 0.1
