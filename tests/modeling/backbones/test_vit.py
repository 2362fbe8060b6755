"""SeMask on plain ViTs: outputs against timm's own, the pyramid's geometry, semantic layers and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semask_d2.config import with_defaults
from semask_d2.modeling.backbones.base import SemanticSettings
from semask_d2.modeling.backbones.vit import SeMaskViT
from semask_d2.modeling.layers.feature_pyramid import Rescale, to_stride
from semask_d2.modeling.layers.semantic_decoder import decode_semantic_prior
from semask_d2.utils.arguments import ArgumentError
from tests.helpers.tiny_model import randomize

SMALL = {"embed_dim": 48, "depth": 4, "num_heads": 3}
FAMILIES = {  # a model of timm, and its patch size
    "supervised": ("vit_tiny_patch16_224", 16),
    "DINOv2": ("vit_small_patch14_reg4_dinov2", 14),
    "DINOv3": ("vit_small_patch16_dinov3", 16),
    "EVA-02": ("eva02_tiny_patch14_224", 14),
    "SigLIP": ("vit_base_patch16_siglip_224", 16),
    "DeiT-III": ("deit3_small_patch16_224", 16),
    "rotary, mixed": ("vit_small_patch16_rope_mixed_224", 16),
}
CLASSES = 5


def backbone(name: str = "vit_tiny_patch16_224", *, semantic: dict[str, Any] | None = None, **arguments: Any):
    """Return a small ViT of this family with random parameters, without semantic layers by default."""
    settings = {"num_blocks": 0, "windowed_stages": [], "residual": "raw", **(semantic or {})}
    shared = {"semantic": with_defaults(SemanticSettings, num_classes=CLASSES, **settings), "freeze_at": 0}
    shared |= {"checkpointing": [], "drop_path_rate": 0.0, "name": name}
    return randomize(with_defaults(SeMaskViT, **(shared | SMALL | arguments))).eval()


@pytest.mark.parametrize(("name", "patch"), FAMILIES.values(), ids=FAMILIES)
def test_taps_equal_timms_intermediates(name: str, patch: int) -> None:
    """At several sizes, also such that are no multiple of the patch size."""
    model = backbone(name)
    body = timm.create_model(name, num_classes=0, global_pool="", dynamic_img_size=True, dynamic_img_pad=True, **SMALL)
    body.load_state_dict(model.body.state_dict(), strict=False)
    body.eval()
    for height, width in ((64, 64), (96, 128), (75, 50)):
        images = torch.randn(2, 3, height, width)
        expected = body.forward_intermediates(images, indices=[0, 1, 2, 3], intermediates_only=True)
        taps = model.taps(images)
        assert len(taps) == len(expected) == 4
        for (tap, semantics), reference in zip(taps, expected, strict=True):
            assert semantics is None
            assert tap.shape[1:3] == (-(-height // patch), -(-width // patch))
            torch.testing.assert_close(tap.permute(0, 3, 1, 2), reference, rtol=1e-5, atol=1e-5)


def test_taps_after_chosen_blocks() -> None:
    model = backbone(depth=6, out_indices=[0, 2, 3, 4])
    assert len(model.body.blocks) == 5  # the last one is not used
    images = torch.randn(1, 3, 64, 64)
    body = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True, **{**SMALL, "depth": 6})
    body.load_state_dict(model.body.state_dict(), strict=False)
    expected = body.eval().forward_intermediates(images, indices=[0, 2, 3, 4], intermediates_only=True)
    for (tap, _), reference in zip(model.taps(images), expected, strict=True):
        torch.testing.assert_close(tap.permute(0, 3, 1, 2), reference, rtol=1e-5, atol=1e-5)
    assert backbone(depth=12).out_indices == [2, 5, 8, 11]
    assert backbone(depth=7).out_indices == [0, 2, 4, 6]


@pytest.mark.parametrize("patch", [8, 14, 16, 32])
@pytest.mark.parametrize("size", [(64, 96), (70, 50), (33, 95)])
def test_outputs_cover_the_image_at_their_strides(patch: int, size: tuple[int, int]) -> None:
    model = backbone(semantic={"num_blocks": 1}, patch_size=patch)
    outputs = model(torch.randn(1, 3, *size))
    shapes = model.output_shape()
    assert outputs.keys() == shapes.keys()
    nominal = 16 if patch == 14 else patch
    assert [shapes[f"sem{i}"].stride for i in range(2, 6)] == [nominal] * 4
    assert [shapes[f"res{i}"].stride for i in range(2, 6)] == [4, 8, 16, 32]
    for name, output in outputs.items():
        stride = shapes[name].stride
        assert output.shape == (1, shapes[name].channels, -(-size[0] // stride), -(-size[1] // stride)), name
    assert decode_semantic_prior(outputs, align_corners=True).shape == outputs["sem2"].shape


def test_the_prior_of_equal_strides_is_the_plain_sum() -> None:
    maps = {f"sem{i}": torch.randn(1, 3, 5, 7) for i in range(2, 6)}
    assert torch.equal(decode_semantic_prior(maps, align_corners=True), sum(maps.values(), torch.zeros(())))


@settings(deadline=None, derandomize=True)
@given(patch=st.sampled_from([12, 14, 16]), height=st.integers(17, 120), slope=st.floats(-1, 1))
def test_resampled_maps_keep_their_places(patch: int, height: int, slope: float) -> None:
    """A map that is linear in the row of pixels is the same function of the row after resampling, inside."""
    cells = -(-height // patch)
    centers = (torch.arange(cells, dtype=torch.float64) + 0.5) * patch
    x = (slope * centers)[None, None, :, None].expand(1, 1, cells, 3)
    resampled = to_stride(x, patch, 16, (height, 3 * patch))[0, 0, :, 0]
    rows = (torch.arange(len(resampled), dtype=torch.float64) + 0.5) * 16
    inside = (rows >= centers[0]) & (rows <= centers[-1])
    torch.testing.assert_close(resampled[inside], slope * rows[inside])
    assert len(resampled) == -(-height // 16)


def test_rescaling_is_transposed_convolutions_or_pooling() -> None:
    x = torch.randn(2, 16, 3, 5)
    doubled = Rescale(16, 2)
    first, norm, _, second = doubled
    y = F.conv_transpose2d(x, first.weight, first.bias, stride=2)
    y = F.layer_norm(y.permute(0, 2, 3, 1), (8,), norm.weight, norm.bias).permute(0, 3, 1, 2)
    y = F.conv_transpose2d(F.gelu(y), second.weight, second.bias, stride=2)
    torch.testing.assert_close(doubled(x), y)
    assert doubled.out_channels == y.shape[1] == 4
    assert torch.equal(Rescale(16, 0)(x), x)
    assert torch.equal(Rescale(16, -1)(x), F.max_pool2d(x, 2, ceil_mode=True))


def test_semantic_layers_feed_the_next_block() -> None:
    """Also a raw one starts as the identity; a trained one changes its own tap and those after it."""
    images = torch.randn(1, 3, 64, 48)
    model = backbone(semantic={"num_blocks": 1})
    plain = backbone()
    plain.load_state_dict(model.state_dict(), strict=False)
    for layer in model.semantic_layers:
        layer.class_injection[0].gamma.data.zero_()
    for (tap, semantics), (reference, _) in zip(model.taps(images), plain.taps(images), strict=True):
        torch.testing.assert_close(tap, reference)
        assert semantics.shape == (1, 4, 3, CLASSES)
    model.semantic_layers[1].class_injection[0].gamma.data.fill_(1.0)
    changed = [
        not torch.allclose(tap, reference)
        for (tap, _), (reference, _) in zip(model.taps(images), plain.taps(images), strict=True)
    ]
    assert changed == [False, True, True, True]


@pytest.mark.parametrize("freeze_at", [0, 1, 3, 5])
def test_freezing_counts_the_stem_and_four_stages(freeze_at: int) -> None:
    model = backbone(semantic={"num_blocks": 1}, freeze_at=freeze_at)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    stem = {"body.cls_token", "body.pos_embed", "body.patch_embed.proj.weight", "body.patch_embed.proj.bias"}
    blocks = {int(name.split(".")[2]) for name in frozen if name.startswith("body.blocks.")}
    assert blocks == set(range(max(0, freeze_at - 1)))
    assert {name for name in frozen if not name.startswith("body.blocks.")} == (stem if freeze_at else set())
    sum(output.sum() for output in model.train()(torch.randn(1, 3, 32, 32)).values()).backward()
    without = {name for name, x in model.named_parameters() if x.requires_grad and x.grad is None}
    assert without == set()


def test_recomputation_changes_no_gradient() -> None:
    images = torch.randn(1, 3, 48, 32)

    def gradients(**arguments: Any) -> list[Tensor]:
        torch.manual_seed(0)
        model = backbone(semantic={"num_blocks": 1}, **arguments)
        sum(output.square().sum() for output in model(images).values()).backward()
        return [x.grad for x in model.parameters()]

    for a, b in zip(gradients(), gradients(checkpointing=["res2", "res4"]), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vit_tiny_patch16_225"}, "vit_tiny_patch16_224"),
        ({"name": "resnet18"}, "a plain ViT of timm that takes images of any size"),
        ({"name": "swin_tiny_patch4_window7_224"}, "a plain ViT of timm that takes images of any size"),
        ({"out_indices": [0, 1, 2, 4]}, "four increasing blocks from 0 to 3"),
        ({"out_indices": [1, 2, 3]}, "four increasing blocks from 0 to 3"),
        ({"out_indices": [1, 0, 2, 3]}, "four increasing blocks from 0 to 3"),
        ({"depth": 3}, "at least 4"),
        ({"patch_size": -1}, "at least 1, or 0"),
        ({"num_heads": 5}, "a plain ViT of timm"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        backbone(**arguments)
