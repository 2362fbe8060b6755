"""Mask2Former's decoder against a plain one that resizes full masks and uses torch's attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2.modeling.layers.position_encoding import sine_position_encoding
from semask_d2.modeling.transformer_decoders import (
    MaskPredictions,
    MultiScaleMaskedTransformerDecoder,
    build_transformer_decoder,
)
from semask_d2.modeling.transformer_decoders.mask2former import foreground
from semask_d2.utils.arguments import ArgumentError
from semask_d2.utils.errors import UserError
from tests.helpers.tiny_model import CLASSES, randomize, tiny_cfg


def build(**options: object) -> MultiScaleMaskedTransformerDecoder:
    return randomize(build_transformer_decoder(tiny_cfg(**options), 32).eval())


def make_maps(batch: int = 2) -> tuple[list[Tensor], Tensor]:
    maps = [torch.randn(batch, 32, *size) for size in ((2, 3), (4, 6), (8, 12))]
    return maps, torch.randn(batch, 16, 16, 24)


def torch_attention(result: nn.Module) -> nn.MultiheadAttention:
    reference = nn.MultiheadAttention(result.out_proj.in_features, result.num_heads, batch_first=True)
    reference.load_state_dict(result.state_dict())
    return reference


def plain_decoder(decoder: nn.Module, maps: list[Tensor], mask_features: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return class logits and masks of every prediction, computed with resized full masks as in the paper's code."""
    tokens, positions = [], []
    for level, feature in enumerate(maps):
        x = decoder.input_proj[level](feature)
        tokens.append(x.flatten(2).transpose(1, 2) + decoder.level_embed.weight[level])
        positions.append(sine_position_encoding(*x.shape[-2:], x.shape[1], x.device).flatten(1).T)
    classes, masks = [], []

    def predict(queries: Tensor) -> None:
        normed = decoder.decoder_norm(queries)
        classes.append(decoder.class_embed(normed))
        masks.append(torch.einsum("bqc,bchw->bqhw", decoder.mask_embed(normed), mask_features))

    queries = decoder.query_feat.weight.repeat(len(mask_features), 1, 1)
    where = decoder.query_embed.weight
    predict(queries)
    for i, (cross, self_attention, feed_forward) in enumerate(
        zip(
            decoder.transformer_cross_attention_layers,
            decoder.transformer_self_attention_layers,
            decoder.transformer_ffn_layers,
            strict=True,
        )
    ):
        level = i % 3
        resized = F.interpolate(masks[-1], size=maps[level].shape[-2:], mode="bilinear", align_corners=False)
        blocked = (resized.sigmoid() < 0.5).flatten(2)
        blocked = blocked & ~blocked.all(-1, keepdim=True)
        heads = cross.multihead_attn.num_heads
        attended = torch_attention(cross.multihead_attn)(
            queries + where,
            tokens[level] + positions[level],
            tokens[level],
            attn_mask=blocked.repeat_interleave(heads, 0),
            need_weights=False,
        )[0]
        queries = cross.norm(queries + attended)
        attended = torch_attention(self_attention.self_attn)(
            queries + where, queries + where, queries, need_weights=False
        )[0]
        queries = self_attention.norm(queries + attended)
        hidden = F.relu(feed_forward.linear1(queries))
        queries = feed_forward.norm(queries + feed_forward.linear2(hidden))
        predict(queries)
    return classes, masks


