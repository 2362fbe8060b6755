"""Parameter groups, the poly schedule and clipping."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semask_d2 import build_model, get_cfg
from semask_d2.engine.optimizer import build_optimizer, build_poly_scheduler, parameter_groups
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TINY, TOY_CONFIG


@pytest.fixture
def cfg():
    options = ("SOLVER.BASE_LR", "0.1", "SOLVER.BACKBONE_MULTIPLIER", "0.5", "SOLVER.WEIGHT_DECAY", "0.05")
    return get_cfg(TOY_CONFIG, (*TINY, *options))


def test_every_parameter_is_in_the_group_of_its_kind(cfg) -> None:
    cfg.SOLVER.WEIGHT_DECAY_NORM, cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.01, 0.02
    model = build_model(cfg)
    found = {
        parameter: (group["lr"], group["weight_decay"])
        for group in parameter_groups(cfg, model)
        for parameter in group["params"]
    }
    assert found.keys() == set(model.parameters())
    block = model.backbone.layers[0].blocks[0]
    decoder = model.sem_seg_head.predictor
    assert found[block.attn.qkv.weight] == (0.05, 0.05)
    assert found[block.attn.relative_position_bias_table] == (0.05, 0.0)
    assert found[block.norm1.weight] == (0.05, 0.01)
    assert found[model.backbone.layers[0].semantic_layer.class_injection[0].mlp_v.weight] == (0.05, 0.05)
    assert found[decoder.query_feat.weight] == (0.1, 0.02)
    assert found[decoder.class_embed.weight] == (0.1, 0.05)
    assert found[model.sem_seg_head.pixel_decoder.layer_1.norm.bias] == (0.1, 0.01)  # shared with align_1


def test_frozen_parameters_are_left_out(cfg) -> None:
    model = build_model(cfg)
    model.backbone.requires_grad_(False)
    trained = {parameter for group in parameter_groups(cfg, model) for parameter in group["params"]}
    assert not trained & set(model.backbone.parameters())


def test_poly_with_warmup_follows_the_formula(cfg) -> None:
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR = 20, 5, 0.1
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = build_poly_scheduler(cfg, optimizer)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    expected = [
        2.0 * (1 - i / 20) ** 0.9 * ((0.1 + 0.9 * i / 5) if i < 5 else 1) for i in range(20)
    ]  # the line from 0.1 at iteration 0 to 1 at iteration 5
    assert rates == pytest.approx(expected)


def test_the_schedule_keeps_the_groups_ratio_and_ends_at_its_constant(cfg) -> None:
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 4, 0, 0.25
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups)
    scheduler = build_poly_scheduler(cfg, optimizer)
    for _ in range(6):
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.25, 0.025])


@pytest.mark.parametrize("kind", ["full_model", "norm", "value"])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "loss scaled"])
def test_the_optimizer_clips_before_it_steps(cfg, kind: str, scaled: bool) -> None:
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = kind, 1.0
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY = "SGD", 1.0, 0.0
    model = nn.ParameterList(nn.Parameter(torch.zeros(2)) for _ in range(2))
    optimizer = build_optimizer(cfg, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=scaled)
    scaler.scale(sum(p @ torch.tensor([3.0, 4.0]) for p in model)).backward()
    scaler.step(optimizer)  # as Detectron2's trainers do it, which never unscale on their own
    unit = torch.tensor([0.6, 0.8])
    expected = {"full_model": unit / 2**0.5, "norm": unit, "value": torch.ones(2)}[kind]
    torch.testing.assert_close(-torch.stack(list(model)), expected.expand(2, 2), rtol=1e-5, atol=1e-5)


def test_clipping_can_be_switched_off(cfg) -> None:
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY = "SGD", 1.0, 0.0
    model = nn.ParameterList([nn.Parameter(torch.zeros(2))])
    optimizer = build_optimizer(cfg, model)
    model[0].sum().mul(100).backward()
    optimizer.step()
    assert model[0].tolist() == [-100, -100]


def test_wrong_names_are_named(cfg) -> None:
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "whole"
    with pytest.raises(UserError, match=r"SOLVER\.CLIP_GRADIENTS\.CLIP_TYPE.*'whole'"):
        build_optimizer(cfg, nn.Linear(1, 1))
    cfg.SOLVER.OPTIMIZER = "LION"
    with pytest.raises(UserError, match=r"SOLVER\.OPTIMIZER.*'LION'"):
        build_optimizer(cfg, nn.Linear(1, 1))
