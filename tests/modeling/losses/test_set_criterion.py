"""Set criterion against a plain one with explicit masks and loops over layers, images, queries and targets."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from semask_d2.config import with_defaults
from semask_d2.modeling.layers.points import sample_class_masks, sample_points
from semask_d2.modeling.losses import mask_losses, set_criterion
from semask_d2.modeling.losses.mask_losses import DenseMaskLoss, PointMaskLoss, dice, pairwise_dice
from semask_d2.modeling.losses.set_criterion import SetCriterion
from semask_d2.modeling.losses.targets import SemanticTargets, build_targets
from semask_d2.modeling.transformer_decoders import MaskPredictions
from semask_d2.utils.arguments import ArgumentError

CLASSES, LAYERS, QUERIES, CHANNELS = 6, 3, 4, 5
WEIGHTS = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 3.0, "no_object_weight": 0.1}
POINTS = {"num_points": 40, "oversample_ratio": 3.0, "importance_sample_ratio": 0.75}


def make_criterion(**kwargs) -> SetCriterion:
    return with_defaults(SetCriterion, mask_loss=PointMaskLoss(**POINTS), num_classes=CLASSES, **WEIGHTS, **kwargs)


def make_predictions(batch: int, scale: float = 1.0) -> MaskPredictions:
    return MaskPredictions(
        (scale * torch.randn(LAYERS, batch, QUERIES, CLASSES + 1)).requires_grad_(),
        (scale * torch.randn(LAYERS, batch, QUERIES, CHANNELS)).requires_grad_(),
        (scale * torch.randn(batch, CHANNELS, 8, 10)).requires_grad_(),
    )


def make_targets(present: list[list[int]], ignored: float = 0.1) -> SemanticTargets:
    """Return tiled label maps of 32 x 40 with the given classes in each image."""
    maps = []
    for classes in present:
        ids = torch.tensor(classes or [255])
        tiles = torch.cat([torch.arange(len(ids)), torch.randint(0, len(ids), (20 - len(ids),))])
        labels = ids[tiles].view(4, 5).repeat_interleave(8, 0).repeat_interleave(8, 1)
        labels[torch.rand(labels.shape) < ignored] = 255
        maps.append(labels)
    names = [str(i) for i in range(len(maps))]
    return build_targets(maps, (32, 40), num_classes=CLASSES, ignore_label=255, device=torch.device("cpu"), names=names)


@pytest.fixture
def random_draws(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Record the results of `torch.rand` in order."""
    tensors: list[Tensor] = []
    rand = torch.rand

    def record(*args, **kwargs) -> Tensor:
        tensors.append(rand(*args, **kwargs))
        return tensors[-1]

    monkeypatch.setattr(torch, "rand", record)
    return tensors


def sample(plane: Tensor, points: Tensor) -> Tensor:
    """Sample one (h, w) plane bilinearly at points (P, 2)."""
    grid = (2 * points - 1)[None, None]
    return F.grid_sample(plane[None, None], grid, padding_mode="zeros", align_corners=False)[0, 0, 0]


def bce_term(logits: Tensor, target: Tensor) -> Tensor:
    p = logits.sigmoid()
    return -(target * p.log() + (1 - target) * (1 - p).log()).mean()


def dice_term(logits: Tensor, target: Tensor) -> Tensor:
    p = logits.sigmoid()
    return 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)


