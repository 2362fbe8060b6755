"""Segments as targets: maps of ids and masks give the loss of the plain formula, and models train on them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from semask_d2.config import with_defaults
from semask_d2.d2 import build_model
from semask_d2.modeling.layers.points import sample_class_masks, sample_points
from semask_d2.modeling.losses.mask_losses import DenseMaskLoss, PointMaskLoss
from semask_d2.modeling.losses.set_criterion import SetCriterion
from semask_d2.modeling.losses.targets import Segments, Targets, build_segment_targets, build_targets
from semask_d2.modeling.transformer_decoders import MaskPredictions
from semask_d2.utils.errors import UserError
from tests.helpers.tiny_model import CLASSES, make_inputs, tiny_cfg

NAMES = ["a.jpg", "b.jpg"]


def make_segments(as_masks: bool) -> list[Segments]:
    """Return two images of different sizes: one with three segments, two of the same class, and one without."""
    ids = torch.zeros(24, 32, dtype=torch.uint8)
    ids[:10, :12], ids[12:, :12], ids[4:20, 14:30] = 1, 2, 3
    masks = torch.stack([ids == i for i in (1, 2, 3)]).to(torch.uint8) if as_masks else ids
    empty = torch.zeros(16, 20, dtype=torch.uint8)
    return [Segments(masks, torch.tensor([4, 4, 1])), Segments(empty, torch.zeros(0, dtype=torch.int64))]


def make_targets(segments: list[Segments]) -> Targets:
    maps = [torch.full((24, 32), 255, dtype=torch.uint8), torch.full((16, 20), 255, dtype=torch.uint8)]
    arguments = {"num_classes": CLASSES, "names": NAMES}
    semantic = build_targets(maps, (32, 40), ignore_label=255, device=torch.device("cpu"), **arguments)
    return build_segment_targets(segments, semantic, **arguments)


def make_predictions() -> MaskPredictions:
    generator = torch.Generator().manual_seed(3)
    shapes = ((2, 2, 5, CLASSES + 1), (2, 2, 5, 8), (2, 8, 8, 10))
    return MaskPredictions(*(torch.randn(shape, generator=generator) for shape in shapes))


def make_criterion(mask_loss: PointMaskLoss | DenseMaskLoss) -> SetCriterion:
    weights = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0, "no_object_weight": 0.1}
    return with_defaults(SetCriterion, mask_loss=mask_loss, num_classes=CLASSES, **weights)


@pytest.mark.parametrize("mask_loss", [PointMaskLoss(64, 3.0, 0.75), DenseMaskLoss()], ids=["points", "dense"])
def test_maps_and_masks_give_the_same_losses(mask_loss: PointMaskLoss | DenseMaskLoss) -> None:
    criterion, losses = make_criterion(mask_loss), []
    for as_masks in (False, True):
        torch.manual_seed(1)
        losses.append(criterion(make_predictions(), make_targets(make_segments(as_masks))))
    assert losses[0].keys() == losses[1].keys()
    for name, loss in losses[0].items():
        torch.testing.assert_close(loss, losses[1][name])
        assert loss.isfinite()
    assert losses[0]["loss_mask"] > 0


@pytest.mark.parametrize("as_masks", [False, True])
def test_class_loss_and_matching_equal_the_plain_formula(as_masks: bool) -> None:
    """With uniform points, the mean of the mask loss over many draws is its mean over the plane."""
    criterion, predictions = make_criterion(DenseMaskLoss()), make_predictions()
    targets = make_targets(make_segments(as_masks))
    matches = criterion.match(predictions, targets)
    assert [tuple(match.shape) for match in matches] == [(2, 3), (2, 0)]
    target = torch.full((2, 2, 5), CLASSES)
    for layer in range(2):
        for segment, query in enumerate(matches[0][layer].tolist()):
            target[layer, 0, query] = [4, 4, 1][segment]
    weight = torch.ones(CLASSES + 1)
    weight[-1] = 0.1
    for layer, suffix in ((0, "_0"), (1, "")):
        logits, ids = predictions.class_logits[layer].flatten(0, 1), target[layer].flatten()
        expected = 2 * torch.nn.functional.cross_entropy(logits, ids, weight=weight)
        torch.testing.assert_close(criterion(predictions, targets)[f"loss_ce{suffix}"], expected)


def test_two_segments_of_one_class_have_two_queries() -> None:
    """Each segment is matched to the query whose logits show it."""
    (first, _) = make_segments(True)
    embed = torch.zeros(1, 1, 5, 8)
    embed[0, 0, [3, 0, 2], [0, 1, 2]] = 1
    features = torch.full((1, 8, 32, 40), -9.0)
    features[0, :3, :24, :32][first.masks.bool()] = 9
    predictions = MaskPredictions(torch.zeros(1, 1, 5, CLASSES + 1), embed, features)
    targets = make_targets(make_segments(False))
    targets = targets._replace(
        labels=targets.labels[:1],
        masks=targets.masks[:1],
        class_ids=targets.class_ids[:1],
        segment_ids=targets.segment_ids[:1],
    )
    (match,) = make_criterion(PointMaskLoss(512, 3.0, 0.75)).match(predictions, targets)
    assert match.tolist() == [[3, 0, 2]]


def plain_samples(masks: Tensor, points: Tensor) -> Tensor:
    return torch.stack([sample_points(m[None, None].float(), points[None])[0, 0] for m in masks])


def test_samples_of_masks_that_overlap() -> None:
    masks = (torch.rand(3, 9, 7) < 0.6).to(torch.uint8)
    points = torch.rand(40, 2)
    torch.testing.assert_close(sample_class_masks(masks, points, torch.arange(3)), plain_samples(masks, points))
    mask_points = torch.rand(2, 3, 40, 2)
    samples = sample_class_masks(masks, mask_points, torch.arange(3))
    for layer in range(2):
        for m in range(3):
            expected = plain_samples(masks[m : m + 1], mask_points[layer, m])[0]
            torch.testing.assert_close(samples[layer, m], expected)


def test_an_unknown_class_is_named() -> None:
    segments = make_segments(False)
    segments[0] = segments[0]._replace(classes=torch.tensor([4, CLASSES, 1]))
    with pytest.raises(UserError, match=rf"segments of a\.jpg: classes \[{CLASSES}\] are outside"):
        make_targets(segments)


@pytest.mark.parametrize("as_masks", [False, True])
def test_a_model_trains_on_segments(as_masks: bool) -> None:
    torch.manual_seed(0)
    model = build_model(tiny_cfg()).train()
    inputs = make_inputs((24, 32), (16, 20))
    for x, segments in zip(inputs, make_segments(as_masks), strict=True):
        x["segments"] = segments
    losses = model(inputs)
    assert "loss_cate" in losses
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
