"""Complete mask model: from images of different sizes to losses, or scores of the requested sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2.d2 import build_model
from semask_d2.modeling.layers.semantic_decoder import decode_semantic_prior
from semask_d2.modeling.losses.cross_entropy import pixel_loss
from semask_d2.utils.errors import UserError
from tests.helpers.tiny_model import CLASSES, backbone_features, make_inputs, randomize, tiny_cfg

LAYERS = 5
LOSSES = {f"loss_{kind}{suffix}" for kind in ("ce", "mask", "dice") for suffix in ("", "_0", "_1", "_2", "_3")}


def build(**options: object) -> nn.Module:
    torch.manual_seed(0)
    return build_model(tiny_cfg(**options))


def image_sizes(inputs: list[dict]) -> list[tuple[int, int]]:
    return [tuple(x["image"].shape[-2:]) for x in inputs]


@pytest.mark.parametrize("decoder", ["MSDeformAttnPixelDecoder", "MSDeformAttnPixelFANDecoder"])
def test_training_on_images_of_different_sizes(decoder: str) -> None:
    model = randomize(build(MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME=decoder)).train()
    losses = model(make_inputs((40, 64), (61, 33)))
    assert losses.keys() == LOSSES | {"loss_cate"}
    assert all(loss.ndim == 0 and loss.isfinite() and loss >= 0 for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_the_prior_loss_is_weighted_and_uses_padded_labels() -> None:
    model = build(MODEL__MASK_FORMER__CATE_WEIGHT=0.7).eval()
    inputs = make_inputs((40, 64), (61, 33))
    features = {}
    model.backbone.register_forward_hook(lambda module, args, out: features.update(out))
    with torch.no_grad():
        loss = model.train()(inputs)["loss_cate"]
        labels = torch.full((2, 64, 64), 255)
        for row, x in zip(labels, inputs, strict=True):
            height, width = x["sem_seg"].shape
            row[:height, :width] = x["sem_seg"]
        expected = 0.7 * pixel_loss(
            decode_semantic_prior(features, align_corners=True), labels, 255, align_corners=True
        )
    torch.testing.assert_close(loss, expected)


def test_a_prior_loss_per_stage_is_a_mean_and_trains_each_map() -> None:
    model = build(MODEL__MASK_FORMER__CATE_WEIGHT=0.7, MODEL__MASK_FORMER__SEM_LOSS_PER_STAGE=True).train()
    inputs = make_inputs((64, 64), (64, 64))
    features = {}
    model.backbone.register_forward_hook(lambda module, args, out: features.update(out))
    loss = model(inputs)["loss_cate"]
    labels = torch.stack([x["sem_seg"] for x in inputs]).long()
    resized = [
        F.interpolate(features[f"sem{i}"], (64, 64), mode="bilinear", align_corners=True).permute(0, 2, 3, 1)
        for i in range(2, 6)
    ]
    expected = 0.7 * sum(F.cross_entropy(x[labels != 255], labels[labels != 255]) for x in resized) / 4
    torch.testing.assert_close(loss, expected)
    loss.backward()
    for layer in model.backbone.layers:
        assert layer.semantic_layer.class_injection[-1].mlp_cls_q.weight.grad.norm() > 0


@pytest.mark.parametrize("ignored", [[0], [0, 1]])
def test_images_with_ignored_pixels_only(ignored: list[int]) -> None:
    model = build().train()
    inputs = make_inputs((40, 64), (64, 32))
    for i in ignored:
        inputs[i]["sem_seg"].fill_(255)
    losses = model(inputs)
    assert all(loss.isfinite() for loss in losses.values())
    if len(ignored) == 2:
        assert losses["loss_cate"] == losses["loss_mask"] == losses["loss_dice_1"] == 0
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_without_semantic_blocks_there_is_no_prior_loss() -> None:
    model = build(MODEL__SWIN__NUM_SEM_BLOCKS=0)
    assert model.train()(make_inputs((32, 64))).keys() == LOSSES
    with torch.no_grad():
        assert model.eval()(make_inputs((32, 64)))[0]["sem_seg"].shape == (CLASSES, 32, 64)


def test_without_deep_supervision() -> None:
    losses = build(MODEL__MASK_FORMER__DEEP_SUPERVISION=False).train()(make_inputs((32, 64)))
    assert losses.keys() == {"loss_ce", "loss_mask", "loss_dice", "loss_cate"}


def test_a_label_out_of_range_names_the_file() -> None:
    model, inputs = build().train(), make_inputs((32, 32), (32, 32))
    inputs[1]["sem_seg"][0, 0] = CLASSES
    with pytest.raises(UserError, match="image 1 of the batch"):
        model(inputs)
    inputs[1]["file_name"] = "some/photo.jpg"
    with pytest.raises(UserError, match=r"some/photo\.jpg"):
        model(inputs)


def test_losses_fall_on_one_batch() -> None:
    model, inputs = build().train(), make_inputs((48, 48))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    totals = []
    for _ in range(25):
        loss = sum(model(inputs).values())
        totals.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sum(totals[-3:]) < 0.6 * sum(totals[:3])


def plain_scores(model: nn.Module, inputs: list[dict], resize_masks_first: bool) -> list[Tensor]:
    """Compute scores by the formula, query by query, on a manually padded batch."""
    height = max(h for h, _ in image_sizes(inputs))
    width = max(w for _, w in image_sizes(inputs))
    batch = torch.zeros(len(inputs), 3, -(-height // 32) * 32, -(-width // 32) * 32)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    for row, x in zip(batch, inputs, strict=True):
        h, w = x["image"].shape[-2:]
        row[:, :h, :w] = (x["image"] - mean[:, None, None]) / std[:, None, None]
    predictions = model.sem_seg_head(model.backbone(batch))
    masks = F.interpolate(predictions.mask_logits(-1), size=batch.shape[-2:], mode="bilinear")
    scores = []
    for i, x in enumerate(inputs):
        h, w = x["image"].shape[-2:]
        size = (x.get("height", h), x.get("width", w))
        logits = masks[i]
        if resize_masks_first:
            logits = F.interpolate(logits[None, :, :h, :w], size=size, mode="bilinear")[0]
        total = torch.zeros(CLASSES, *logits.shape[-2:])
        for query, mask in zip(predictions.class_logits[-1, i], logits, strict=True):
            total += query.softmax(0)[:-1, None, None] * mask.sigmoid()
        if not resize_masks_first:
            total = F.interpolate(total[None, :, :h, :w], size=size, mode="bilinear")[0]
        scores.append(total)
    return scores


@pytest.mark.parametrize("resize_masks_first", [False, True])
def test_scores_equal_the_formula(resize_masks_first: bool) -> None:
    model = build(MODEL__MASK_FORMER__TEST__SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE=resize_masks_first)
    randomize(model).eval()
    inputs = make_inputs((40, 64), (61, 33), labels=False)
    inputs[0] |= {"height": 80, "width": 100}
    inputs[1] |= {"height": 30, "width": 16}
    inputs.append({"image": inputs[0]["image"][:, :33, :50].clone()})  # without a requested size, the size of the image
    with torch.no_grad():
        outputs = model(inputs)
        expected = plain_scores(model, inputs, resize_masks_first)
    assert [tuple(x["sem_seg"].shape[1:]) for x in outputs] == [(80, 100), (30, 16), (33, 50)]
    for output, scores in zip(outputs, expected, strict=True):
        assert output.keys() == {"sem_seg"}
        torch.testing.assert_close(output["sem_seg"], scores, atol=1e-4, rtol=1e-3)


def test_the_two_orders_of_postprocessing_differ() -> None:
    inputs = make_inputs((40, 64), labels=False)
    inputs[0] |= {"height": 20, "width": 32}
    scores = []
    for first in (False, True):
        model = build(MODEL__MASK_FORMER__TEST__SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE=first)
        torch.manual_seed(1)
        with torch.no_grad():
            scores.append(randomize(model).eval()(inputs)[0]["sem_seg"])
    assert not torch.allclose(*scores, atol=1e-4)


def test_padding_follows_the_config() -> None:
    for target, padded in ((32, 64), (48, 48), (-1, 64)):
        model = build(MODEL__MASK_FORMER__SIZE_DIVISIBILITY=target).eval()
        seen = []
        model.backbone.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].shape[-2:]))
        with torch.no_grad():
            model(make_inputs((40, 40), labels=False))
        assert seen == [(padded, padded)]


def test_state_dict_holds_parameters_and_window_indices_only() -> None:
    model = build()
    extra = model.state_dict().keys() - dict(model.named_parameters(remove_duplicate=False)).keys()
    assert all(name.endswith("relative_position_index") for name in extra)


def test_a_callers_autocast_changes_no_label_of_the_same_predictions() -> None:
    model = randomize(build()).eval()
    inputs = make_inputs((64, 64), labels=False)
    with torch.no_grad():
        predictions = model.sem_seg_head(backbone_features(model, inputs))
        model.sem_seg_head.forward = lambda _: predictions
        (expected,) = model.predict_labels(inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (result,) = model.predict(inputs, scores=True)
            (labels,) = model.predict_labels(inputs)
    assert torch.equal(labels, expected)
    assert torch.equal(result.labels, expected)
    assert result.scores.dtype == torch.float32