def plain_losses(
    predictions: MaskPredictions, targets: SemanticTargets, random_draws: list[Tensor]
) -> dict[str, Tensor]:
    """Compute the losses in float64 on the points of the criterion: for costs, then candidates and new points."""
    draws = iter(x.double() for x in random_draws)
    predictions = MaskPredictions(*(x.double() for x in predictions))
    layers, batch = predictions.class_logits.shape[:2]
    masks = [[(targets.labels[i] == c).double() for c in classes] for i, classes in enumerate(targets.classes)]
    logit_maps = [predictions.mask_logits(layer) for layer in range(layers)]

    matches: dict[tuple[int, int], dict[int, int]] = {}  # by (layer, image): query of each target
    for i in range(batch):
        points = next(draws)
        for layer in range(layers):
            cost = torch.zeros(QUERIES, len(masks[i]), dtype=torch.float64)
            for q in range(QUERIES):
                logits = sample(logit_maps[layer][i, q], points)
                probability = predictions.class_logits[layer, i, q].softmax(-1)
                for t, mask in enumerate(masks[i]):
                    target = sample(mask, points)
                    cost[q, t] = (
                        -WEIGHTS["class_weight"] * probability[targets.classes[i][t]]
                        + WEIGHTS["mask_weight"] * bce_term(logits, target)
                        + WEIGHTS["dice_weight"] * dice_term(logits, target)
                    )
            rows, columns = linear_sum_assignment(cost.detach().numpy())
            matches[layer, i] = dict(zip(columns.tolist(), rows.tolist(), strict=True))

    mask_losses, dice_losses = [0.0] * layers, [0.0] * layers
    for i in range(batch):
        if not masks[i]:
            continue
        candidates, fresh = next(draws), next(draws)
        assert fresh.shape[:2] == (layers, len(masks[i]))
        for layer in range(layers):
            for t, q in matches[layer, i].items():
                logit_map = logit_maps[layer][i, q]
                certainty = sample(logit_map.detach(), candidates[layer]).abs()
                order = sorted(range(len(certainty)), key=lambda p, c=certainty: c[p].item())
                points = torch.cat([candidates[layer][order[:30]], fresh[layer, t]])  # 30 = int(.75 x 40)
                assert len(points) == POINTS["num_points"]
                logits, target = sample(logit_map, points), sample(masks[i][t], points)
                mask_losses[layer] = mask_losses[layer] + bce_term(logits, target)
                dice_losses[layer] = dice_losses[layer] + dice_term(logits, target)
    assert not list(draws)

    count = max(1, sum(map(len, masks)))
    losses = {}
    for layer in range(layers):
        total, weights = 0.0, 0.0
        for i in range(batch):
            class_by_query = {q: targets.classes[i][t] for t, q in matches[layer, i].items()}
            for q in range(QUERIES):
                target_class = class_by_query.get(q, CLASSES)
                weight = WEIGHTS["no_object_weight"] if target_class == CLASSES else 1.0
                total = total - weight * predictions.class_logits[layer, i, q].log_softmax(-1)[target_class]
                weights += weight
        suffix = "" if layer == layers - 1 else f"_{layer}"
        losses[f"loss_ce{suffix}"] = WEIGHTS["class_weight"] * total / weights
        losses[f"loss_mask{suffix}"] = WEIGHTS["mask_weight"] * torch.as_tensor(mask_losses[layer]) / count
        losses[f"loss_dice{suffix}"] = WEIGHTS["dice_weight"] * torch.as_tensor(dice_losses[layer]) / count
    return losses


PRESENT = {
    "one image": [[1, 4]],
    "several images": [[0, 2, 5], [3], [1, 2, 3, 4]],
    "an image without labels": [[], [2, 3]],
    "more classes than queries": [[0, 1, 2, 3, 4, 5], [0, 5]],
    "no labels at all": [[], []],
}


@pytest.mark.parametrize("present", PRESENT.values(), ids=PRESENT.keys())
def test_equals_the_plain_criterion(present: list[list[int]], random_draws: list[Tensor]) -> None:
    predictions, targets = make_predictions(len(present)), make_targets(present)
    random_draws.clear()  # discard the draws of the targets
    actual = make_criterion()(predictions, targets)
    reference = plain_losses(predictions, targets, random_draws)
    assert actual.keys() == reference.keys()
    for name, loss in actual.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(reference[name].item(), rel=1e-4, abs=1e-6), name

    actual_gradients = torch.autograd.grad(sum(actual.values()), predictions)
    reference_gradients = torch.autograd.grad(sum(reference.values()), predictions, allow_unused=True)
    for a, b in zip(actual_gradients, reference_gradients, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, atol=1e-5, rtol=1e-3)


