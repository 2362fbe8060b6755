"""Partition of maps into windows, and its inverse."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semask_d2.modeling.layers.window_partition import pad_to_multiple, window_merge, window_partition

sizes = st.integers(1, 13)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(batch=st.integers(1, 3), height=sizes, width=sizes, window=st.integers(1, 6), channels=st.integers(1, 3))
def test_merge_undoes_partition(batch: int, height: int, width: int, window: int, channels: int) -> None:
    x = torch.arange(batch * height * width * channels).view(batch, height, width, channels) + 1
    padded = pad_to_multiple(x, window)
    h, w = padded.shape[1:3]
    assert h % window == w % window == 0
    assert 0 <= h - height < window
    assert 0 <= w - width < window
    assert torch.equal(padded[:, :height, :width], x)
    assert padded.count_nonzero() == x.count_nonzero()  # only zeros were added
    assert torch.equal(window_merge(window_partition(padded, window), window, h, w), padded)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(rows=st.integers(1, 3), columns=st.integers(1, 3), window=st.integers(1, 4))
def test_windows_are_squares_of_the_map_row_by_row(rows: int, columns: int, window: int) -> None:
    x = torch.randn(2, rows * window, columns * window, 3)
    windows = window_partition(x, window)
    assert windows.shape == (2 * rows * columns, window * window, 3)
    for b in range(2):
        for i in range(rows):
            for j in range(columns):
                square = x[b, i * window : (i + 1) * window, j * window : (j + 1) * window]
                assert torch.equal(windows[(b * rows + i) * columns + j], square.reshape(-1, 3))
