"""Scores and labels in bands, against resizing full maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from semask_d2.config.merging import merge_file
from semask_d2.d2 import build_model
from semask_d2.modeling.meta_arch import score_maps
from semask_d2.modeling.meta_arch.score_maps import (
    QueryMasks,
    ScoreMap,
    resized,
    row_elements,
    rows_of,
    score_map_of_queries,
)
from semask_d2.modeling.transformer_decoders import MaskPredictions
from tests.helpers.commands import ROOT
from tests.helpers.tiny_model import make_inputs, randomize, tiny_cfg

sides = st.integers(1, 23)
sizes = st.tuples(sides, sides)


@pytest.fixture(autouse=True)
def _narrow_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use bands of a few rows, so that the small maps of these tests have many."""
    monkeypatch.setattr(score_maps, "BAND_ELEMENTS", 200)


def whole(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


@settings(deadline=None, derandomize=True, max_examples=100)
@given(source=sizes, target=sizes, data=st.data())
def test_rows_of_a_resized_map_equal_those_of_the_full_map(source, target, data) -> None:
    torch.manual_seed(0)
    maps = torch.randn(3, *source)
    start = data.draw(st.integers(0, target[0] - 1))
    stop = data.draw(st.integers(start + 1, target[0]))
    rows = resized(rows_of(maps), source, target)(start, stop)
    torch.testing.assert_close(rows.permute(2, 0, 1), whole(maps, target)[:, start:stop])


@settings(deadline=None, derandomize=True, max_examples=100)
@given(source=sizes, middle=sizes, target=sizes)
def test_a_map_resized_twice_is_assembled_from_bands(source, middle, target) -> None:
    torch.manual_seed(0)
    maps = torch.randn(5, *source)
    rows = resized(resized(rows_of(maps), source, middle), middle, target)
    score_map = ScoreMap(rows, target, row_elements(5, target, source), maps.device)
    expected = whole(whole(maps, middle), target)
    torch.testing.assert_close(score_map.scores(), expected)
    assert torch.equal(score_map.labels(), score_map.scores().argmax(0))


def test_bands_respect_the_limit_and_cover_every_row_once() -> None:
    asked = []

    def rows(start: int, stop: int) -> Tensor:
        asked.append((start, stop))
        return torch.zeros(stop - start, 10, 4)

    ScoreMap(rows, (23, 10), 40, torch.device("cpu")).scores()
    assert [row for start, stop in asked for row in range(start, stop)] == list(range(23))
    assert max(stop - start for start, stop in asked) == 200 // (10 * 4)
    asked.clear()
    ScoreMap(rows, (3, 10), 10000, torch.device("cpu")).labels()  # one row is the minimum
    assert asked == [(0, 1), (1, 2), (2, 3)]


def test_ties_go_to_the_lowest_class() -> None:
    maps = torch.tensor([0.0, 2.0, 1.0, 2.0])[:, None, None].expand(4, 3, 5)
    labels = ScoreMap(rows_of(maps), (3, 5), 20, maps.device).labels()
    assert labels.dtype == torch.int64
    assert labels.tolist() == [[1] * 5] * 3


def build_model_of_kind(kind: str) -> nn.Module:
    torch.manual_seed(0)
    cfg = tiny_cfg(MODEL__MASK_FORMER__TEST__SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE=kind == "masks first")
    if kind == "fpn":
        merge_file(cfg, ROOT / "configs/recipes/fpn.yaml")
        cfg.MODEL.SEM_SEG_HEAD.NORM = "BN"
    model = randomize(build_model(cfg)).eval()
    if kind != "fpn":  # queries of an untrained model are all alike, and one class would win everywhere
        model.sem_seg_head.register_forward_hook(lambda module, args, predictions: unlike_queries(predictions))
    return model


def unlike_queries(predictions: MaskPredictions) -> MaskPredictions:
    """Replace the queries of `predictions` by random ones with a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    logits, embed = (
        torch.randn(x.shape, generator=generator) for x in (predictions.class_logits, predictions.mask_embed)
    )
    return predictions._replace(class_logits=3 * logits, mask_embed=embed)


@pytest.mark.parametrize("kind", ["scores first", "masks first", "fpn"])
def test_labels_are_the_argmax_of_the_scores(kind: str) -> None:
    model = build_model_of_kind(kind)
    inputs = make_inputs((40, 64), (61, 33), labels=False)
    inputs[0] |= {"height": 80, "width": 100}
    with torch.no_grad():
        scores = [output["sem_seg"] for output in model(inputs)]
        labels = model.predict_labels(inputs)
    assert len(scores[0].argmax(0).unique()) > 1
    for x, y in zip(scores, labels, strict=True):
        assert torch.equal(x.argmax(0), y)


def test_a_small_result_of_a_large_map_reads_few_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_maps, "BAND_ELEMENTS", 4 * 64 * 32)
    asked = []

    def rows(start: int, stop: int) -> Tensor:
        asked.append(stop - start)
        return torch.zeros(stop - start, 64, 4)

    size, source = (16, 16), (1024, 64)
    ScoreMap(resized(rows, source, size), size, row_elements(4, size, source), torch.device("cpu")).labels()
    assert max(asked) <= 64


@pytest.mark.parametrize("resize_masks_first", [True, False])
def test_scores_of_bf16_products_are_close_and_resized_in_fp32(resize_masks_first: bool) -> None:
    torch.manual_seed(0)
    queries = QueryMasks(3 * torch.randn(12, 5), 3 * torch.randn(12, 6, 7), (24, 28), (22, 27), (31, 19))
    exact, rounded = (
        score_map_of_queries(queries, resize_masks_first=resize_masks_first, in_bf16=in_bf16).scores()
        for in_bf16 in (False, True)
    )
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.01)
