"""Parameter groups, the poly schedule and clipping."""

from __future__ import annotations

import copy

import pytest
import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
)
from torch import nn

from semask_d2 import build_model, get_cfg
from semask_d2.engine.optimizer import (
    build_optimizer,
    build_scheduler,
    load_optimizer_state,
    load_scheduler_state,
    parameter_groups,
)
from semask_d2.modeling.layers.semantic_attention import SemanticLayer
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TINY, TOY_CONFIG


@pytest.fixture
def cfg():
    options = ("SOLVER.BASE_LR", "0.1", "SOLVER.BACKBONE_MULTIPLIER", "0.5", "SOLVER.WEIGHT_DECAY", "0.05")
    return get_cfg(TOY_CONFIG, (*TINY, *options))


def test_every_parameter_is_in_the_group_of_its_kind(cfg) -> None:
    cfg.SOLVER.WEIGHT_DECAY_NORM, cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.01, 0.02
    model = build_model(cfg)
    settings = {
        parameter: (group["lr"], group["weight_decay"])
        for group in parameter_groups(cfg, model)
        for parameter in group["params"]
    }
    assert settings.keys() == set(model.parameters())
    block = model.backbone.layers[0].blocks[0]
    decoder = model.sem_seg_head.predictor
    assert settings[block.attn.qkv.weight] == (0.05, 0.05)
    assert settings[block.attn.relative_position_bias_table] == (0.05, 0.0)
    assert settings[block.norm1.weight] == (0.05, 0.01)
    assert settings[model.backbone.layers[0].semantic_layer.class_injection[0].mlp_v.weight] == (0.05, 0.05)
    assert settings[decoder.query_feat.weight] == (0.1, 0.02)
    assert settings[decoder.class_embed.weight] == (0.1, 0.05)
    assert settings[model.sem_seg_head.pixel_decoder.layer_1.norm.bias] == (0.1, 0.01)  # shared with align_1


@pytest.mark.parametrize("config", ["semask_swin_mini_fpn", "semask_mit_b0_fpn", "semask_timm_resnet18_m2f"])
def test_semantic_layers_may_have_a_rate_of_their_own(config: str) -> None:
    options = ("SOLVER.BASE_LR", "0.1", "SOLVER.BACKBONE_MULTIPLIER", "0.5", "SOLVER.SEMANTIC_MULTIPLIER", "4")
    cfg = get_cfg(f"toy_scenes/{config}.yaml", (*options, "MODEL.DEVICE", "meta"))
    with torch.device("meta"):
        model = build_model(cfg)
    rates = {p: group["lr"] for group in parameter_groups(cfg, model) for p in group["params"]}
    layers = [module for module in model.modules() if isinstance(module, SemanticLayer)]
    assert len(layers) == 4
    semantic = {parameter for layer in layers for parameter in layer.parameters()}
    assert {rates[p] for p in semantic} == {0.2}
    assert {rates[p] for p in model.backbone.parameters() if p not in semantic} == {0.05}
    assert {rates[p] for p in model.sem_seg_head.parameters()} == {0.1}


def test_frozen_parameters_are_left_out(cfg) -> None:
    model = build_model(cfg)
    model.backbone.requires_grad_(False)
    trained = {parameter for group in parameter_groups(cfg, model) for parameter in group["params"]}
    assert not trained & set(model.backbone.parameters())


