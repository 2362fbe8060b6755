"""Panoptic maps and instances against plain formulas on full masks, and from models in Detectron2's format."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semask_d2.d2 import MetadataCatalog, build_model
from semask_d2.modeling.meta_arch import score_maps, with_sliding
from semask_d2.modeling.meta_arch.score_maps import QueryMasks
from semask_d2.modeling.meta_arch.segments import boxes_around, instance_segmentation, panoptic_segmentation
from semask_d2.utils.errors import UserError
from tests.helpers.tiny_model import CLASSES, make_inputs, randomize, tiny_cfg

THINGS = {0, 2, 3}
SEEDS = range(14)


def make_queries(seed: int, *, count: int = 9, size: tuple[int, int] = (40, 52)) -> QueryMasks:
    """Return smooth, overlapping random masks, with repeated classes and some "no object"."""
    generator = torch.Generator().manual_seed(seed)
    classes = 3 * torch.randn(count, CLASSES + 1, generator=generator)
    masks = F.interpolate(torch.randn(1, count, 4, 4, generator=generator), (16, 16), mode="bicubic")[0] * 6
    return QueryMasks(classes, masks, (64, 64), (48, 60), size)


def whole_masks(queries: QueryMasks) -> Tensor:
    """Return all mask logits at the output size."""
    masks = F.interpolate(queries.mask_logits[None], queries.padded_size, mode="bilinear", align_corners=False)
    masks = masks[..., : queries.image_size[0], : queries.image_size[1]]
    return F.interpolate(masks, queries.output_size, mode="bilinear", align_corners=False)[0]


def plain_panoptic(queries: QueryMasks, object_threshold: float, overlap: float) -> tuple[Tensor, list[tuple]]:
    """Apply the rule of the paper, query by query."""
    scores, classes = queries.class_logits.softmax(-1).max(-1)
    masks = whole_masks(queries).sigmoid()
    kept = [q for q in range(len(scores)) if classes[q] != CLASSES and scores[q] > object_threshold]
    result = torch.zeros(queries.output_size, dtype=torch.int32)
    segments: list[tuple] = []
    stuff: dict[int, int] = {}
    if not kept:
        return result, segments
    winner = torch.stack([scores[q] * masks[q] for q in kept]).argmax(0)
    for place, q in enumerate(kept):
        mask, category = masks[q] >= 0.5, int(classes[q])
        painted = (winner == place) & mask
        if not painted.any() or (winner == place).sum() / mask.sum() < overlap:
            continue
        if category not in THINGS and category in stuff:
            result[painted] = stuff[category]
            continue
        segments.append((len(segments) + 1, category in THINGS, category))
        stuff[category] = len(segments)
        result[painted] = len(segments)
    return result, segments


@pytest.mark.parametrize("thresholds", [(0.0, 0.0), (0.3, 0.5), (0.5, 0.8), (0.99999, 0.8)])
@pytest.mark.parametrize("size", [(40, 52), (48, 60), (97, 130)])
def test_panoptic_equals_the_plain_formula(
    thresholds: tuple[float, float], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for elements in (2**21, 2000):  # in one band, and in many
        monkeypatch.setattr(score_maps, "BAND_ELEMENTS", elements)
        for seed in SEEDS:
            queries = make_queries(seed, size=size)
            panoptic, segments = panoptic_segmentation(
                queries, things=THINGS, object_mask_threshold=thresholds[0], overlap_threshold=thresholds[1]
            )
            expected, expected_segments = plain_panoptic(queries, *thresholds)
            assert panoptic.dtype == torch.int32
            assert [(x["id"], x["isthing"], x["category_id"]) for x in segments] == expected_segments
            # pixels on an edge may differ, because bands sum in a different order
            assert (panoptic != expected).float().mean() < 1e-3


def test_the_synthetic_cases_cover_every_rule() -> None:
    cases = [plain_panoptic(make_queries(seed), 0.3, 0.5) for seed in SEEDS]
    assert any((result == 0).any() for result, _ in cases)
    assert any(len(segments) < len(make_queries(0).class_logits) for _, segments in cases)
    assert any(len({s[2] for s in segments if s[1]}) < sum(s[1] for s in segments) for _, segments in cases)


def test_stuff_of_one_class_is_merged_and_things_are_not() -> None:
    masks = torch.full((4, 4, 8), -9.0)
    for q in range(4):
        masks[q, :, 2 * q : 2 * q + 2] = 9
    for category, count in ((0, 4), (1, 1)):
        classes = torch.zeros(4, CLASSES + 1)
        classes[:, category] = 20
        queries = QueryMasks(classes, masks, (4, 8), (4, 8), (4, 8))
        panoptic, segments = panoptic_segmentation(
            queries, things=THINGS, object_mask_threshold=0.8, overlap_threshold=0.8
        )
        assert len(segments) == count
        assert panoptic.unique().tolist() == list(range(1, count + 1))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.booleans())
def test_instances_equal_the_plain_formula(seed: int, limit: int, things_only: bool) -> None:
    queries = make_queries(seed)
    actual = instance_segmentation(queries, classes=THINGS if things_only else None, limit=limit)
    masks = whole_masks(queries)
    probability = queries.class_logits.softmax(-1)
    pairs = sorted(((float(probability[q, k]), q, k) for q in range(9) for k in range(CLASSES)), reverse=True)[:limit]
    pairs = [pair for pair in pairs if not things_only or pair[2] in THINGS]
    assert actual.pred_classes.tolist() == [k for _, _, k in pairs]
    for i, (score, q, _) in enumerate(pairs):
        mask = masks[q] > 0
        assert (actual.pred_masks[i] != mask).float().mean() < 1e-3
        mean = float(masks[q].sigmoid()[mask].sum() / (mask.sum() + 1e-6))
        assert float(actual.scores[i]) == pytest.approx(score * mean, abs=1e-3)


def test_boxes_enclose_their_masks() -> None:
    masks = torch.zeros(3, 6, 9, dtype=torch.bool)
    masks[0, 2:4, 3:8] = True
    masks[1, 5, 8] = True
    assert boxes_around(masks).tolist() == [[3, 2, 8, 4], [8, 5, 9, 6], [0, 0, 0, 0]]
    assert boxes_around(masks[:0]).shape == (0, 4)


@pytest.fixture
def panoptic_data() -> str:
    """Return the name of a dataset with thing classes in its metadata."""
    name = "six_classes_of_which_three_are_things"
    MetadataCatalog.get(name).set(
        stuff_classes=list("abcdef"), thing_dataset_id_to_contiguous_id={7 * i: i for i in THINGS}
    )
    return name


def build(data: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    cfg = tiny_cfg(DATASETS__TRAIN=[data], DATASETS__TEST=[data], **options)
    return randomize(build_model(cfg)).eval()


def test_a_model_returns_the_results_of_enabled_tasks(panoptic_data: str) -> None:
    prefix = "MODEL__MASK_FORMER__TEST__"
    model = build(panoptic_data, **{f"{prefix}PANOPTIC_ON": True, f"{prefix}INSTANCE_ON": True})
    inputs = make_inputs((40, 64), (61, 33), labels=False)
    inputs[0] |= {"height": 50, "width": 80}
    with torch.no_grad():
        whole = model(inputs)
    for output, size in zip(whole, [(50, 80), (61, 33)], strict=True):
        assert output["sem_seg"].shape == (CLASSES, *size)
        panoptic, segments = output["panoptic_seg"]
        assert panoptic.shape == size
        assert {x["id"] for x in segments} == {*panoptic.unique().tolist()} - {0}
        assert all(x["isthing"] == (x["category_id"] in THINGS) for x in segments)
        instances = output["instances"].to("cpu")
        assert instances.image_size == size
        assert instances.pred_masks.shape == (len(instances), *size)
        assert len(instances.pred_boxes) == len(instances.scores) == len(instances)
        assert {*instances.pred_classes.tolist()} <= THINGS
    model.semantic_on = model.instance_on = False
    with torch.no_grad():
        (alone,) = model(inputs[:1])
    assert alone.keys() == {"panoptic_seg"}


def test_without_a_panoptic_task_all_classes_are_instances(panoptic_data: str) -> None:
    model = build(panoptic_data, MODEL__MASK_FORMER__TEST__INSTANCE_ON=True, TEST__DETECTIONS_PER_IMAGE=48)
    with torch.no_grad():
        (output,) = model(make_inputs((40, 64), labels=False))
    assert {*output["instances"].pred_classes.tolist()} == {*range(CLASSES)}


def test_windows_are_for_semantic_segmentation_only(panoptic_data: str) -> None:
    options = {"MODEL__MASK_FORMER__TEST__PANOPTIC_ON": True, "TEST__SLIDING__ENABLED": True}
    cfg = tiny_cfg(DATASETS__TRAIN=[panoptic_data], **options)
    with pytest.raises(UserError, match=r"TEST\.SLIDING\.ENABLED: expected False with .*PANOPTIC_ON True"):
        with_sliding(cfg, build(panoptic_data))
