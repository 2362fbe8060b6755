"""Sampling of images by rare classes, and class weights, compared with counts and formulas."""

from __future__ import annotations

import numpy as np
import pytest

from semask_d2 import build_model, get_cfg
from semask_d2.data import get_dataset_dicts
from semask_d2.data.augmentation import resize_labels, sample_view
from semask_d2.data.class_balance import RareClasses, balanced_weights, with_class_weights
from semask_d2.data.sampler import PositionedDataset
from semask_d2.data.statistics import class_pixels
from semask_d2.utils.errors import UserError

PIXELS = np.array([[900, 100, 0, 0], [1000, 0, 0, 0], [880, 100, 20, 0], [990, 0, 10, 0]])


def test_classes_are_drawn_with_the_probabilities_of_the_formula() -> None:
    temperature = 0.5
    rare = RareClasses(PIXELS, temperature)
    share = PIXELS.sum(0)[:3] / PIXELS.sum()
    expected = np.exp((1 - share) / temperature)
    expected /= expected.sum()
    rng = np.random.default_rng(0)
    draws = [rare.draw(rng) for _ in range(4000)]
    shares = np.bincount([target_class for _, target_class in draws], minlength=3) / len(draws)
    np.testing.assert_allclose(shares, expected, atol=0.03)
    assert all(PIXELS[image, target_class] > 0 for image, target_class in draws)
    assert {image for image, target_class in draws if target_class == 2} == {2, 3}


def test_a_low_temperature_takes_the_rarest() -> None:
    rng = np.random.default_rng(0)
    rare = RareClasses(PIXELS, 0.001)
    assert {rare.draw(rng)[1] for _ in range(50)} == {2}


def test_specks_count_only_where_nothing_else_shows_the_class() -> None:
    rng = np.random.default_rng(0)
    specks = np.array([[100000, 1], [100000, 0]])
    assert {RareClasses(specks, 0.01).draw(rng) for _ in range(20)} == {(0, 1)}
    rare = RareClasses(np.array([[100000, 1], [100000, 5000]]), 0.01)
    assert {image for image, target_class in (rare.draw(rng) for _ in range(50)) if target_class == 1} == {1}


def test_no_labeled_pixel() -> None:
    with pytest.raises(UserError, match="no image has a labeled pixel"):
        RareClasses(np.zeros((3, 2), np.int64), 0.1)


def test_what_stands_at_a_position_depends_on_the_seed_alone() -> None:
    def mapper(sample: dict, rng: np.random.Generator) -> tuple:
        return sample["n"], sample["target_class"], rng.random()

    def make(seed: int) -> PositionedDataset:
        return PositionedDataset([{"n": i} for i in range(4)], mapper, seed, rare_classes=RareClasses(PIXELS, 0.5))

    first, second, other = make(3), make(3), make(4)
    samples = [first[p] for p in range(30)]
    assert [second[p] for p in reversed(range(30))] == samples[::-1]
    assert [other[p] for p in range(30)] != samples


def test_crops_show_the_target_class() -> None:
    labels = np.zeros((60, 60), np.uint8)
    labels[40:50, 5:15] = 7

    def shows(target_class: int | None, seed: int) -> bool:
        rng = np.random.default_rng(seed)
        view = sample_view(rng, (60, 60), (30, 30), labels=labels, target_class=target_class)
        return 7 in resize_labels(labels, view)

    assert sum(shows(7, seed) for seed in range(40)) > 35
    assert sum(shows(None, seed) for seed in range(40)) < 30


def test_balanced_weights() -> None:
    weights = balanced_weights(np.array([400, 100, 25, 0]))
    roots = np.array([1, 2, 4])
    assert weights == pytest.approx([*(roots / roots.mean()), 1], abs=1e-4)
    extreme = balanced_weights(np.array([10**9, 1]))
    assert extreme[1] / extreme[0] == pytest.approx(10, rel=1e-3)
    assert balanced_weights(np.zeros(3, np.int64)) == [1, 1, 1]


def test_automatic_class_weights_are_those_of_the_training_set(toy_data: object) -> None:
    cfg = get_cfg("toy_scenes/semask_swin_mini_fpn.yaml", ["MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS", "['auto']"])
    cfg.freeze()
    weighted = with_class_weights(cfg)
    weights = weighted.MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS
    counts = class_pixels(get_dataset_dicts("toy_scenes_train"), len(weights), 255).sum(0)
    assert weights == balanced_weights(counts)
    assert weighted.is_frozen()
    assert list(cfg.MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS) == ["auto"]
    assert with_class_weights(weighted) is weighted
    model = build_model(weighted)
    assert model.class_weights.tolist() == pytest.approx(weights)
    assert build_model(cfg).class_weights is None
