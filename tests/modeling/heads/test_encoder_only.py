"""The encoder-only head against its plain formula: tokens, masks, annealing, gradients, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2 import build_model
from semask_d2.modeling.heads.encoder_only import EncoderOnlyMaskHead, annealed
from semask_d2.utils.errors import UserError
from tests.helpers.encoder_only import BLOCKS, QUERIES, VITS, eomt_cfg, eomt_model
from tests.helpers.tiny_model import make_inputs

SIZE = (64, 96)


def plain_layers(head: EncoderOnlyMaskHead, features: dict[str, Tensor], masked: list[bool]) -> list[tuple]:
    """Return class and mask logits before each block and after the last, with loops over images and queries.

    Queries are prefix tokens for timm's attention, which leaves these unrotated.
    """
    prefix, patches = features["prefix"][..., 0].transpose(1, 2), features["patches"].flatten(2).transpose(1, 2)
    queries = head.query_embed.weight.expand(len(prefix), -1, -1)
    tokens, count = torch.cat([prefix, queries, patches], 1), prefix.shape[1]
    grid = features["patches"].shape[2:]
    layers = []

    def predict() -> None:
        x = head.backbone.norm(tokens)
        q = x[:, count : count + QUERIES]
        maps = head.upscale(x[:, count + QUERIES :].transpose(1, 2).reshape(len(x), -1, *grid))
        layers.append((head.class_embed(q), torch.einsum("bqc,bchw->bqhw", head.mask_embed(q), maps)))

    for i, block in enumerate(head.backbone.blocks.values()):
        predict()
        mask = torch.ones(len(tokens), 1, tokens.shape[1], tokens.shape[1], dtype=torch.bool)
        if masked[i]:
            small = F.interpolate(layers[-1][1], size=grid, mode="bilinear", align_corners=False).flatten(2)
            for image in range(len(tokens)):
                for query in range(QUERIES):
                    mask[image, 0, count + query, count + QUERIES :] = small[image, query] > 0
        arguments: dict[str, Any] = {"attn_mask": mask}
        if "rope" in features:
            rope = features["rope"]
            arguments["rope"] = rope[i] if len(rope) > 1 else rope[0]
            block.attn.num_prefix_tokens = count + QUERIES
        tokens = block(tokens, **arguments)
        if "rope" in features:
            block.attn.num_prefix_tokens = count
    predict()
    return layers


def features_of(model: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return model.backbone(torch.randn(2, 3, *SIZE))


@torch.no_grad()
@pytest.mark.parametrize("name", VITS)
def test_every_layer_is_the_plain_formula(name: str) -> None:
    model = eomt_model(MODEL__VIT__NAME=name).train()
    head = model.sem_seg_head
    features = features_of(model)
    assert ("rope" in features) == ("rope" in name or "dinov3" in name)
    for probability in (0.0, 1.0):
        head.mask_probability.fill_(probability)
        predictions = head(features)
        expected = plain_layers(head, features, [bool(probability)] * BLOCKS)
        assert len(predictions.class_logits) == len(expected) == BLOCKS + 1
        for layer, (classes, masks) in enumerate(expected):
            torch.testing.assert_close(predictions.class_logits[layer], classes, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(predictions.mask_logits(layer), masks, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_masks_are_applied_in_the_blocks_that_have_them() -> None:
    model = eomt_model().eval()
    head, features = model.sem_seg_head, features_of(model)
    seen = []
    for probabilities in ((0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1), (0.4, 0.6, 0.5)):
        head.mask_probability.copy_(torch.tensor(probabilities))
        head.eval()
        masked = [probability >= 0.5 for probability in probabilities]
        predictions = head(features)
        assert len(predictions.class_logits) == len(predictions.maps) == 1
        classes, masks = plain_layers(head, features, masked)[-1]
        torch.testing.assert_close(predictions.class_logits[-1], classes, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(predictions.mask_logits(), masks, atol=1e-4, rtol=1e-4)
        seen.append(classes)
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(seen[:4]) for b in seen[:i])
    assert torch.equal(seen[4], seen[2])


def test_after_annealing_only_the_last_layer_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = eomt_model().eval()
    head, calls = model.sem_seg_head, []
    decode = EncoderOnlyMaskHead.decode
    monkeypatch.setattr(EncoderOnlyMaskHead, "decode", lambda *args: calls.append(1) or decode(*args))
    monkeypatch.setattr(EncoderOnlyMaskHead, "attention_mask", None)
    head.anneal(1.0)
    head(features_of(model))
    assert len(calls) == 1


@torch.no_grad()
def test_a_query_is_unmasked_with_the_complement_of_the_probability() -> None:
    head = eomt_model(MODEL__MASK_FORMER__NUM_OBJECT_QUERIES=2000).sem_seg_head.train()
    embed, features = torch.ones(1, 2000, 48), -torch.ones(1, 48, 8, 8)  # empty masks
    for probability in (0.0, 0.3, 1.0):
        head.mask_probability.fill_(probability)
        mask = head.attention_mask(embed, features, 0, 1, (2, 2))[0, 0]
        to_patches = mask[1:2001, 2001:]
        assert bool((to_patches.all(1) | ~to_patches.any(1)).all())
        assert abs(1 - to_patches[:, 0].float().mean() - probability) < 0.04
        others = mask.clone()
        others[1:2001, 2001:] = True
        assert bool(others.all())


def test_annealing_falls_block_after_block() -> None:
    """With three blocks the fractions are 1/5 to 2/5, 2/5 to 3/5 and 3/5 to 4/5."""
    assert annealed(3, 0.0) == annealed(3, 0.2) == [1, 1, 1]
    assert annealed(3, 0.3) == pytest.approx([0.5**0.9, 1, 1])
    assert annealed(3, 0.5) == pytest.approx([0, 0.5**0.9, 1])
    assert annealed(3, 0.75) == pytest.approx([0, 0, 0.25**0.9])
    assert annealed(3, 0.8) == pytest.approx([0, 0, 0], abs=1e-12)
    assert annealed(3, 1.0) == [0, 0, 0]
    assert annealed(1, 0.5) == pytest.approx([0.5**0.9])
    head = eomt_model().sem_seg_head
    head.anneal(0.5)
    torch.testing.assert_close(head.mask_probability, torch.tensor(annealed(3, 0.5)))
    assert "mask_probability" in head.state_dict()
    assert head.masked_blocks == [False, True, True]


@pytest.mark.parametrize("semantic", [0, 1])
@pytest.mark.parametrize("name", VITS)
def test_every_trainable_parameter_gets_a_gradient(name: str, semantic: int) -> None:
    model = eomt_model(MODEL__VIT__NAME=name, MODEL__VIT__NUM_SEM_BLOCKS=semantic).train()
    losses = model(make_inputs((64, 64), (48, 80)))
    assert ("loss_cate" in losses) == bool(semantic)
    assert {f"loss_mask_{i}" for i in range(BLOCKS)} | {"loss_mask", "loss_ce", "loss_dice"} <= losses.keys()
    sum(losses.values()).backward()
    without = [name for name, x in model.named_parameters() if x.requires_grad and x.grad is None]
    assert without == []


def test_three_steps_lower_the_loss() -> None:
    torch.manual_seed(0)
    model = build_model(eomt_cfg()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    inputs = make_inputs((64, 64), (64, 64))
    totals = []
    for _ in range(4):
        torch.manual_seed(3)  # the same points
        total = sum(model(inputs).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals == sorted(totals, reverse=True)


def test_the_head_has_the_last_blocks_under_their_numbers() -> None:
    model = eomt_model()
    assert [*model.sem_seg_head.backbone.blocks] == ["4", "5", "6"]
    assert len(model.backbone.body.blocks) == 4
    assert not model.backbone.norms
    assert not model.backbone.pyramid
    assert model.size_divisibility == 16
    assert model.backbone.output_shape().keys() == {"patches", "prefix"}
    shapes = eomt_model(MODEL__VIT__NUM_SEM_BLOCKS=1).backbone.output_shape()
    assert shapes.keys() == {"patches", "prefix", *(f"sem{i}" for i in range(2, 6))}


@pytest.mark.parametrize("patch", [8, 14, 32])
def test_masks_cover_the_padded_image_at_any_patch_size(patch: int) -> None:
    """Patches of 14 pixels give cells of 3.5 pixels."""
    model = eomt_model(MODEL__VIT__PATCH_SIZE=patch, MODEL__VIT__IMG_SIZE=8 * patch).eval()
    logits = model.logits(torch.randint(0, 256, (1, 3, 50, 70), dtype=torch.uint8)).mask_logits
    scale = {8: 2, 14: 4, 32: 8}[patch]
    assert logits.shape[2:] == (scale * -(-50 // patch), scale * -(-70 // patch))
    (labels,) = model.predict_labels([{"image": torch.zeros(3, 50, 70, dtype=torch.uint8), "height": 99, "width": 41}])
    assert labels.shape == (99, 41)


def test_a_vit_without_prefix_tokens() -> None:
    model = eomt_model(MODEL__VIT__NAME="vit_base_patch16_siglip_224").train()
    assert model.backbone(torch.zeros(1, 3, 32, 32))["prefix"].shape == (1, 48, 0, 1)
    assert all(loss.isfinite() for loss in model(make_inputs((32, 48))).values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"MODEL__VIT__JOINT_BLOCKS": 0}, r"MODEL\.VIT\.JOINT_BLOCKS to at least 1"),
        ({"MODEL__BACKBONE__NAME": "D2SeMaskSwinTransformer"}, r"MODEL\.BACKBONE\.NAME to SeMaskViT"),
        ({"MODEL__VIT__JOINT_BLOCKS": 4}, "JOINT_BLOCKS: expected from 0 to 3, because at least four"),
        ({"MODEL__VIT__JOINT_BLOCKS": -1}, "JOINT_BLOCKS: expected from 0 to 3"),
        ({"MODEL__VIT__OUT_INDICES": "[0, 1, 2]"}, "four increasing blocks from 0 to 3"),
        (
            {"MODEL__VIT__DEPTH": 8, "MODEL__VIT__OUT_INDICES": "[0, 1, 2, 3]"},
            "expected 4, the last block before JOINT",
        ),
        ({"MODEL__MASK_FORMER__SIZE_DIVISIBILITY": 24}, "expected a multiple of the patch size 16, or 0 .*got 24"),
        ({"MODEL__MASK_FORMER__NUM_OBJECT_QUERIES": 0}, "NUM_OBJECT_QUERIES: expected at least 1"),
        ({"MODEL__VIT__NORM_EPS": -1.0}, "NORM_EPS: expected at least 0"),
        (
            {"MODEL__SEM_SEG_HEAD__NAME": "SeMaskFPNHead", "MODEL__SEM_SEG_HEAD__IN_FEATURES": "['res2', 'res3']"},
            r"JOINT_BLOCKS: expected 0 for the features \['res2', 'res3'\] of SeMaskFPNHead, got 3",
        ),
    ],
)
def test_impossible_configs_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(eomt_cfg(**options))
