"""Weights and images of the parity cases, in which every tensor is a function of its published name and shape."""

from __future__ import annotations

import zlib

import numpy as np


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 array of the parameter or float buffer `name` in every parity case."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return 1 + 0.1 * np.abs(noise)
    if len(shape) >= 2:
        return noise / np.sqrt(np.prod(shape[1:])).astype(np.float32)  # 1 / sqrt(fan in)
    if name.endswith(".weight"):  # a norm's gain
        return 1 + 0.1 * noise
    if name.endswith("gamma"):
        return 0.5 + 0.1 * noise
    return 0.1 * noise


def image(name: str, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Return the float32 image batch (B, 3, H, W) of the case `name`: smooth, with values in 0..255."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    b, c, h, w = shape
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    out = np.zeros(shape, np.float32)
    for i in range(b):
        for j in range(c):
            for _ in range(4):
                fy, fx, phase = rng.uniform(0.02, 0.4), rng.uniform(0.02, 0.4), rng.uniform(0, 6.28)
                out[i, j] += np.sin(fy * y + fx * x + phase)
    out = (out - out.min()) / (out.max() - out.min())
    return np.round(out * 255)
