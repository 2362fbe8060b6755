"""MODEL.BACKBONE.TRAIN lora: adapters learn, pretrained layers keep their values, and merging changes no output."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from semask_d2 import build_model, get_cfg
from semask_d2.d2 import CfgNode, build_backbone
from semask_d2.modeling.backbones.lora import adapted_layers, is_adapter, merged_adapters
from semask_d2.modeling.layers.drop_path import DropPath
from semask_d2.utils.errors import UserError
from tests.helpers.tiny_model import make_inputs, randomize

SWIN, MIT = "toy_scenes/semask_swin_mini_m2f", "toy_scenes/semask_mit_b0_m2f"
TIMM, VIT = "toy_scenes/semask_timm_resnet18_m2f", "camvid/semask_vit_tiny_m2f"
SMALL_VIT = ["MODEL.VIT.EMBED_DIM", 48, "MODEL.VIT.DEPTH", 4, "MODEL.VIT.NUM_HEADS", 3]
SMALL_VIT += ["MODEL.VIT.PATCH_SIZE", 0, "MODEL.VIT.IMG_SIZE", 0]


def vit(name: str) -> tuple[str, list]:
    return VIT, ["MODEL.VIT.NAME", name, *SMALL_VIT]


FAMILIES = {  # a config, its settings, and the number of adapted layers
    "Swin": (SWIN, ["MODEL.SWIN.DEPTHS", [1, 2, 1, 1]], 10),
    "MiT": (MIT, ["MODEL.MIT.DEPTHS", [1, 1, 1, 1]], 12),
    "supervised ViT": (*vit("vit_tiny_patch16_224"), 8),
    "DINOv2": (*vit("vit_small_patch14_reg4_dinov2"), 8),
    "DINOv3": (*vit("vit_small_patch16_dinov3"), 8),
    "EVA-02, one qkv": (*vit("eva02_tiny_patch14_224"), 8),  # timm multiplies by the weight of qkv itself
    "EVA-02, separate q, k, v": (*vit("eva02_base_patch14_224"), 16),
    "timm Swin": (TIMM, ["MODEL.TIMM.NAME", "swin_tiny_patch4_window7_224"], 24),
    "timm Swin v2": (TIMM, ["MODEL.TIMM.NAME", "swinv2_tiny_window8_256"], 24),  # like EVA-02
    "timm PVT v2": (TIMM, ["MODEL.TIMM.NAME", "pvt_v2_b0"], 24),
}
LARGE = ("timm Swin", "timm Swin v2")


def cfg(config: str, *options: object, tuning: str = "lora") -> CfgNode:
    settings = ["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 6, "MODEL.BACKBONE.TRAIN", tuning]
    return get_cfg(f"{config}.yaml", [*settings, *options])


def build(config: str, *options: object) -> nn.Module:
    torch.manual_seed(0)
    return build_model(cfg(config, *options))


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


@pytest.mark.parametrize(
    ("config", "options", "layers"),
    [pytest.param(*x, marks=[pytest.mark.slow] if name in LARGE else [], id=name) for name, x in FAMILIES.items()],
)
def test_adapters_start_as_zero_learn_and_merge(config: str, options: list, layers: int) -> None:
    """In fp64, so that tolerances are not for rounding."""
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    plain = build_backbone(cfg(config, *options, tuning="full")).double().eval()
    backbone = build_backbone(cfg(config, *options)).double().eval()
    names = backbone.load_state_dict(plain.state_dict(), strict=False)
    assert not names.unexpected_keys
    assert all(map(is_adapter, names.missing_keys))
    assert len(adapted_layers(backbone)) == len(names.missing_keys) // 2 == layers
    for name, expected in plain(images).items():
        torch.testing.assert_close(backbone(images)[name], expected, rtol=0, atol=1e-10)

    randomize(backbone)  # also what starts as zero, such as LayerScale, would hide an adapter
    before = copied(backbone.state_dict())
    adapters = [parameter for name, parameter in backbone.named_parameters() if is_adapter(name)]
    assert all(parameter.requires_grad for parameter in adapters)
    sum(x.square().mean() for x in backbone(images).values()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in adapters)
    learned = backbone(images)
    with merged_adapters(backbone):
        assert backbone.state_dict().keys() == plain.state_dict().keys()
        for name, value in backbone(images).items():
            torch.testing.assert_close(value, learned[name], rtol=0, atol=1e-10)
        plain.load_state_dict(backbone.state_dict())
    for name, value in plain(images).items():
        torch.testing.assert_close(value, learned[name], rtol=0, atol=1e-10)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("options", [[], ["MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res3", "res4", "res5"]]])
@pytest.mark.parametrize("config", [SWIN, MIT, VIT])
def test_adapters_and_additions_alone_change_in_training(config: str, options: list) -> None:
    model = build(config, *options).train()
    before = copied(model.state_dict())
    pretrained = {f"backbone.{name}" for name in model.backbone.pretrained_names()}
    optimizer = torch.optim.AdamW([x for x in model.parameters() if x.requires_grad], lr=0.01, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        sum(model(make_inputs((64, 64), (64, 64))).values()).backward()
        optimizer.step()
    assert not [x for x, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed.isdisjoint(pretrained)
    assert {name for name in before if is_adapter(name)} <= changed


def test_other_layers_may_be_adapted_and_batch_norms_keep_their_statistics() -> None:
    options = ["MODEL.BACKBONE.LORA.TARGETS", ["conv2", "downsample.0"], "MODEL.BACKBONE.LORA.RANK", 3]
    model = build(TIMM, *options).train()
    before = copied(model.state_dict())
    layers = adapted_layers(model.backbone)
    assert sorted({name.rpartition(".")[2] for name in layers}) == ["0", "conv2"]
    assert {len(layer.lora_A["default"].weight) for layer in layers.values()} == {3}
    norms = [module for module in model.backbone.modules() if isinstance(module, _BatchNorm)]
    assert norms
    assert not any(norm.training for norm in norms)
    sum(model(make_inputs((64, 64), (64, 64))).values()).backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    backbone = randomize(model.eval().backbone, std=0.02)
    images = torch.randn(1, 3, 64, 64)
    expected = backbone(images)
    with merged_adapters(backbone):
        for name, value in backbone(images).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def test_stochastic_depth_works_as_in_training() -> None:
    backbone = build(SWIN, "MODEL.SWIN.DROP_PATH_RATE", 0.5).train().backbone
    paths = [module for module in backbone.modules() if isinstance(module, DropPath)]
    assert paths
    assert all(path.training for path in paths)


def test_frozen_stages_get_no_adapters() -> None:
    layers = adapted_layers(build(VIT, "MODEL.BACKBONE.FREEZE_AT", 3).backbone)
    assert {int(name.split(".")[2]) for name in layers} == {4, 5, 6, 7}  # of 8 blocks, two in each stage


def test_a_copy_and_a_loaded_state_have_the_same_adapters() -> None:
    """The average of weights (SOLVER.EMA) is a copy."""
    backbone = randomize(build(VIT).backbone)
    state = copied(backbone.state_dict())
    assert not [name for name in state if "base_layer" in name]
    twin = randomize(copy.deepcopy(backbone))
    assert not torch.equal(twin.state_dict()["body.blocks.0.attn.qkv.weight"], state["body.blocks.0.attn.qkv.weight"])
    twin.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in twin.state_dict().items())
    assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (TIMM, [], r'^MODEL\.BACKBONE\.TRAIN: expected "full" or "frozen", got "lora": the backbone has no attention'),
        (
            TIMM,
            ["MODEL.TIMM.NAME", "tf_efficientnet_lite0"],
            r"^MODEL\.BACKBONE\.TRAIN: .*\.LORA\.TARGETS",
        ),
        (VIT, ["MODEL.BACKBONE.LORA.TARGETS", ["attn.qkw"]], r'^MODEL\.BACKBONE\.LORA\.TARGETS: .*ends in "attn\.qkw"'),
        (VIT, ["MODEL.BACKBONE.LORA.TARGETS", ["attn.qkv", "norm1"]], r'LORA\.TARGETS: .*none ends in "norm1"'),
        (VIT, ["MODEL.BACKBONE.LORA.TARGETS", [7]], r"^MODEL\.BACKBONE\.LORA\.TARGETS: expected ends of names"),
        (VIT, ["MODEL.BACKBONE.LORA.RANK", 0], r"^MODEL\.BACKBONE\.LORA\.RANK: expected at least 1, got 0"),
        (VIT, ["MODEL.BACKBONE.LORA.ALPHA", -1], r"^MODEL\.BACKBONE\.LORA\.ALPHA: expected a number above 0"),
        (
            VIT,
            ["MODEL.BACKBONE.LORA.DROPOUT", 1.0],
            r"^MODEL\.BACKBONE\.LORA\.DROPOUT: expected at least 0",
        ),
        (VIT, ["MODEL.BACKBONE.FREEZE_AT", 5], r"^MODEL\.BACKBONE\.TRAIN: "),
    ],
)
def test_impossible_adapters_are_refused(config: str, options: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(config, *options)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r'^MODEL\.BACKBONE\.TRAIN: "lora" needs peft: pip install'):
        build(VIT)
