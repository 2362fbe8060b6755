"""Every published-size config is built once: one forward pass and one training step on small random images.

The slowest file of the suite (some 10 s a config) and the one that needs most memory (about 5 GB).
"""

from __future__ import annotations

import pytest
import torch
from tiny_model import ROOT

from semask_d2 import build_model, get_cfg


@pytest.mark.parametrize("config", sorted(path.name for path in (ROOT / "configs/ade20k").glob("semask_*.yaml")))
def test_forward_and_training_step(config: str) -> None:
    cfg = get_cfg(ROOT / "configs/ade20k" / config, ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    labels = torch.full((64, 64), 255, dtype=torch.uint8)
    labels[:32], labels[32:, :32] = 149, 7  # few classes: the points of the loss are chosen for each
    inputs = [{"image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8), "sem_seg": labels}]
    with torch.no_grad():
        scores = model.eval()(inputs)[0]["sem_seg"]
    assert scores.shape == (150, 64, 64)
    assert scores.isfinite().all()

    losses = model.train()(inputs)
    assert len(losses) == 3 * cfg.MODEL.MASK_FORMER.DEC_LAYERS + 1
    assert all(loss.isfinite() for loss in losses.values())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    sum(losses.values()).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE)
    assert norm.isfinite()
    before = model.sem_seg_head.predictor.class_embed.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model.sem_seg_head.predictor.class_embed.weight, before)