def test_poly_with_warmup_follows_the_formula(cfg) -> None:
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR = 20, 5, 0.1
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = build_scheduler(cfg, optimizer)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    expected = [
        2.0 * (1 - i / 20) ** 0.9 * ((0.1 + 0.9 * i / 5) if i < 5 else 1) for i in range(20)
    ]  # rises linearly from 0.1 at iteration 0 to 1 at iteration 5
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("method", ["linear", "constant"])
def test_steps_after_warmup_are_those_of_fvcores_schedules(cfg, method: str) -> None:
    """These methods are the parts of Detectron2's "WarmupMultiStepLR"."""
    settings = {"MAX_ITER": 20, "STEPS": (9, 15, 40), "GAMMA": 0.1, "WARMUP_ITERS": 4, "WARMUP_FACTOR": 0.25}
    for key, value in {"LR_SCHEDULER_NAME": "WarmupMultiStepLR", "WARMUP_METHOD": method, **settings}.items():
        cfg.SOLVER[key] = value
    steps = MultiStepParamScheduler([1, 0.1, 0.01], milestones=[9, 15], num_updates=20)
    warmup = LinearParamScheduler(0.25, 1) if method == "linear" else ConstantParamScheduler(0.25)
    parts = CompositeParamScheduler([warmup, steps], [0.2, 0.8], ["rescaled", "fixed"])
    factor = build_scheduler(cfg, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)).lr_lambdas[0]
    assert [factor(i) for i in range(20)] == pytest.approx([parts(i / 20) for i in range(20)])
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    assert build_scheduler(cfg, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)) is None


def test_the_schedule_keeps_the_groups_ratio_and_ends_at_its_constant(cfg) -> None:
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 4, 0, 0.25
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups)
    scheduler = build_scheduler(cfg, optimizer)
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
    scaler.step(optimizer)  # as in Detectron2's trainers, which never unscale explicitly
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


def test_norms_may_be_known_by_their_names(cfg) -> None:
    """In Semantic FPN's recipe, parameters named norm are exempt, but the head's norms, named bn, decay."""
    cfg = get_cfg("toy_scenes/semask_swin_mini_fpn.yaml", ["SOLVER.WEIGHT_DECAY", "0.05"])
    assert cfg.SOLVER.NORM_PARAMETERS == "names"
    model = build_model(cfg)
    decay = {p: group["weight_decay"] for group in parameter_groups(cfg, model) for p in group["params"]}
    for name, parameter in model.named_parameters():
        exempt = "norm" in name or "relative_position_bias_table" in name
        assert decay[parameter] == (0.0 if exempt else 0.05), name
    assert decay[model.sem_seg_head.scale_heads[0][0].bn.weight] == 0.05


def test_biases_have_a_rate_and_a_decay_where_asked(cfg) -> None:
    cfg.SOLVER.BIAS_LR_FACTOR, cfg.SOLVER.WEIGHT_DECAY_BIAS = 2.0, 0.03
    model = build_model(cfg)
    groups = parameter_groups(cfg, model)
    settings = {p: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    qkv = model.backbone.layers[0].blocks[0].attn.qkv
    assert (settings[qkv.weight], settings[qkv.bias]) == ((0.05, 0.05), (0.1, 0.03))


def test_nesterov_and_a_constant_warm_up_are_obeyed(cfg) -> None:
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.NESTEROV = "SGD", True
    cfg.SOLVER.WARMUP_METHOD, cfg.SOLVER.WARMUP_FACTOR, cfg.SOLVER.WARMUP_ITERS = "constant", 0.1, 3
    optimizer = build_optimizer(cfg, build_model(cfg))
    assert all(group["nesterov"] for group in optimizer.param_groups)
    factor = build_scheduler(cfg, optimizer).lr_lambdas[0]
    without = (1 - 2 / cfg.SOLVER.MAX_ITER) ** cfg.SOLVER.POLY_LR_POWER
    assert factor(2) == pytest.approx(0.1 * without)


def trained_adamw(shape: tuple[int, ...] = (3, 2), rate: float = 0.1) -> torch.optim.AdamW:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(4))]
    optimizer = torch.optim.AdamW([{"params": [p]} for p in parameters], lr=rate, fused=True)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return optimizer


def test_a_state_comes_back_with_the_settings_of_this_run() -> None:
    state = trained_adamw(rate=0.1).state_dict()
    optimizer = trained_adamw(rate=0.5)
    load_optimizer_state(optimizer, state)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    saved = state["state"][0]["exp_avg"]
    assert torch.equal(optimizer.state[optimizer.param_groups[0]["params"][0]]["exp_avg"], saved)