def test_without_deep_supervision_only_the_last_layer_counts(random_draws: list[Tensor]) -> None:
    predictions, targets = make_predictions(1), make_targets([[1, 2]])
    random_draws.clear()
    actual = make_criterion(deep_supervision=False)(predictions, targets)
    last = MaskPredictions(predictions.class_logits[-1:], predictions.mask_embed[-1:], predictions.mask_features)
    reference = plain_losses(last, targets, random_draws)
    assert actual.keys() == {"loss_ce", "loss_mask", "loss_dice"} == reference.keys()
    for name, loss in actual.items():
        assert loss.item() == pytest.approx(reference[name].item(), rel=1e-4), name


@pytest.mark.parametrize("present", [[[], []], [[], [1]]])
def test_ignored_images_give_finite_losses_and_gradients_for_all(present: list[list[int]]) -> None:
    predictions = make_predictions(2)
    losses = make_criterion()(predictions, make_targets(present))
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for tensor in predictions:
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
    assert not predictions.mask_embed.grad[:, 0].any()  # no target in the first image
    for i in range(LAYERS):  # mask losses of each layer are connected to the graph
        suffix = "" if i == LAYERS - 1 else f"_{i}"
        assert losses[f"loss_mask{suffix}"].requires_grad
        assert losses[f"loss_dice{suffix}"].requires_grad


@pytest.mark.parametrize("part", ["class_logits", "mask_embed", "mask_features"])
def test_nan_predictions_do_not_stop_matching(part: str) -> None:
    predictions = make_predictions(1)
    with torch.no_grad():
        getattr(predictions, part).view(-1)[::3] = float("nan")
    criterion, targets = make_criterion(), make_targets([[0, 1, 2]])
    (match,) = criterion.match(predictions, targets)
    assert match.shape == (LAYERS, 3)
    assert all(len(set(row)) == 3 for row in match.tolist())
    assert set(criterion(predictions, targets)) >= {"loss_ce", "loss_mask", "loss_dice"}


def test_half_precision_predictions_are_compared_in_fp32() -> None:
    predictions, targets = (
        MaskPredictions(*(x.detach().bfloat16() for x in make_predictions(2))),
        make_targets([[1], [2]]),
    )
    criterion = make_criterion()
    torch.manual_seed(3)
    expected = criterion(predictions.float(), targets)
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = criterion(predictions, targets)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name])


