"""ResNet against torchvision's and against a formula; its settings, frozen parts and errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models
from torch import Tensor, nn

from semask_d2 import UserError, build_model, get_cfg
from semask_d2.checkpoint.conversion import torchvision_resnet_name
from semask_d2.config import with_defaults
from semask_d2.d2 import CfgNode, ShapeSpec
from semask_d2.modeling.backbones.resnet import (
    BLOCKS,
    STAGES,
    ResNet,
    build_resnet_backbone,
    build_resnet_deeplab_backbone,
)
from semask_d2.utils.arguments import naming_config_keys
from tests.helpers.small_models import with_statistics
from tests.helpers.tiny_model import make_inputs

SMALL = {"stem_out_channels": 8, "res2_out_channels": 16, "width_per_group": 4}


def resnet(**settings: Any) -> ResNet:
    """Build a ResNet like torchvision's, with nothing frozen, except for `settings`."""
    return with_defaults(ResNet, **{"stride_in_1x1": False, "out_features": STAGES, "freeze_at": 0} | settings)


def resnet_cfg(*options: object) -> CfgNode:
    cfg = get_cfg("backbones/r50.yaml", ["MODEL.DEVICE", "cpu"])
    cfg.merge_from_list(list(options))
    return cfg


def torchvision_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of torchvision's ResNet under our names, without classifier and counters."""
    renamed = {torchvision_resnet_name(name): value for name, value in model.state_dict().items()}
    return {
        name.removeprefix("backbone."): value
        for name, value in renamed.items()
        if name and not name.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize("depth", BLOCKS)
def test_names_and_shapes_are_torchvisions(depth: int) -> None:
    with torch.device("meta"):
        expected = torchvision_state(getattr(torchvision.models, f"resnet{depth}")())
        result = resnet(depth=depth, res2_out_channels=64 if depth < 50 else 256).state_dict()
    assert {name: value.shape for name, value in result.items()} == {n: value.shape for n, value in expected.items()}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet18", {"depth": 18, "res2_out_channels": 64}),
        ("resnet50", {"depth": 50}),
        ("resnext50_32x4d", {"depth": 50, "num_groups": 32, "width_per_group": 4}),
    ],
)
@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_features_are_torchvisions(name: str, settings: dict[str, int], norm: str) -> None:
    reference = with_statistics(getattr(torchvision.models, name)())
    result = resnet(norm=norm, out_features=["stem", *STAGES], **settings)
    missing, unexpected = result.load_state_dict(torchvision_state(reference), strict=False)
    assert not [x for x in missing if not x.endswith("num_batches_tracked")]
    assert not unexpected
    training = norm == "BN"
    reference.double().train(training), result.double().train(training)
    image = torch.randn(2, 3, 70, 64, dtype=torch.float64)  # in fp32 the rounding of processors differs
    x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(image))))
    expected = {"stem": x}
    for i in range(1, 5):
        expected[f"res{i + 1}"] = x = getattr(reference, f"layer{i}")(x)
    actual = result(image)
    assert list(actual) == list(expected)
    for key in expected:
        torch.testing.assert_close(actual[key], expected[key], atol=1e-9, rtol=1e-9)
        shape = result.output_shape()[key]
        assert (shape.channels, -(-64 // shape.stride)) == (actual[key].shape[1], actual[key].shape[3])
    if training:  # batch statistics are updated too
        result, reference = result.state_dict(), torchvision_state(reference)
        assert all(torch.allclose(result[key], reference[key], atol=1e-9) for key in reference)


def formula(
    state: dict[str, Tensor],
    image: Tensor,
    *,
    stem: dict[str, tuple[int, int]],
    first_strides: tuple[int, ...],
    dilations: tuple[tuple[int, ...], ...],
    stride_in_1x1: bool,
    groups: int,
) -> dict[str, Tensor]:
    """Compute bottleneck stages explicitly, with settings that torchvision lacks: DeepLab's keys, strides in 1x1."""

    def conv(x: Tensor, name: str, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1) -> Tensor:
        x = F.conv2d(x, state[f"{name}.weight"], None, stride, padding, dilation, groups)
        mean, var, weight, bias = (
            state[f"{name}.norm.{leaf}"].view(-1, 1, 1) for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    for name, (stride, padding) in stem.items():
        image = conv(image, f"stem.{name}", stride, padding).relu()
    x = F.max_pool2d(image, 3, 2, 1)
    outputs = {}
    for i, (first, grid) in enumerate(zip(first_strides, dilations, strict=True), 2):
        for j, dilation in enumerate(grid):
            block, stride = f"res{i}.{j}", 1 if j else first
            y = conv(x, f"{block}.conv1", stride if stride_in_1x1 else 1).relu()
            y = conv(y, f"{block}.conv2", 1 if stride_in_1x1 else stride, dilation, dilation, groups).relu()
            y = conv(y, f"{block}.conv3")
            x = (y + (x if j else conv(x, f"{block}.shortcut", stride))).relu()
        outputs[f"res{i}"] = x
    return outputs


BASIC_STEM = {"conv1": (2, 3)}
DEEPLAB_STEM = {"conv1": (2, 1), "conv2": (1, 1), "conv3": (1, 1)}
ONES = ((1,) * 3, (1,) * 4)


@pytest.mark.parametrize(
    ("settings", "oracle"),
    [
        ({"stride_in_1x1": True}, {"stride_in_1x1": True}),
        ({"num_groups": 2}, {"groups": 2}),
        ({"stem_type": "deeplab"}, {"stem": DEEPLAB_STEM}),
        ({"res5_dilation": 2}, {"first_strides": (1, 2, 2, 1), "dilations": (*ONES, (1,) * 6, (2,) * 3)}),
        (
            {"stem_type": "deeplab", "res4_dilation": 2, "res5_dilation": 4, "res5_multi_grid": [1, 2, 4]},
            {"stem": DEEPLAB_STEM, "first_strides": (1, 2, 1, 1), "dilations": (*ONES, (2,) * 6, (4, 8, 16))},
        ),
    ],
)
def test_other_settings_are_the_formula(settings: dict[str, Any], oracle: dict[str, Any]) -> None:
    model = with_statistics(resnet(**SMALL, **settings)).eval()
    plain = {
        "stem": BASIC_STEM,
        "first_strides": (1, 2, 2, 2),
        "dilations": (*ONES, (1,) * 6, (1,) * 3),
        "stride_in_1x1": False,
        "groups": 1,
    }
    image = torch.randn(1, 3, 66, 96)
    with torch.no_grad():
        expected = formula(model.state_dict(), image, **(plain | oracle))
        actual = model(image)
    for name, feature in expected.items():
        assert feature.std() > 0.05
        torch.testing.assert_close(actual[name], feature, atol=1e-4, rtol=1e-4)
        assert -(-96 // model.output_shape()[name].stride) == feature.shape[-1]


# Settings


def test_a_config_is_applied_and_deeplab_keys_need_the_deeplab_builder(caplog: pytest.LogCaptureFixture) -> None:
    keys = ("MODEL.RESNETS.STEM_TYPE", "deeplab", "MODEL.RESNETS.RES5_DILATION", 2)
    cfg = resnet_cfg("MODEL.RESNETS.WIDTH_PER_GROUP", 8, "MODEL.RESNETS.OUT_FEATURES", ["res3"], *keys)
    image = ShapeSpec(channels=3)
    plain = build_resnet_backbone(cfg, image)
    assert [name for name, _ in plain.named_children()] == ["stem", "res2", "res3"]
    assert list(plain.output_shape()) == list(plain(torch.zeros(1, 3, 32, 32))) == ["res3"]
    assert [name for name, _ in plain.stem.named_children()] == ["conv1"]
    assert plain.res2[0].conv2.out_channels == 8
    assert not plain.res2[0].conv2.norm.state_dict().keys() & {"num_batches_tracked"}
    (record,) = caplog.records
    assert "STEM_TYPE deeplab is not used: only build_resnet_deeplab_backbone" in record.getMessage()
    deeplab = build_resnet_deeplab_backbone(cfg, image)
    assert [name for name, _ in deeplab.stem.named_children()] == ["conv1", "conv2", "conv3"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("DEPTH", 42), "DEPTH: expected one of [18, 34, 50, 101, 152], got 42"),
        (("NORM", "GN"), "NORM: expected one of ['FrozenBN', 'BN', 'SyncBN'], got 'GN'"),
        (("STEM_TYPE", "large"), 'STEM_TYPE: expected "basic" or "deeplab", got \'large\''),
        (("OUT_FEATURES", ["res6"]), "OUT_FEATURES: expected some of ('stem', 'res2'"),
        (("OUT_FEATURES", []), "OUT_FEATURES: expected some of"),
        (("NUM_GROUPS", 0), "NUM_GROUPS: expected at least 1, got 0"),
        (("RES2_OUT_CHANNELS", -4), "RES2_OUT_CHANNELS: expected at least 2, got -4"),
        (("RES4_DILATION", 3), "RES4_DILATION: expected 1 or 2, got 3"),
        (("RES4_DILATION", 2), "RES5_DILATION: expected 4, with a RES4_DILATION of 2, got 1"),
        (
            ("RES5_MULTI_GRID", [1, 2]),
            "RES5_MULTI_GRID: expected three numbers of at least 1, one per block, got [1, 2]",
        ),
        (("DEPTH", 18), "RES2_OUT_CHANNELS: expected 64, with a depth of 18 or 34, got 256"),
        (("DEFORM_ON_PER_STAGE", [False, True, True, True]), "DEFORM_ON_PER_STAGE: expected False for every stage;"),
    ],
)
def test_invalid_settings_are_named(options: tuple[str, Any], message: str) -> None:
    key, value = options
    cfg = resnet_cfg("MODEL.RESNETS.WIDTH_PER_GROUP", 8, f"MODEL.RESNETS.{key}", value)
    with pytest.raises(UserError) as caught, naming_config_keys():
        build_resnet_deeplab_backbone(cfg, ShapeSpec(channels=3))
    assert str(caught.value).startswith(f"MODEL.RESNETS.{message}")


def test_freeze_at_is_in_its_range() -> None:
    with (
        pytest.raises(UserError, match=r"MODEL\.BACKBONE\.FREEZE_AT: expected from 0 to 5, got 6"),
        naming_config_keys(),
    ):
        build_resnet_backbone(resnet_cfg("MODEL.BACKBONE.FREEZE_AT", 6), ShapeSpec(channels=3))


# Freezing


@pytest.mark.parametrize("freeze_at", [0, 1, 3, 5])
def test_frozen_parts_never_change_in_training(freeze_at: int) -> None:
    names = ("stem", "res2", "res3", "res4", "res5")
    model = resnet(**SMALL, norm="BN", out_features=names, freeze_at=freeze_at).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert before.keys() == resnet(**SMALL, norm="BN").state_dict().keys()
    learning = [p for p in model.parameters() if p.requires_grad]
    if learning:
        optimizer = torch.optim.SGD(learning, lr=0.1)
        sum(x.square().mean() for x in model(torch.randn(2, 3, 64, 64)).values()).backward()
        assert all(p.grad is not None for p in learning)
        optimizer.step()
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {*names[freeze_at:]}


# In a whole model


def whole_model(*options: object) -> CfgNode:
    cfg = get_cfg("toy_scenes/semask_swin_mini_m2f.yaml", ["MODEL.DEVICE", "cpu"])
    cfg.merge_from_list(
        [
            *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", 18),
            *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.MASK_FORMER.TRAIN_NUM_POINTS", 64, *options),
        ]
    )
    return cfg


@pytest.mark.parametrize("size_divisibility", [32, 0])
def test_a_mask_model_with_it_trains_and_predicts_at_any_size(size_divisibility: int) -> None:
    cfg = whole_model("MODEL.RESNETS.NORM", "BN", "MODEL.MASK_FORMER.SIZE_DIVISIBILITY", size_divisibility)
    model = build_model(cfg)
    losses = model.train()(make_inputs((64, 96), (50, 71)))
    assert "loss_cate" not in losses
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    with torch.no_grad():
        (output,) = model.eval()([{"image": torch.zeros(3, 50, 71, dtype=torch.uint8)}])
    assert output["sem_seg"].shape == (12, 50, 71)
    assert not model.has_priors


def test_recomputing_stages_is_not_supported() -> None:
    cfg = whole_model("MODEL.ACTIVATION_CHECKPOINTING", ["res3", "pixel_decoder", "res4"])
    with pytest.raises(UserError, match=r"CHECKPOINTING: build_resnet_backbone does not support it; remove res3, res4"):
        build_model(cfg)


def test_syncbn_without_cuda_becomes_bn(caplog: pytest.LogCaptureFixture) -> None:
    cfg = get_cfg("backbones/r50.yaml", ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "SyncBN"])
    assert cfg.MODEL.RESNETS.NORM == "BN"
    assert "MODEL.RESNETS.NORM is SyncBN, which needs CUDA: using BN" in caplog.text
