"""The configs of DINOv2 and DINOv3: their values are those of timm's models, their rates those of one recipe."""

from __future__ import annotations

import pytest
import timm
import torch

from semask_d2 import build_model
from semask_d2.config import get_cfg
from tests.helpers.commands import ROOT

CONFIGS = ROOT / "configs"
FOUNDATION = {  # the timm model and its published weights, by the name in config files
    **{f"dinov3_vit_{size[0]}": (f"vit_{size}_patch16_dinov3", "lvd1689m") for size in ("small", "base", "large")},
    **{f"dinov2_vit_{size[0]}": (f"vit_{size}_patch14_reg4_dinov2", "lvd142m") for size in ("small", "base", "large")},
    **{
        f"dinov3_convnext_{size[0]}": (f"convnext_{size}", "dinov3_lvd1689m")
        for size in ("tiny", "small", "base", "large")
    },
}


@pytest.mark.parametrize("head", ["m2f", "fpn"])
@pytest.mark.parametrize("name", FOUNDATION)
def test_a_foundation_backbone_has_the_values_of_timms_config(name: str, head: str) -> None:
    """They start from published weights, whose license and normalization timm records; the rates are one recipe's."""
    cfg = get_cfg(CONFIGS / f"ade20k/semask_{name}_{head}.yaml", ["MODEL.DEVICE", "cpu"])
    architecture, tag = FOUNDATION[name]
    section = cfg.MODEL[{"SeMaskViT": "VIT", "SeMaskTimm": "TIMM"}[cfg.MODEL.BACKBONE.NAME]]
    assert (architecture, f"timm://{architecture}.{tag}") == (section.NAME, cfg.MODEL.WEIGHTS)
    published = timm.get_pretrained_cfg(f"{architecture}.{tag}")
    assert published.hf_hub_id
    assert published.license == ("apache-2.0" if "dinov2" in name else "dinov3-license")
    assert pytest.approx([255 * x for x in published.mean]) == cfg.MODEL.PIXEL_MEAN
    assert pytest.approx([255 * x for x in published.std]) == cfg.MODEL.PIXEL_STD
    assert ("raw" if "vit" in name else "normalized") == section.SEM_RESIDUAL
    assert list(cfg.INPUT.CROP.SIZE) == [640 if name.endswith("_l") else 512] * 2
    rates = (cfg.SOLVER.BASE_LR, cfg.SOLVER.BACKBONE_MULTIPLIER, cfg.SOLVER.LAYER_DECAY, cfg.SOLVER.WEIGHT_DECAY)
    assert rates == (1e-4, 1.0, 0.8, 0.05)
    assert cfg.SOLVER.WARMUP_ITERS == 1500
    with torch.device("meta"):
        model = build_model(get_cfg(CONFIGS / f"ade20k/semask_{name}_{head}.yaml", ["MODEL.DEVICE", "meta"]))
    shapes = model.backbone.output_shape()
    assert [shapes[f"res{i}"].stride for i in range(2, 6)] == [4, 8, 16, 32]
    zoo = (CONFIGS.parent / "MODEL_ZOO.md").read_text(encoding="utf-8")
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert f"(configs/ade20k/semask_{name}_{head}.yaml) | {millions:.1f} |" in zoo
