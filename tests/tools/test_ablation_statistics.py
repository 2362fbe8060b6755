"""The ablation's statistics against hand-computed numbers, scipy, and simulated experiments."""

from __future__ import annotations

import importlib
import math
import sys

import numpy as np
import pytest
from scipy import stats

from tests.helpers.commands import ROOT

sys.path.append(str(ROOT / "benchmarks"))
ablation_statistics = importlib.import_module("ablation_statistics")
paired_difference = ablation_statistics.paired_difference


def test_by_hand() -> None:
    """The differences 1, 2, 3 have a standard deviation of 1; the t quantile for 2 degrees of freedom is 4.30265."""
    difference = paired_difference({1: 11, 2: 22, 3: 33, 4: 99}, {1: 10, 2: 20, 3: 30, 5: 0})
    assert (difference.pairs, difference.mean) == (3, 2)
    assert difference.t_interval == pytest.approx((2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3)), abs=1e-4)
    assert difference.bootstrap == pytest.approx((1, 3))  # drawing the smallest three times has a probability of 1 / 27


def test_of_one_pair_and_of_none() -> None:
    assert paired_difference({1: 5.0}, {1: 3.0, 2: 4.0}) == (1, 2.0, None, None, None)
    assert paired_difference({1: 5.0}, {2: 3.0}) is None
    assert ablation_statistics.mean_and_deviation([1.0, 3.0]) == pytest.approx((2, math.sqrt(2)))
    assert math.isnan(ablation_statistics.mean_and_deviation([1.0])[1])


@pytest.mark.parametrize("count", [2, 5, 12])
def test_intervals_equal_scipys(count: int) -> None:
    a, b = np.random.default_rng(count).normal(size=(2, count))
    difference = paired_difference(dict(enumerate(a)), dict(enumerate(b)))
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert difference.t_interval == pytest.approx((expected.low, expected.high))
    if count > 2:
        resampled = stats.bootstrap((a - b,), np.mean, n_resamples=10_000, method="percentile", rng=1)
        low, high = resampled.confidence_interval
        assert difference.bootstrap == pytest.approx((low, high), abs=0.05)


@pytest.mark.parametrize("count", [3, 5, 10])
def test_the_detectable_difference_is_detected_four_times_out_of_five(count: int) -> None:
    shift = ablation_statistics.detectable_shift(count) / math.sqrt(count)  # in standard deviations of the differences
    samples = np.random.default_rng(0).normal(shift, 1, (50_000, count))
    significant = stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05
    assert significant.mean() == pytest.approx(0.8, abs=0.006)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    samples = np.random.default_rng(0).normal(1.0, 2.0, (400, 5))
    intervals = [paired_difference(dict(enumerate(x)), dict.fromkeys(range(5), 0.0)).t_interval for x in samples]
    assert np.mean([low <= 1 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.03)
