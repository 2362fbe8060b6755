"""SOLVER.LAYER_DECAY: learning rates by the depth of the layer."""

from __future__ import annotations

import logging

import pytest
import torch

from semask_d2 import build_model, get_cfg
from semask_d2.config.checks import check_training
from semask_d2.engine.optimizer import build_optimizer, layer_factors, parameter_groups
from semask_d2.utils.errors import UserError

DECAY = 0.5


def build(config: str, *options: object):
    """Return a config with LAYER_DECAY and its model, without memory."""
    settings = ["MODEL.DEVICE", "meta", "SOLVER.LAYER_DECAY", DECAY, "SOLVER.BASE_LR", 1.0, *options]
    cfg = get_cfg(f"{config}.yaml", [*settings, "SOLVER.BACKBONE_MULTIPLIER", 0.5])
    with torch.device("meta"):
        return cfg, build_model(cfg)


def exponents(config: str, *options: object) -> dict[str, float]:
    """Return by parameter name how often the rate is multiplied by DECAY."""
    cfg, model = build(config, *options)
    rates = {x: group["lr"] for group in parameter_groups(cfg, model) for x in group["params"]}
    names = {x: name for name, x in model.named_parameters()}
    in_backbone = {x: 0.5 if name.startswith("backbone.") else 1.0 for x, name in names.items()}
    return {name: -torch.tensor(rates[x] / in_backbone[x]).log2().item() for x, name in names.items() if x in rates}


def test_rates_of_a_vit_follow_beits_rule() -> None:
    """Patch embedding, class token and positions: depth + 1; block i of depth: depth - i; everything else: 0."""
    depth = 8
    found = exponents("camvid/semask_vit_tiny_m2f")
    assert {found[f"backbone.body.{x}"] for x in ("cls_token", "pos_embed", "patch_embed.proj.weight")} == {depth + 1}
    for name, exponent in found.items():
        if name.startswith("backbone.body.blocks."):
            assert exponent == depth - int(name.split(".")[3]), name
        elif not name.startswith("backbone.body."):
            assert exponent == 0, name
    assert any("semantic_layers" in name for name in found)
    assert any("pyramid" in name for name in found)


@pytest.mark.parametrize(
    ("config", "options", "layers"),
    [  # the names of layers from the stem to the last block
        (
            "toy_scenes/semask_swin_mini_m2f",
            ["MODEL.SWIN.DEPTHS", [1, 2, 1, 1], "MODEL.SWIN.APE", True],
            [
                ("patch_embed.proj.weight", "absolute_pos_embed"),
                ("layers.0.blocks.0.norm1.weight",),
                ("layers.0.downsample.reduction.weight", "layers.1.blocks.0.mlp.fc1.weight"),
                ("layers.1.blocks.1.attn.relative_position_bias_table",),
                ("layers.1.downsample.norm.weight", "layers.2.blocks.0.attn.qkv.weight"),
                ("layers.3.blocks.0.attn.qkv.weight",),
            ],
        ),
        (
            "toy_scenes/semask_mit_b0_m2f",
            ["MODEL.MIT.DEPTHS", [1, 1, 2, 1]],
            [
                ("patch_embed1.proj.weight",),
                ("block1.0.attn.kv.weight",),
                ("patch_embed2.proj.weight", "block2.0.mlp.fc1.weight"),
                ("patch_embed3.norm.weight", "block3.0.norm1.weight"),
                ("block3.1.norm1.weight",),
                ("patch_embed4.proj.weight", "block4.0.attn.q.weight"),
            ],
        ),
        (
            "toy_scenes/semask_timm_resnet18_m2f",
            [],
            [
                ("body.conv1.weight", "body.bn1.weight"),
                *((f"body.layer{i}.{j}.conv1.weight",) for i in (1, 2, 3, 4) for j in (0, 1)),
            ],
        ),
        (
            "toy_scenes/semask_timm_resnet18_m2f",
            ["MODEL.TIMM.NAME", "convnext_atto"],
            [
                ("body.stem_0.weight", "body.stem_1.weight"),
                *((f"body.stages_0.blocks.{i}.conv_dw.weight",) for i in range(2)),
                ("body.stages_1.downsample.1.weight", "body.stages_1.blocks.0.conv_dw.weight"),
                ("body.stages_1.blocks.1.conv_dw.weight",),
                ("body.stages_2.downsample.1.weight", "body.stages_2.blocks.0.conv_dw.weight"),
                *((f"body.stages_2.blocks.{i}.conv_dw.weight",) for i in range(1, 6)),
                *((f"body.stages_3.blocks.{i}.conv_dw.weight",) for i in range(2)),
            ],
        ),
    ],
)
def test_layers_of_hierarchical_backbones_are_in_order(config: str, options: list, layers: list) -> None:
    found = exponents(config, *options)
    for i, names in enumerate(layers):
        assert {found[f"backbone.{name}"] for name in names} == {len(layers) - i}, names
    others = {exponent for name, exponent in found.items() if "semantic_layer" in name or "sem_seg_head" in name}
    assert others == {0}


