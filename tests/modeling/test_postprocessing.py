"""Postprocessing functions against plain formulas, the models and transformers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semask_d2.modeling.meta_arch import score_maps
from semask_d2.modeling.postprocessing import instance_masks, panoptic_map, semantic_labels, semantic_scores
from semask_d2.utils.errors import UserError

QUERIES, CLASSES = 7, 5


def make_logits(height: int = 6, width: int = 9, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    class_logits = 3 * torch.randn(QUERIES, CLASSES + 1, generator=generator)
    return class_logits, 4 * torch.randn(QUERIES, height, width, generator=generator)


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def plain_scores(
    class_logits: Tensor,
    mask_logits: Tensor,
    size: tuple[int, int],
    input_size: tuple[int, int],
    image_size: tuple[int, int],
    resize_masks_first: bool,
) -> Tensor:
    """Compute the formula on full maps."""
    probability = class_logits.softmax(-1)[:, :-1]
    masks = resized(mask_logits, input_size)[:, : image_size[0], : image_size[1]]
    if resize_masks_first:
        return torch.einsum("qk,qhw->khw", probability, resized(masks, size).sigmoid())
    return resized(torch.einsum("qk,qhw->khw", probability, masks.sigmoid()), size)


@given(
    mask_size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    resize_masks_first=st.booleans(),
    seed=st.integers(0, 100),
)
@settings(max_examples=40, deadline=None)
def test_scores_and_labels_are_those_of_the_formula(
    mask_size: tuple[int, int],
    padding: tuple[int, int],
    size: tuple[int, int],
    resize_masks_first: bool,
    seed: int,
) -> None:
    logits = make_logits(*mask_size, seed)
    input_size = (4 * mask_size[0], 4 * mask_size[1])
    image_size = (input_size[0] - padding[0], input_size[1] - padding[1])
    expected = plain_scores(*logits, size, input_size, image_size, resize_masks_first)
    options = {"image_size": image_size, "resize_masks_first": resize_masks_first}
    scores = semantic_scores(*logits, size, **options)
    assert torch.allclose(scores, expected, atol=1e-5)
    assert torch.equal(semantic_labels(*logits, size, **options), scores.argmax(0))


def test_labels_never_need_full_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []

    class Recorded(score_maps.ScoreMap):
        def _bands(self):
            for start, band in super()._bands():
                rows.append(len(band))
                yield start, band

    logits = make_logits()
    expected = semantic_labels(*logits, (400, 300))
    monkeypatch.setattr(score_maps, "BAND_ELEMENTS", 20_000)
    monkeypatch.setattr(score_maps, "ScoreMap", Recorded)
    assert torch.equal(semantic_labels(*logits, (400, 300)), expected)
    assert max(rows) < 20


def reference_outputs(class_logits: Tensor, mask_logits: Tensor) -> SimpleNamespace:
    return SimpleNamespace(class_queries_logits=class_logits[None], masks_queries_logits=mask_logits[None])


def test_the_rule_of_transformers_for_semantic_maps() -> None:
    """The processor of Mask2Former resizes masks to 384 x 384 for any input."""
    transformers = pytest.importorskip("transformers", reason="needs transformers, of the extra dev")
    processor = transformers.Mask2FormerImageProcessor()
    logits = make_logits(16, 24)
    size = (130, 90)
    reference = processor.post_process_semantic_segmentation(reference_outputs(*logits), target_sizes=[size])[0]
    actual = semantic_labels(*logits, size, input_size=(384, 384))
    scores = semantic_scores(*logits, size, input_size=(384, 384))
    disputed = actual != reference
    top = scores.topk(2, 0).values
    assert (top[0] - top[1])[disputed].abs().max().item() < 1e-5 if disputed.any() else True
    assert disputed.float().mean() < 1e-3


def test_the_rule_of_transformers_for_maskformer() -> None:
    """The processor of MaskFormer computes scores at the size of the masks and resizes these."""
    transformers = pytest.importorskip("transformers", reason="needs transformers, of the extra dev")
    logits = make_logits(16, 24)
    size = (130, 90)
    processor = transformers.MaskFormerImageProcessor()
    reference = processor.post_process_semantic_segmentation(reference_outputs(*logits), target_sizes=[size])[0]
    actual = semantic_labels(*logits, size, input_size=(16, 24))
    assert (actual != reference).float().mean() < 1e-3


def test_panoptic_maps_and_instances_are_the_models() -> None:
    class_logits, mask_logits = make_logits(8, 8)
    ids, segments = panoptic_map(class_logits, mask_logits, (40, 30), things={0, 1}, object_mask_threshold=0.3)
    assert ids.shape == (40, 30)
    assert ids.dtype == torch.int32
    assert set(ids.unique().tolist()) - {0} == {segment["id"] for segment in segments}
    assert all(segment["isthing"] == (segment["category_id"] in {0, 1}) for segment in segments)
    instances = instance_masks(class_logits, mask_logits, (40, 30), max_instances=4, image_size=(32, 30))
    assert instances.masks.shape == (4, 40, 30)
    assert instances.scores.tolist() == sorted(instances.scores.tolist(), reverse=True)
    whole = resized(resized(mask_logits, (32, 32))[:, :32, :30], (40, 30))
    assert all(any(torch.equal(mask, logits > 0) for logits in whole) for mask in instances.masks)
    for mask, box in zip(instances.masks, instances.boxes.tolist(), strict=True):
        rows, columns = np.nonzero(mask.numpy())
        if len(rows):
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    only = instance_masks(class_logits, mask_logits, (40, 30), classes={2}, max_instances=50)
    assert set(only.classes.tolist()) == {2}


def test_half_precision_is_computed_in_full() -> None:
    class_logits, mask_logits = make_logits()
    half = class_logits.bfloat16(), mask_logits.bfloat16()
    assert torch.equal(semantic_scores(*half, (20, 20)), semantic_scores(*(x.float() for x in half), (20, 20)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"class_logits": torch.zeros(1, QUERIES, CLASSES + 1)},
            r"class_logits: expected .*\(Q, K \+ 1\) of one image",
        ),
        ({"mask_logits": torch.zeros(QUERIES, 4, 4, dtype=torch.int64)}, "mask_logits: expected floating-point"),
        ({"mask_logits": np.zeros((QUERIES, 4, 4))}, "mask_logits: .* got ndarray"),
        ({"mask_logits": torch.zeros(QUERIES + 1, 4, 4)}, "of the same queries"),
        ({"mask_logits": torch.zeros(QUERIES, 0, 4)}, "of the same queries"),
        ({"size": (0, 5)}, "size: expected height and width of at least 1"),
        ({"image_size": (99, 5)}, "image_size: expected at most input_size"),
    ],
)
def test_wrong_arguments(change: dict[str, object], message: str) -> None:
    class_logits, mask_logits = make_logits()
    arguments = {"class_logits": class_logits, "mask_logits": mask_logits, "size": (10, 10), **change}
    with pytest.raises(UserError, match=message):
        semantic_labels(**arguments)


def test_batches_and_sides_in_the_order_of_pillow(caplog: pytest.LogCaptureFixture) -> None:
    class_logits, mask_logits = make_logits(6, 9)
    with pytest.raises(UserError, match=r"take one image of the batch: class_logits\[0\]"):
        semantic_labels(class_logits[None], mask_logits, (60, 90))
    with pytest.raises(UserError, match=r"take one image of the batch: mask_logits\[0\]"):
        semantic_labels(class_logits, mask_logits[None], (60, 90))
    with pytest.raises(UserError, match="size: expected height and width"):
        semantic_labels(class_logits, mask_logits, 60)
    for size in ((60, 90), (61, 59), (90, 88)):
        semantic_labels(class_logits, mask_logits, size)
    semantic_labels(*make_logits(8, 8), (90, 60))  # a square input tells nothing
    assert not caplog.text
    semantic_labels(class_logits, mask_logits, (90, 60))
    assert "PIL's image.size is (width, height); write (image.height, image.width)" in caplog.text
