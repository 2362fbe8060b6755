"""Losses and costs of segments, as maps of ids and as overlapping masks, against the formula on full masks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from semask_d2.modeling.losses.mask_losses import DenseMaskLoss, PointMaskLoss

LAYERS, SEGMENTS, CHANNELS, POINTS = 2, 3, 4, 30
FORMS = ["map", "masks"]


def make_targets(form: str) -> tuple[Tensor, Tensor]:
    """Return the targets of an image of 10 x 12 pixels, and the same as masks (M, 10, 12)."""
    if form == "map":
        ids = torch.zeros(10, 12, dtype=torch.uint8)
        ids[:4, :7], ids[5:, :7], ids[2:9, 8:] = 1, 2, 3
        return ids, torch.stack([ids == i for i in (1, 2, 3)])
    masks = torch.zeros(SEGMENTS, 10, 12, dtype=torch.uint8)
    masks[0, :6, :8] = masks[1, 4:, 5:] = masks[2, 3:8, 2:11] = 1
    assert (masks.sum(0) > 1).any()
    return masks, masks.bool()


def make_predictions(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return embeddings (L, M, C) and features (C, 5, 6)."""
    generator = torch.Generator().manual_seed(4)
    shapes = ((LAYERS, SEGMENTS, CHANNELS), (CHANNELS, 5, 6))
    embed, features = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
    return embed.requires_grad_(), features.requires_grad_()


def at_points(maps: Tensor, points: Tensor) -> Tensor:
    """Sample maps (N, h, w) bilinearly at points (N, P, 2), one set for each map."""
    return F.grid_sample(maps[:, None], 2 * points[:, None] - 1, align_corners=False)[:, 0, 0]


def entropy_and_dice(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two loss terms of one mask from logits and targets (P,)."""
    p = logits.sigmoid()
    entropy = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    return entropy, 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Return the points (L, M, P, 2) of the losses; some lie on the edge of the image."""
    chosen = torch.rand(LAYERS, SEGMENTS, POINTS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    chosen[:, :, 0], chosen[:, :, 1, 0] = 0, 1
    monkeypatch.setattr(PointMaskLoss, "choose_points", lambda self, logit_maps: chosen)
    return chosen


@pytest.mark.parametrize("form", FORMS)
def test_point_losses_and_their_gradients_equal_the_formula(form: str, points: Tensor) -> None:
    labels, masks = make_targets(form)
    embed, features = make_predictions()
    actual = PointMaskLoss(POINTS, 3.0, 0.75).losses(embed, features, labels, torch.arange(1, SEGMENTS + 1))
    expected = torch.zeros(2, LAYERS, SEGMENTS, dtype=torch.float64)
    for layer in range(LAYERS):
        for m in range(SEGMENTS):
            mask_points = points[layer, m][None]
            logits = at_points((embed[layer, m, :, None, None] * features).sum(0)[None], mask_points)[0]
            expected[:, layer, m] = torch.stack(
                entropy_and_dice(logits, at_points(masks[m][None].double(), mask_points)[0])
            )
    assert_equal_with_gradients(actual, expected, embed, features)


@pytest.mark.parametrize("form", FORMS)
def test_point_losses_pass_gradcheck(form: str, points: Tensor) -> None:
    labels, _ = make_targets(form)
    loss = PointMaskLoss(POINTS, 3.0, 0.75)
    ids = torch.arange(1, SEGMENTS + 1)
    assert torch.autograd.gradcheck(lambda e, f: loss.losses(e, f, labels, ids), make_predictions())


@pytest.mark.parametrize("form", FORMS)
def test_dense_losses_and_their_gradients_equal_the_formula(form: str) -> None:
    labels, masks = make_targets(form)
    embed, features = make_predictions()
    actual = DenseMaskLoss().losses(embed, features, labels, torch.arange(1, SEGMENTS + 1))
    expected = torch.zeros(2, LAYERS, SEGMENTS, dtype=torch.float64)
    for layer in range(LAYERS):
        for m in range(SEGMENTS):
            logits = (embed[layer, m, :, None, None] * features).sum(0)
            p = F.interpolate(logits[None, None], (10, 12), mode="bilinear")[0, 0].sigmoid()
            right, alpha = torch.where(masks[m], p, 1 - p), torch.where(masks[m], 0.25, 0.75)
            focal = (-alpha * (1 - right) ** 2 * right.log()).mean()
            dice = 1 - (2 * p[masks[m]].sum() + 1) / (p.sum() + masks[m].sum() + 1)
            expected[:, layer, m] = torch.stack([focal, dice])
    assert_equal_with_gradients(actual, expected, embed, features)


def assert_equal_with_gradients(actual: tuple[Tensor, Tensor], expected: Tensor, *leaves: Tensor) -> None:
    result = torch.stack(actual)
    torch.testing.assert_close(result, expected)
    weights = torch.rand(expected.shape, dtype=torch.float64)
    gradients = [torch.autograd.grad((weights * x).sum(), leaves) for x in (result, expected)]
    torch.testing.assert_close(*gradients)
    assert all(x.abs().max() > 0 for x in gradients[0])


@pytest.mark.parametrize("form", FORMS)
def test_costs_equal_the_formula(form: str) -> None:
    labels, masks = make_targets(form)
    embed, features = (x.detach() for x in make_predictions(torch.float32))
    torch.manual_seed(7)
    where = torch.rand(POINTS, 2)
    torch.manual_seed(7)
    actual = PointMaskLoss(POINTS, 3.0, 0.75).costs(embed[0], features, labels, torch.arange(1, SEGMENTS + 1))
    for query in range(SEGMENTS):
        logits = at_points((embed[0, query, :, None, None] * features).sum(0)[None], where[None])[0]
        for m in range(SEGMENTS):
            terms = entropy_and_dice(logits, at_points(masks[m][None].float(), where[None])[0])
            for result, reference in zip(actual, terms, strict=True):
                torch.testing.assert_close(result[query, m], reference)
