"""MODEL.BACKBONE.FREEZE_AT, and outputs that no head uses, in every backbone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semask_d2 import build_model, get_cfg
from tests.helpers.tiny_model import make_inputs

CONFIGS = ("semask_swin_mini_m2f", "semask_mit_b0_m2f", "semask_timm_resnet18_m2f")
STAGE_NAMES = {  # prefixes of the parameters of the stem and of the blocks of stage i
    "semask_swin_mini_m2f": ("patch_embed.", "layers.{}.blocks."),
    "semask_mit_b0_m2f": ("patch_embed1.", "block{}."),
    "semask_timm_resnet18_m2f": ("body.conv1.", "body.layer{}."),
}


def build(config: str, *options: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(get_cfg(f"toy_scenes/{config}.yaml", ["MODEL.DEVICE", "cpu", *options]))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("freeze_at", [0, 1, 2, 5])
def test_stem_and_stages_are_frozen_in_order(config: str, freeze_at: int) -> None:
    backbone = build(config, "MODEL.BACKBONE.FREEZE_AT", str(freeze_at)).backbone
    stem, blocks = STAGE_NAMES[config]
    first = 0 if "swin" in config else 1
    prefixes = [stem, *(blocks.format(i + first) for i in range(4))]
    for part, prefix in enumerate(prefixes):
        learn = {p.requires_grad for name, p in backbone.named_parameters() if name.startswith(prefix)}
        assert learn == {part >= freeze_at}, prefix
    semantic = [p.requires_grad for name, p in backbone.named_parameters() if "semantic_layer" in name]
    assert semantic
    assert all(semantic)


@pytest.mark.parametrize("config", CONFIGS)
def test_frozen_parts_do_not_change_in_training(config: str) -> None:
    model = build(config, "MODEL.BACKBONE.FREEZE_AT", "3")
    assert model.train() is model
    frozen = {id(tensor) for module in model.backbone.frozen for tensor in module.state_dict(keep_vars=True).values()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sum(model(make_inputs((64, 64), (64, 64))).values()).backward()
    optimizer.step()
    kept = [name for name, value in model.state_dict(keep_vars=True).items() if id(value) in frozen]
    assert kept
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in kept)
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("config", CONFIGS)
def test_every_trainable_parameter_gets_a_gradient_with_any_head_features(config: str) -> None:
    model = build(config, "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res3','res4','res5']", "MODEL.SWIN.SEM_INIT", "live")
    sum(model.train()(make_inputs((64, 64))).values()).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