def test_blocks_in_a_head_come_after_those_of_the_backbone() -> None:
    """The last blocks of an EoMT's ViT belong to its head; only the layer of the final norm is above them."""
    found = exponents("toy_scenes/eomt_vit_tiny")
    rates = {name.partition(".")[0]: {} for name in found}
    for name, exponent in found.items():
        if ".blocks." in name:
            part, number = name.partition(".")[0], int(name.partition(".blocks.")[2].partition(".")[0])
            assert rates[part].setdefault(number, exponent) == exponent, name
    blocks = rates["backbone"] | rates["sem_seg_head"]
    assert rates["sem_seg_head"]
    # the multiplier of the backbone, 0.5 in `build`, also applies to the head's blocks, as one more factor of DECAY
    depth = len(blocks)
    assert {n: x - (n in rates["sem_seg_head"]) for n, x in blocks.items()} == {n: depth - n for n in range(depth)}
    assert found["backbone.body.pos_embed"] == depth + 1
    assert found["sem_seg_head.query_embed.weight"] == 0


def test_a_decay_of_one_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert set(exponents("toy_scenes/semask_swin_mini_m2f", "SOLVER.LAYER_DECAY", 1.0).values()) == {0}
    assert "LAYER_DECAY" not in caplog.text


def test_the_range_of_rates_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    cfg, model = build("camvid/semask_vit_tiny_m2f")
    with caplog.at_level(logging.INFO):
        build_optimizer(cfg, model)
    lines = [x.getMessage() for x in caplog.records if "LAYER_DECAY" in x.getMessage()]
    assert lines == [
        "SOLVER.LAYER_DECAY 0.5: learning rates from 0.25 (last of 9 layers) to 0.000977 (first trained one)"
    ]


def test_frozen_layers_have_no_rate() -> None:
    cfg, model = build("camvid/semask_vit_tiny_m2f", "MODEL.BACKBONE.TRAIN", "frozen")
    assert layer_factors(cfg, model) == {}


@pytest.mark.parametrize("value", [0.0, -0.1, 1.5])
def test_factors_outside_of_the_range_are_refused(value: float) -> None:
    cfg = get_cfg("toy_scenes/semask_swin_mini_m2f.yaml", ["SOLVER.LAYER_DECAY", value])
    with pytest.raises(UserError, match=r"SOLVER\.LAYER_DECAY: expected a number above 0 and up to 1, got"):
        check_training(cfg)


def test_a_resnet_has_no_layers_to_count() -> None:
    cfg, model = build("ade20k/r50_m2f")
    with pytest.raises(
        UserError, match=r"SOLVER\.LAYER_DECAY: expected 1 with MODEL\.BACKBONE\.NAME build_resnet_backbone"
    ):
        build_optimizer(cfg, model)
