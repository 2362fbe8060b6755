"""The model that comes with the package: small, plain data, of half precision, and ready to predict."""

from __future__ import annotations

import numpy as np
import torch
from safetensors import safe_open

import semask_d2
from semask_d2.inference.sources import PACKAGED_MODEL


def test_it_is_small_and_half_precision() -> None:
    assert {path.name for path in PACKAGED_MODEL.iterdir()} == {"config.yaml", "model.safetensors", "README.md"}
    assert sum(path.stat().st_size for path in PACKAGED_MODEL.iterdir()) < 10 * 10**6
    with safe_open(PACKAGED_MODEL / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} <= {torch.float16, torch.int64}  # noqa: SIM118


def test_it_predicts() -> None:
    predictor = semask_d2.Predictor(PACKAGED_MODEL, device="cpu")
    prediction = predictor(np.full((128, 96, 3), 120, np.uint8))
    assert prediction.labels.shape == (128, 96)
    assert predictor.classes.names[0] == "background"
    assert len(predictor.classes) == 17