@pytest.mark.parametrize("enforce_input_proj", [False, True])
def test_equals_the_plain_decoder(enforce_input_proj: bool) -> None:
    decoder = build(MODEL__MASK_FORMER__ENFORCE_INPUT_PROJ=enforce_input_proj)
    assert isinstance(decoder.input_proj[0], nn.Conv2d if enforce_input_proj else nn.Identity)
    maps, mask_features = make_maps()
    with torch.no_grad():
        predictions = decoder(maps, mask_features)
        classes, masks = plain_decoder(decoder, maps, mask_features)
    assert len(classes) == len(predictions.class_logits) == 5  # DEC_LAYERS: four layers and the initial queries
    for i in range(5):
        torch.testing.assert_close(predictions.class_logits[i], classes[i], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(predictions.mask_logits(i), masks[i], atol=1e-4, rtol=1e-3)
    assert predictions.class_logits.shape[-1] == CLASSES + 1


def test_resizing_features_is_resizing_masks() -> None:
    """They agree up to rounding: where the signs differ, the mask logit is zero up to the last bits."""
    embed, features = torch.randn(2, 50, 16), torch.randn(2, 16, 40, 56)
    masks = torch.einsum("bqc,bchw->bqhw", embed, features)
    for size in ((10, 14), (20, 28), (5, 7), (13, 9)):
        guide = F.interpolate(features, size=size, mode="bilinear", align_corners=False)
        resized = F.interpolate(masks, size=size, mode="bilinear", align_corners=False).flatten(2)
        attend = foreground(embed, guide)
        expected = resized.sigmoid() >= 0.5
        expected = expected | ~expected.any(-1, keepdim=True)
        assert resized[attend != expected].abs().sum() < 1e-4
        assert 0.3 < attend.float().mean() < 0.7


def test_a_query_blocked_everywhere_attends_everywhere() -> None:
    features = torch.ones(1, 1, 2, 3)
    features[..., 0, 0] = -1
    attend = foreground(torch.tensor([[[1.0], [-1.0], [0.0]]]), features)
    assert attend[0].tolist() == [[False] + [True] * 5, [True] + [False] * 5, [True] * 6]
    assert foreground(torch.tensor([[[-1.0]]]), features.abs()).all()


def test_an_empty_mask_gives_the_same_as_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = build()
    maps, mask_features = make_maps()
    with torch.no_grad():
        for parameter in decoder.mask_embed.layers[-1].parameters():
            parameter.zero_()
        decoder.mask_embed.layers[-1].bias.fill_(-1)
        blocked = decoder(maps, mask_features.abs())  # every logit is negative
        decoder.mask_embed.layers[-1].bias.fill_(1)
        unmasked = decoder(maps, mask_features.abs())
    assert (blocked.mask_logits() < 0).all()
    torch.testing.assert_close(blocked.class_logits, unmasked.class_logits)


def test_no_gradient_through_the_attention_masks_but_everywhere_else() -> None:
    decoder = build()
    maps, mask_features = make_maps()
    for tensor in (*maps, mask_features):
        tensor.requires_grad_()
    predictions = decoder(maps, mask_features)
    predictions.class_logits.square().sum().backward()
    assert mask_features.grad is None  # classes reach them only through the attention masks
    assert all(parameter.grad is None for parameter in decoder.mask_embed.parameters())
    assert all(m.grad.norm() > 0 for m in maps)
    decoder(maps, mask_features).mask_logits().square().sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.norm() > 0, name


def test_predictions_compute_masks_on_demand() -> None:
    predictions = MaskPredictions(torch.randn(2, 1, 3, 4), torch.randn(2, 1, 3, 5), torch.randn(1, 5, 2, 2))
    for layer in (0, 1, -1):
        expected = (predictions.mask_embed[layer][0] @ predictions.mask_features[0].flatten(1)).view(1, 3, 2, 2)
        torch.testing.assert_close(predictions.mask_logits(layer), expected)
    assert all(x.dtype == torch.float32 for x in MaskPredictions(*(x.half() for x in predictions)).float())


def test_pre_norm_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"MODEL\.MASK_FORMER\.PRE_NORM"):
        build(MODEL__MASK_FORMER__PRE_NORM=True)


def test_an_unknown_decoder_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r'Did you mean "MultiScaleMaskedTransformerDecoder"\?'):
        build(MODEL__MASK_FORMER__TRANSFORMER_DECODER_NAME="MultiScaleMaskedTransformerDecode")


def test_this_decoder_has_no_dropout() -> None:
    decoder = build(MODEL__MASK_FORMER__DROPOUT=0.5)
    maps, mask_features = make_maps()
    expected = decoder(maps, mask_features)
    actual = decoder.train()(maps, mask_features)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
