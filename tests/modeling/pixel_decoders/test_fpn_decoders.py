"""Top-down pixel decoders of MaskFormer and FaPN against their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2.d2 import ShapeSpec
from semask_d2.modeling.pixel_decoders import build_pixel_decoder
from tests.helpers.tiny_model import randomize, tiny_cfg

CHANNELS = {"res2": 16, "res3": 32, "res4": 64, "res5": 128}
NAMES = ("BasePixelDecoder", "PixelFANDecoder")


def build(name: str) -> nn.Module:
    shapes = {key: ShapeSpec(channels=c, stride=c // 4) for key, c in CHANNELS.items()}
    # 64 channels, because a norm group with a single value has no variance
    cfg = tiny_cfg(MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME=name, MODEL__SEM_SEG_HEAD__CONVS_DIM=64)
    return randomize(build_pixel_decoder(cfg, shapes))


def make_features(height: int, width: int) -> dict[str, Tensor]:
    return {key: torch.randn(2, c, -(-height // (c // 4)), -(-width // (c // 4))) for key, c in CHANNELS.items()}


def conv(layer: nn.Module, x: Tensor) -> Tensor:
    x = F.conv2d(x, layer.weight, padding=layer.weight.shape[-1] // 2)
    return F.group_norm(x, 32, layer.norm.weight, layer.norm.bias, 1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(64, 96), (70, 45)])
def test_equals_the_formula(name: str, size: tuple[int, int]) -> None:
    decoder, features = build(name), make_features(*size)
    with torch.no_grad():
        output = decoder(features)
        maps = [conv(decoder.layer_4, features["res5"]).relu()]
        for k in (3, 2, 1):
            lateral = conv(getattr(decoder, f"adapter_{k}"), features[f"res{k + 1}"])
            y = lateral + F.interpolate(maps[-1], size=lateral.shape[-2:], mode="nearest")
            if name == "PixelFANDecoder":
                y = getattr(decoder, f"align_{k}")(lateral, y)
            maps.append(conv(getattr(decoder, f"layer_{k}"), y).relu())
        expected = F.conv2d(maps[-1], decoder.mask_features.weight, decoder.mask_features.bias, padding=1)
        torch.testing.assert_close(output.mask_features, expected, atol=1e-4, rtol=1e-3)
        assert len(output.multi_scale) == 3
        for actual, reference in zip(output.multi_scale, maps, strict=False):
            torch.testing.assert_close(actual, reference, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_gradient(name: str) -> None:
    decoder = build(name)
    decoder(make_features(64, 64)).mask_features.square().mean().backward()
    for parameter_name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.norm() > 0, parameter_name


def test_alignments_share_the_norm_of_their_layer() -> None:
    decoder = build("PixelFANDecoder")
    for k in (1, 2, 3):
        assert getattr(decoder, f"align_{k}").offset.norm is getattr(decoder, f"layer_{k}").norm
    assert not hasattr(decoder, "align_4")
    assert not hasattr(build("BasePixelDecoder"), "align_1")
