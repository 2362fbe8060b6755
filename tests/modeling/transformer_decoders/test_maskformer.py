"""MaskFormer's decoder against torch's DETR-like layers, and the head that feeds it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from semask_d2.d2 import build_model
from semask_d2.modeling.layers.position_encoding import sine_position_encoding
from semask_d2.modeling.losses.mask_losses import DenseMaskLoss
from semask_d2.modeling.transformer_decoders import StandardTransformerDecoder, build_transformer_decoder
from semask_d2.utils.arguments import ArgumentError
from semask_d2.utils.errors import UserError
from tests.helpers.tiny_model import CLASSES, make_inputs, randomize, tiny_cfg

OPTIONS = {
    "MODEL__MASK_FORMER__TRANSFORMER_DECODER_NAME": "StandardTransformerDecoder",
    "MODEL__MASK_FORMER__TRANSFORMER_IN_FEATURE": "res5",
    "MODEL__MASK_FORMER__DEC_LAYERS": 3,
    "MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME": "BasePixelDecoder",
}


def build(channels: int = 48, **options: object) -> StandardTransformerDecoder:
    return randomize(build_transformer_decoder(tiny_cfg(**OPTIONS, **options), channels)).eval()


def torch_attention(actual: nn.Module) -> nn.MultiheadAttention:
    reference = nn.MultiheadAttention(actual.out_proj.in_features, actual.num_heads, batch_first=True)
    reference.load_state_dict(actual.state_dict())
    return reference


@pytest.mark.parametrize("channels", [48, 32])
def test_equals_the_plain_decoder(channels: int) -> None:
    decoder = build(channels)
    assert isinstance(decoder.input_proj, nn.Identity if channels == 32 else nn.Conv2d)
    feature, mask_features = torch.randn(2, channels, 3, 5), torch.randn(2, 16, 12, 20)
    with torch.no_grad():
        predictions = decoder([torch.randn(2, 7, 9, 9), feature], mask_features)  # only the last map is used
        x = decoder.input_proj(feature)
        tokens = x.flatten(2).transpose(1, 2)
        keys = tokens + sine_position_encoding(3, 5, 32, x.device).flatten(1).T
        where = decoder.query_embed.weight
        queries = torch.zeros(2, *where.shape)
        for i, layer in enumerate(decoder.transformer.decoder.layers):
            q = queries + where
            queries = layer.norm1(queries + torch_attention(layer.self_attn)(q, q, queries)[0])
            q = queries + where
            queries = layer.norm2(queries + torch_attention(layer.multihead_attn)(q, keys, tokens)[0])
            queries = layer.norm3(queries + layer.linear2(layer.linear1(queries).clamp(min=0)))
            normed = decoder.transformer.decoder.norm(queries)
            torch.testing.assert_close(predictions.class_logits[i], decoder.class_embed(normed), atol=1e-4, rtol=1e-3)
            masks = torch.einsum("bqc,bchw->bqhw", decoder.mask_embed(normed), mask_features)
            torch.testing.assert_close(predictions.mask_logits(i), masks, atol=1e-4, rtol=1e-3)
    assert predictions.class_logits.shape == (3, 2, 8, CLASSES + 1)


def test_encoder_layers_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"MODEL\.MASK_FORMER\.ENC_LAYERS"):
        build(MODEL__MASK_FORMER__ENC_LAYERS=2)


def test_the_whole_model_trains_on_dense_losses_and_reads_the_backbone() -> None:
    model = randomize(build_model(tiny_cfg(**OPTIONS)))
    assert isinstance(model.criterion.mask_loss, DenseMaskLoss)
    seen: list[Tensor] = []
    features = {}
    model.backbone.register_forward_hook(lambda module, args, out: features.update(out))
    model.sem_seg_head.predictor.register_forward_pre_hook(lambda module, args: seen.extend(args[0]))
    losses = model.train()(make_inputs((40, 64), (61, 33)))
    assert len(seen) == 1
    assert seen[0] is features["res5"]
    assert losses.keys() == {f"loss_{kind}{s}" for kind in ("ce", "mask", "dice") for s in ("", "_0", "_1")} | {
        "loss_cate"
    }
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_an_unknown_in_feature_lists_the_known_ones() -> None:
    with pytest.raises(UserError) as caught:
        build_model(tiny_cfg(**OPTIONS | {"MODEL__MASK_FORMER__TRANSFORMER_IN_FEATURE": "res6"}))
    for text in ("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "res6", "res5", "multi_scale_pixel_decoder"):
        assert text in str(caught.value)