def damaged(change) -> dict:
    state = copy.deepcopy(trained_adamw().state_dict())
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["state"][0].update(exp_avg=torch.zeros(1)), "exp_avg has the shape"),
        (lambda s: s["state"][0].update(exp_avg=torch.zeros(300, 200)), "exp_avg has the shape"),
        (lambda s: s["state"][0].update(exp_avg=torch.zeros(3, 2, dtype=torch.int64)), "expected floating-point"),
        (lambda s: s["state"][0].update(exp_avg=torch.zeros(3, 2).to_sparse()), "not a dense tensor"),
        (lambda s: s["state"][0].update(exp_avg=None), "exp_avg has the shape"),
        (lambda s: s["state"][0].update(exp_avg=torch.full((3, 2), float("nan"))), "exp_avg holds values that would"),
        (lambda s: s["state"][0].update(exp_avg=torch.full((3, 2), float("inf"))), "exp_avg holds values that would"),
        (lambda s: s["state"][0]["exp_avg_sq"].neg_(), "exp_avg_sq holds values that would make the weights infinite"),
        (lambda s: s["state"][0]["exp_avg_sq"].mul_(float("nan")), "exp_avg_sq holds values that would"),
        (lambda s: s["state"][0].update(step=torch.zeros(5)), "step has the shape"),
        (lambda s: s["state"][0].pop("exp_avg_sq"), "exp_avg_sq is missing"),
        (lambda s: s["state"].pop(1), "1 of 2 parameters"),
        (lambda s: s["param_groups"].pop(), "groups of"),
        (lambda s: s["param_groups"][0].update(params=[0, 1]), "groups of"),
        (lambda s: s["param_groups"][1].update(params=[0]), "groups of"),
        (lambda s: s.pop("param_groups"), "not an optimizer state"),
        (lambda s: s.update(state=7), "not an optimizer state"),
        (lambda s: s["state"].update({0: "x"}), "expected a dict"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_before_anything_is_loaded(change, message: str) -> None:
    optimizer = trained_adamw()
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(UserError, match=message):
        load_optimizer_state(optimizer, damaged(change))
    assert str(optimizer.state_dict()) == str(before)


def test_an_infinite_mean_square_is_loaded() -> None:
    optimizer = trained_adamw()
    load_optimizer_state(optimizer, damaged(lambda s: s["state"][0]["exp_avg_sq"].fill_(float("inf"))))
    optimizer.step()
    assert all(p.isfinite().all() for group in optimizer.param_groups for p in group["params"])


def test_a_state_of_another_optimizer_is_refused() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    sgd = torch.optim.SGD([parameter], lr=1.0, momentum=0.9)
    parameter.grad = torch.ones(2)
    sgd.step()
    with pytest.raises(UserError, match="exp_avg is missing"):
        load_optimizer_state(torch.optim.AdamW([parameter]), sgd.state_dict())


def test_a_schedule_continues_at_its_iteration_with_this_runs_rates(cfg) -> None:
    def make(rate: float):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
        return optimizer, build_scheduler(cfg, optimizer)

    optimizer, scheduler = make(2.0)
    for _ in range(7):
        optimizer.step()
        scheduler.step()
    again, resumed = make(2.0)
    load_scheduler_state(resumed, scheduler.state_dict())
    assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    lower, resumed = make(1.0)
    load_scheduler_state(resumed, scheduler.state_dict())
    assert lower.param_groups[0]["lr"] == pytest.approx(optimizer.param_groups[0]["lr"] / 2)
    for state in ({}, {"last_epoch": "7"}, None, {"last_epoch": -3}):
        with pytest.raises(UserError, match="learning-rate schedule"):
            load_scheduler_state(resumed, state)
