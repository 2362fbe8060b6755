"""Deformable pixel decoders against their formulas, and FaPN's shared norm."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2.d2 import ShapeSpec
from semask_d2.modeling.layers.deformable_attention import reference_points
from semask_d2.modeling.layers.position_encoding import sine_position_encoding
from semask_d2.modeling.pixel_decoders import build_pixel_decoder
from semask_d2.utils.arguments import ArgumentError
from semask_d2.utils.errors import UserError
from tests.helpers.tiny_model import randomize, tiny_cfg

CHANNELS = {"res2": 16, "res3": 32, "res4": 64, "res5": 128}
SHAPES = {name: ShapeSpec(channels=c, stride=c // 4) for name, c in CHANNELS.items()}
NAMES = ("MSDeformAttnPixelDecoder", "MSDeformAttnPixelFANDecoder")


def build(name: str = NAMES[0], **options: object) -> nn.Module:
    cfg = tiny_cfg(MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME=name, **options)
    return randomize(build_pixel_decoder(cfg, SHAPES))


def make_features(height: int = 64, width: int = 96) -> dict[str, Tensor]:
    return {
        name: torch.randn(2, shape.channels, -(-height // shape.stride), -(-width // shape.stride))
        for name, shape in SHAPES.items()
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(64, 96), (50, 33), (32, 32)])
def test_shapes_at_any_resolution_and_gradients_everywhere(name: str, size: tuple[int, int]) -> None:
    decoder, features = build(name), make_features(*size)
    output = decoder(features)
    h, w = features["res2"].shape[-2:]
    assert output.mask_features.shape == (2, 16, h, w)
    expected = [(2, 32, *features[name].shape[-2:]) for name in ("res5", "res4", "res3")]
    assert [tuple(m.shape) for m in output.multi_scale] == expected
    (output.mask_features.square().mean() + sum(m.sin().mean() for m in output.multi_scale)).backward()
    for parameter_name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.norm() > 0, parameter_name


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_formula(name: str) -> None:
    decoder = build(name, MODEL__SEM_SEG_HEAD__TRANSFORMER_ENC_LAYERS=2)
    features = make_features()
    with torch.no_grad():
        output = decoder(features)
        # encoder: tokens from low to high resolution; position and level are added to the queries only
        maps = [projection(features[key]) for projection, key in zip(decoder.input_proj, ("res5", "res4", "res3"))]  # noqa: B905
        assert [tuple(p[0].weight.shape) for p in decoder.input_proj] == [(32, c, 1, 1) for c in (128, 64, 32)]
        sizes = [tuple(m.shape[-2:]) for m in maps]
        tokens = torch.cat([m.flatten(2) for m in maps], 2).transpose(1, 2)
        position = []
        for level, (h, w) in enumerate(sizes):
            sine = sine_position_encoding(h, w, 32, torch.device("cpu"))
            position += [sine[:, i, j] + decoder.transformer.level_embed[level] for i in range(h) for j in range(w)]
        position = torch.stack(position)
        reference = reference_points(sizes, torch.device("cpu"))
        for layer in decoder.transformer.encoder.layers:
            attended = layer.self_attn(tokens + position, reference, tokens, sizes)
            tokens = layer.norm1(tokens + attended)
            hidden = (tokens @ layer.linear1.weight.T + layer.linear1.bias).clamp(min=0)
            assert hidden.shape[-1] == 1024
            tokens = layer.norm2(tokens + hidden @ layer.linear2.weight.T + layer.linear2.bias)
        start = 0
        for level_map, (h, w) in zip(output.multi_scale, sizes, strict=True):
            part = tokens[:, start : start + h * w].transpose(1, 2).unflatten(2, (h, w))
            torch.testing.assert_close(level_map, part, atol=1e-5, rtol=1e-4)
            start += h * w

        # one top-down step to stride 4
        lateral = decoder.adapter_1(features["res2"])
        y = lateral + F.interpolate(output.multi_scale[-1], size=lateral.shape[-2:], mode="bilinear")
        if name == NAMES[1]:
            y = decoder.align_1(lateral, y)
        y = decoder.layer_1(y)
        assert (y >= 0).all()
        expected = F.conv2d(y, decoder.mask_features.weight, decoder.mask_features.bias)
        torch.testing.assert_close(output.mask_features, expected, atol=1e-5, rtol=1e-4)


def test_alignment_shares_the_norm_of_its_layer() -> None:
    decoder = build(NAMES[1])
    assert decoder.align_1.offset.norm is decoder.layer_1.norm
    assert {"align_1.offset.norm.weight", "layer_1.norm.weight"} <= decoder.state_dict().keys()
    assert not hasattr(build(NAMES[0]), "align_1")


def test_the_layers_norm_wins_if_a_checkpoint_has_two_different_copies() -> None:
    decoder = build(NAMES[1])
    state = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    state["align_1.offset.norm.weight"] += 5
    for ordered in (state, dict(reversed(state.items()))):
        decoder.load_state_dict(ordered)
        assert torch.equal(decoder.layer_1.norm.weight, state["layer_1.norm.weight"])


def test_norms_have_no_bias_before_them() -> None:
    decoder = build(NAMES[1])
    assert decoder.adapter_1.bias is None
    assert decoder.layer_1.bias is None
    assert decoder.align_1.offset.bias is None
    assert decoder.input_proj[0][0].bias is not None
    assert decoder.mask_features.bias is not None


def test_an_unknown_decoder_names_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        build("MSDeformAttnPixelDecodr")
    assert "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME" in str(caught.value)
    assert 'Did you mean "MSDeformAttnPixelDecoder"?' in str(caught.value)


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_it_outputs_three_maps_for_any_number_of_encoder_levels(levels: int) -> None:
    """They are the three coarsest maps; if the encoder has fewer, top-down steps provide the rest."""
    names = ["res5", "res4", "res3", "res2"]
    decoder = build(
        MODEL__SEM_SEG_HEAD__DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES=names[:levels],
    )
    features = make_features()
    output = decoder(features)
    assert [m.shape[-2:] for m in output.multi_scale] == [features[name].shape[-2:] for name in names[:3]]
    encoded = decoder.transformer(
        [projection(features[name]) for projection, name in zip(decoder.input_proj, names[:levels], strict=True)]
    )
    y = encoded[-1]
    for k in range(len(decoder.fine_features), 0, -1):
        lateral = getattr(decoder, f"adapter_{k}")(features[decoder.fine_features[k - 1]])
        y = getattr(decoder, f"layer_{k}")(
            lateral + F.interpolate(y, lateral.shape[-2:], mode="bilinear", align_corners=False)
        )
        encoded.append(y)
    for actual, expected in zip(output.multi_scale, encoded[:3], strict=True):
        torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(output.mask_features, decoder.mask_features(y))


def test_too_few_levels_for_three_maps_are_refused() -> None:
    options = {
        "MODEL__SEM_SEG_HEAD__DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res5"],
        "MODEL__SEM_SEG_HEAD__COMMON_STRIDE": 16,
    }
    with pytest.raises(ArgumentError, match="features that make 3 maps"):
        build(**options)


def test_the_encoder_drops_out_in_training_only_where_deformable_detr_does() -> None:
    decoder = build(
        MODEL__MASK_FORMER__DROPOUT=0.5, MODEL__SEM_SEG_HEAD__DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES=["res5"]
    )
    features = make_features()
    torch.testing.assert_close(decoder.eval()(features).mask_features, decoder(features).mask_features)
    assert not torch.allclose(decoder.train()(features).mask_features, decoder(features).mask_features)

    class DropsAll(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(tuple(x.shape))
            return 0 * x

    seen: list[tuple[int, ...]] = []
    layer = decoder.transformer.encoder.layers[0]
    assert layer.dropout.p == 0.5
    layer.dropout = DropsAll()
    tokens = torch.randn(2, 20, 32)
    result = layer(tokens, torch.randn(20, 32), reference_points([(4, 5)], tokens.device), [(4, 5)])
    assert seen == [(2, 20, 32), (2, 20, 1024), (2, 20, 32)]  # attention, activation, second linear
    torch.testing.assert_close(result, layer.norm2(layer.norm1(tokens)))


def test_the_encoder_uses_nheads_as_published() -> None:
    unread = "MODEL__SEM_SEG_HEAD__DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS"
    for options in ({}, {unread: 4}):
        decoder = build(MODEL__MASK_FORMER__NHEADS=4, **options)
        assert decoder.transformer.encoder.layers[0].self_attn.num_heads == 4
    with pytest.raises(UserError, match=r"ENCODER_N_HEADS: 2 is not read.*set MODEL\.MASK_FORMER\.NHEADS"):
        build(**{unread: 2})
