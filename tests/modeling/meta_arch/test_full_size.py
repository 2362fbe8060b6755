"""Configs at full size: all can be built, and one of each kind runs a training step on a small random image.

The slowest file of the suite (some 8 s a step) and the one that needs most memory (about 5 GB).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from semask_d2 import build_model, get_cfg
from tests.helpers.commands import ROOT

RECIPES = sorted(path for name in ("semask_*", "r50_*") for path in (ROOT / "configs").rglob(f"{name}.yaml"))
KINDS = ("semask_swin_l_m2f", "semask_swin_l_msfapn_m2f", "semask_swin_l_mf", "semask_swin_l_fpn")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_can_be_built(path: Path) -> None:
    """Recipes are built on the meta device, without memory; the head has the number of classes of the config."""
    cfg = get_cfg(path, ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    head = model.sem_seg_head
    assert (
        (head.predictor.class_embed.out_features == classes + 1)
        if hasattr(head, "predictor")
        else (head.conv_seg.out_channels == classes)
    )
    semantic = {shape.channels for name, shape in model.backbone.output_shape().items() if name.startswith("sem")}
    assert semantic == ({classes} if path.stem.startswith("semask_") else set())


@pytest.mark.slow
@pytest.mark.parametrize("config", KINDS)
def test_forward_and_training_step(config: str) -> None:
    options = ["MODEL.DEVICE", "cpu", "INPUT.SIZE_DIVISIBILITY", "-1"]  # otherwise Semantic FPN pads to its crop
    cfg = get_cfg(ROOT / "configs/ade20k" / f"{config}.yaml", options)
    model = build_model(cfg)
    labels = torch.full((64, 64), 255, dtype=torch.uint8)
    labels[:32], labels[32:, :32] = 149, 7  # few classes, because each needs points of the loss
    inputs = [{"image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8), "sem_seg": labels}]
    with torch.no_grad():
        scores = model.eval()(inputs)[0]["sem_seg"]
    assert scores.shape == (150, 64, 64)
    assert scores.isfinite().all()

    losses = model.train()(inputs)
    assert len(losses) == (2 if config.endswith("_fpn") else 3 * cfg.MODEL.MASK_FORMER.DEC_LAYERS + 1)
    assert all(loss.isfinite() for loss in losses.values())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sum(losses.values()).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE)
    assert norm.isfinite()
    weight = model.backbone.layers[0].semantic_layer.class_injection[0].mlp_cls_q.weight
    before = weight.detach().clone()
    optimizer.step()
    assert not torch.equal(weight, before)