def test_mask_losses_are_divided_by_the_masks_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 3 masks here and 5 in a second process, the divisor is (3 + 5) / 2."""
    predictions, targets, criterion = make_predictions(1), make_targets([[0, 1, 2]]), make_criterion()
    torch.manual_seed(5)
    alone = criterion(predictions, targets)
    monkeypatch.setattr(set_criterion.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(5))
    torch.manual_seed(5)
    together = criterion(predictions, targets)
    for name, loss in together.items():
        divisor = 1 if name.startswith("loss_ce") else 4 / 3
        torch.testing.assert_close(loss, alone[name] / divisor)


def test_class_weights_are_those_of_the_weighted_cross_entropy() -> None:
    logits = torch.randn(1, 1, QUERIES, CLASSES + 1)
    weights = [1.0, 0.5, 4.0, 1.0, 0.0, 2.0]
    targets, matches = make_targets([[2, 5]]), [torch.tensor([[1, 3]])]
    loss = make_criterion(class_weights=weights).class_loss(logits, targets, matches)
    target_class = torch.tensor([CLASSES, 2, CLASSES, 5])
    expected = F.cross_entropy(logits[0, 0], target_class, torch.tensor([*weights, WEIGHTS["no_object_weight"]]))
    torch.testing.assert_close(loss, expected[None])


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2, 3, 4, 5, -6], ["auto", 1, 1, 1, 1, 1], [0] * 6, ["often"]])
def test_class_weights_that_are_refused(weights: list) -> None:
    with pytest.raises(ArgumentError, match=r"6 numbers of at least 0, one per class, or \[\"auto\"\]"):
        make_criterion(class_weights=weights)


def test_class_loss_is_a_weighted_mean() -> None:
    """One query is matched to class 2 and three are unmatched, with weights 1 and 3 times 0.1."""
    logits = torch.randn(1, 1, QUERIES, CLASSES + 1)
    loss = make_criterion().class_loss(logits, make_targets([[2]]), [torch.tensor([[1]])])
    minus_log = -logits[0, 0].log_softmax(-1)
    expected = (minus_log[1, 2] + 0.1 * minus_log[[0, 2, 3], CLASSES].sum()) / 1.3
    torch.testing.assert_close(loss, expected[None])


@pytest.mark.parametrize(
    ("weights", "present"),
    [((), [[], []]), ([1.0, 0, 1, 1, 1, 1], [[1], []])],
    ids=["no targets", "targets of a class without weight"],
)
def test_targets_of_weight_zero_give_no_class_loss(weights: list, present: list[list[int]]) -> None:
    predictions, targets = make_predictions(2), make_targets(present)
    criterion = make_criterion(class_weights=weights)
    criterion.empty_weight[-1] = 0  # MODEL.MASK_FORMER.NO_OBJECT_WEIGHT
    losses = criterion(predictions, targets)
    assert [value.item() for name, value in losses.items() if name.startswith("loss_ce")] == [0] * LAYERS
    sum(losses.values()).backward()
    assert not predictions.class_logits.grad.any()
    assert all(torch.isfinite(x.grad).all() for x in (predictions.mask_embed, predictions.mask_features))


def test_empty_weight_stays_out_of_checkpoints() -> None:
    assert not make_criterion().state_dict()


def test_dice() -> None:
    p, t = torch.rand(3, 7), torch.rand(3, 7)
    for i in range(3):
        expected = 1 - (2 * (p[i] * t[i]).sum() + 1) / (p[i].sum() + t[i].sum() + 1)
        torch.testing.assert_close(dice(p, t)[i], expected)
    assert dice(torch.zeros(4), torch.zeros(4)) == 0


@pytest.mark.parametrize(("ratio", "uncertain"), [(0.0, 0), (0.75, 15), (1.0, 20)])
def test_chosen_points_are_uncertain_or_new(ratio: float, uncertain: int) -> None:
    """Logits grow from left to right and cross zero in the middle, so uncertain points lie in the middle."""
    terms = PointMaskLoss(20, 3.0, ratio)
    logit_maps = torch.linspace(-1, 1, 40).expand(1, 2, 30, 40).clone()
    torch.manual_seed(1)
    (points,) = terms.choose_points(logit_maps)
    assert points.shape == (2, 20, 2)
    assert points.min() >= 0
    assert points.max() <= 1
    torch.manual_seed(1)
    candidates = torch.rand(60, 2)
    # except the outermost half pixel, which zero padding makes uncertain too
    inner = candidates[((candidates - 0.5).abs() < 0.5 - 1 / 60).all(1)]
    distance = (points[:, :uncertain, 0] - 0.5).abs()
    nearest = (inner[:, 0] - 0.5).abs().sort().values[:uncertain]
    for row in distance:
        torch.testing.assert_close(row.sort().values, nearest)


def test_points_are_new_every_time() -> None:
    terms = PointMaskLoss(20, 3.0, 0.75)
    (a,), (b,) = (terms.choose_points(torch.randn(1, 2, 5, 5)) for _ in range(2))
    assert not torch.equal(a[:, -5:], b[:, -5:])
    assert not torch.equal(a[0, -5:], a[1, -5:])  # each mask has different new points


@pytest.mark.parametrize("queries", [3, 10])  # fewer than the 5 channels, and more
def test_costs_in_parts_are_the_costs_at_once(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    embed, features = torch.randn(queries, 5), torch.randn(5, 8, 10)
    labels, classes = torch.randint(0, 4, (32, 40)), torch.tensor([0, 2, 3])
    torch.manual_seed(1)
    points = torch.rand(1, POINTS["num_points"], 2)
    logits = embed @ sample_points(features[None], points)[0]
    target = sample_class_masks(labels, points[0], classes)
    plain = F.softplus(-logits) @ target.T + F.softplus(logits) @ (1 - target).T
    arguments = (embed, features, labels, classes)
    results = [(plain / POINTS["num_points"], pairwise_dice(logits.sigmoid(), target))]
    for points in (1, 7, 12544):
        monkeypatch.setattr(mask_losses, "CPU_COST_POINTS", points)
        torch.manual_seed(1)
        results.append(PointMaskLoss(**POINTS).costs(*arguments))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_candidates_differ_between_layers() -> None:
    """With equal logits in all layers, the losses differ, and their sum varies as for independent draws."""
    embed, features = torch.randn(1, 2, 5).expand(8, 2, 5), torch.randn(5, 8, 10)
    points = PointMaskLoss(40, 3.0, 1.0).choose_points(torch.einsum("lmc,chw->lmhw", embed, features))
    for a, b in pairwise(points):
        assert not torch.equal(a.sort(1).values, b.sort(1).values)


def test_confident_correct_predictions_cost_less() -> None:
    """Embeddings of the true masks with the true classes lower the loss, which checks signs."""
    targets = make_targets([[0, 1, 2]], ignored=0)
    features = torch.zeros(1, CHANNELS, 32, 40)
    for c in range(3):
        features[0, c] = targets.labels[0] == c
    features[0, 3] = 1
    losses = []
    for scale in (0.0, 1.0, 3.0):
        embed = torch.zeros(1, 1, QUERIES, CHANNELS)
        logits = torch.zeros(1, 1, QUERIES, CLASSES + 1)
        logits[0, 0, 3, CLASSES] = 4 * scale
        embed[0, 0, 3, 3] = -scale
        for c in range(3):
            embed[0, 0, c, c], embed[0, 0, c, 3] = 2 * scale, -scale
            logits[0, 0, c, c] = 4 * scale
        losses.append(sum(make_criterion()(MaskPredictions(logits, embed, features), targets).values()).item())
    assert all(later < 0.8 * earlier for earlier, later in pairwise(losses))


def test_layers_with_features_of_their_own() -> None:
    """Equal maps for each layer give the losses of a shared one; otherwise each layer has the losses of its own map."""
    shared = make_predictions(2)
    layers = len(shared.class_logits)
    targets = make_targets([[0, 1, 3], [2]])
    criterion = with_defaults(SetCriterion, mask_loss=DenseMaskLoss(), num_classes=CLASSES, **WEIGHTS)
    expected = criterion(shared, targets)
    copies = shared._replace(mask_features=tuple(shared.mask_features.clone() for _ in range(layers)))
    for name, loss in criterion(copies, targets).items():
        torch.testing.assert_close(loss, expected[name])
    maps = tuple(torch.randn_like(shared.mask_features) for _ in range(layers))
    different = shared._replace(mask_features=maps)
    losses = criterion(different, targets)
    for i in range(layers):
        alone = MaskPredictions(shared.class_logits[i : i + 1], shared.mask_embed[i : i + 1], maps[i])
        for name, loss in criterion(alone, targets).items():
            suffix = "" if i == layers - 1 else f"_{i}"
            torch.testing.assert_close(losses[f"{name}{suffix}"], loss)
        torch.testing.assert_close(different.mask_logits(i), alone.mask_logits())
    assert torch.equal(different.mask_logits(), different.last().mask_logits())
    halves = different._replace(mask_features=tuple(x.half() for x in maps))
    assert {x.dtype for x in halves.float().maps} == {torch.float32}
