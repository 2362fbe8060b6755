"""Weights for RGB in models of other channels: features stay those of the RGB image, and the log says what was done."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision.models
from torch import Tensor, nn

from semask_d2 import build_model
from semask_d2.checkpoint import load_weights
from semask_d2.utils.errors import UserError
from tests.helpers.small_models import microsoft_swin, swin_model, with_statistics
from tests.helpers.tiny_model import randomize, tiny_cfg

STEMS = {
    "swin": "backbone.patch_embed.proj.weight",
    "mit": "backbone.patch_embed1.proj.weight",
    "timm": "backbone.body.conv_stem.weight",
    "resnet": "backbone.stem.conv1.weight",
}
MIT = {"EMBED_DIMS": [8, 8, 16, 16], "DEPTHS": [1, 1, 1, 1], "NUM_HEADS": [1, 1, 2, 2]}
RESNET = {"DEPTH": 18, "RES2_OUT_CHANNELS": 64, "OUT_FEATURES": ["res2", "res3", "res4", "res5"]}
BACKBONES = {
    "swin": {},
    "mit": {"MODEL__BACKBONE__NAME": "D2SeMaskMixTransformer", **{f"MODEL__MIT__{key}": x for key, x in MIT.items()}},
    "timm": {"MODEL__BACKBONE__NAME": "SeMaskTimm", "MODEL__TIMM__NAME": "mobilenetv3_small_050"},
    "resnet": {
        "MODEL__BACKBONE__NAME": "build_resnet_backbone",
        **{f"MODEL__RESNETS__{key}": x for key, x in RESNET.items()},
    },
}


def model_of(backbone: str, channels: int, freeze_at: int = 0) -> nn.Module:
    """Return a tiny model in evaluation mode; the first channels have the statistics of RGB."""
    numbers = {"MEAN": [120.0, 110.0, 100.0, 30.0, 90.0], "STD": [50.0, 60.0, 70.0, 9.0, 20.0]}
    pixels = {f"MODEL__PIXEL_{key}": x[:channels] for key, x in numbers.items()}
    cfg = tiny_cfg(
        **BACKBONES[backbone], **pixels, INPUT__CHANNELS=channels, MODEL__BACKBONE__FREEZE_AT=freeze_at,
        MODEL__RESNETS__NORM="BN",
    )  # fmt: skip
    return with_statistics(randomize(build_model(cfg))).eval()


@torch.no_grad()
def features(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    return model.double().backbone(model.normalizer(list(images), 32).tensor)


def saved(model: nn.Module, folder: Path) -> Path:
    torch.save({"model": model.state_dict()}, folder / "w.pth")
    return folder / "w.pth"


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = value.abs().amax()  # features of random weights grow from block to block
        torch.testing.assert_close(actual[name] / scale, value / scale, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_further_channels_change_no_feature_at_first(
    backbone: str, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    rgb, wide = model_of(backbone, 3), model_of(backbone, 5)
    report = load_weights(wide, saved(rgb, tmp_path), training_start=True)
    assert report.complete
    stem = STEMS[backbone]
    assert f"{stem} widened from RGB to 5 channels, of which 2 start with zero weights" in log.text
    assert "FREEZE_AT" not in log.text
    images = torch.randint(0, 256, (2, 5, 64, 96), dtype=torch.uint8)
    expected = features(rgb, images[:, :3])
    assert_same(features(wide, images), expected)
    images[:, 3:] = torch.randint(0, 256, (2, 2, 64, 96), dtype=torch.uint8)  # any others
    assert_same(features(wide, images), expected)
    out = wide.train().backbone(torch.randn(2, 5, 64, 96, dtype=torch.float64))
    sum(x.square().sum() for x in out.values()).backward()
    assert wide.get_parameter(stem).grad[:, 3:].abs().amax() > 0  # but the channels are learned


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_gray_image_gives_the_features_of_its_rgb_copy(
    backbone: str, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    rgb, gray = model_of(backbone, 3), model_of(backbone, 1)
    rgb.normalizer.mean[:], rgb.normalizer.std[:] = gray.normalizer.mean, gray.normalizer.std
    load_weights(gray, saved(rgb, tmp_path), training_start=True)
    assert f"{STEMS[backbone]} fitted to 1 channel(s): the sum over RGB" in log.text
    images = torch.randint(0, 256, (2, 1, 64, 96), dtype=torch.uint8)
    assert_same(features(gray, images), features(rgb, images.repeat(1, 3, 1, 1)))


def test_two_channels_share_the_sum(tmp_path: Path) -> None:
    rgb, two = model_of("swin", 3), model_of("swin", 2)
    for model in (rgb, two):
        model.normalizer.mean[:], model.normalizer.std[:] = 100, 50
    load_weights(two, saved(rgb, tmp_path), training_start=True)
    images = torch.randint(0, 256, (1, 1, 64, 64), dtype=torch.uint8)
    assert_same(features(two, images.repeat(1, 2, 1, 1)), features(rgb, images.repeat(1, 3, 1, 1)))


def test_weights_for_bgr_meet_channels_in_the_order_of_rgb(tmp_path: Path) -> None:
    bgr, wide = model_of("resnet", 3), model_of("resnet", 4)
    load_weights(wide, saved(bgr, tmp_path), training_start=True, bgr=True)
    for model in (bgr, wide):
        model.normalizer.mean[:], model.normalizer.std[:] = 100, 50
    images = torch.randint(0, 256, (1, 4, 64, 64), dtype=torch.uint8)
    assert_same(features(wide, images), features(bgr, images[:, :3].flip(1)))


def test_a_frozen_stem_of_zeros_gets_a_warning(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    path = saved(model_of("swin", 3), tmp_path)
    load_weights(model_of("swin", 4, freeze_at=1), path, training_start=True)
    assert "patch_embed.proj.weight is frozen, so that channels with zero weights will never have an effect" in log.text
    log.clear()
    load_weights(model_of("swin", 1, freeze_at=1), path, training_start=True)
    assert "is frozen" not in log.text


@pytest.mark.parametrize(("in_file", "in_model", "training_start"), [(3, 4, False), (4, 3, False), (4, 5, True)])
def test_other_channels_are_refused_with_the_key(
    in_file: int, in_model: int, training_start: bool, tmp_path: Path
) -> None:
    path = saved(model_of("swin", in_file), tmp_path)
    message = rf"they take images of {in_file} channel\(s\), the model of {in_model}: check INPUT.CHANNELS"
    with pytest.raises(UserError, match=message) as caught:
        load_weights(model_of("swin", in_model), path, training_start=training_start)
    assert "\n" not in str(caught.value)


def test_files_of_imagenet_are_widened(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    source, wide = swin_model(), swin_model(in_channels=4)
    torch.save(microsoft_swin(source), tmp_path / "swin.pth")
    load_weights(wide, tmp_path / "swin.pth", training_start=True)
    stem = wide.backbone.patch_embed.proj.weight
    assert torch.equal(stem[:, :3], source.backbone.patch_embed.proj.weight)
    assert not stem[:, 3:].any()

    resnet = with_statistics(torchvision.models.resnet18())
    torch.save(resnet.state_dict(), tmp_path / "resnet.pth")
    wide = model_of("resnet", 5)
    load_weights(wide, tmp_path / "resnet.pth", training_start=True)
    assert torch.equal(wide.get_parameter(STEMS["resnet"])[:, :3], resnet.conv1.weight)

    mobile = timm.create_model("mobilenetv3_small_050")
    torch.save(mobile.state_dict(), tmp_path / "timm.pth")
    wide = model_of("timm", 4)
    load_weights(wide, tmp_path / "timm.pth", training_start=True)
    assert torch.equal(wide.get_parameter(STEMS["timm"])[:, :3], mobile.conv_stem.weight)
    assert log.text.count("channels, of which") == 3
