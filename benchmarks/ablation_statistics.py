"""Statistics of paired runs: means, differences from a baseline with intervals, and detectable differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

CONFIDENCE = 0.95
POWER = 0.8
RESAMPLES = 10_000


class Interval(NamedTuple):
    """An interval from `low` to `high`."""

    low: float
    high: float


class Difference(NamedTuple):
    """Difference of a variant from the baseline over their common seeds, with 95 % intervals.

    `detectable` is the smallest true difference that a paired t test with this many seeds and this spread would find
    significant in four of five cases. It and the intervals are None for a single pair.
    """

    pairs: int
    mean: float
    t_interval: Interval | None
    bootstrap: Interval | None
    detectable: float | None


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation, which is NaN for a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Compare two variants' values by seed; returns None if they have no common seeds."""
    seeds = sorted(values.keys() & baseline.keys())
    differences = np.array([values[seed] - baseline[seed] for seed in seeds])
    count = len(differences)
    if count == 0:
        return None
    mean, deviation = mean_and_deviation(differences.tolist())
    if count == 1:
        return Difference(count, mean, None, None, None)
    error = deviation / math.sqrt(count)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    return Difference(
        count, mean, Interval(mean - half, mean + half), bootstrap(differences), detectable_shift(count) * error
    )


def bootstrap(differences: np.ndarray) -> Interval:
    """Return the percentile bootstrap interval of the mean of pairs; it is too narrow for few pairs."""
    rng = np.random.default_rng(0)
    means = rng.choice(differences, (RESAMPLES, len(differences))).mean(axis=1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(low), float(high))


def detectable_shift(count: int) -> float:
    """Return the number of standard errors that a two-sided t test of `count` pairs detects with power `POWER`."""
    freedom = count - 1
    limit = stats.t.ppf((1 + CONFIDENCE) / 2, freedom)
    # equally likely ratios of a sample's deviation to the true one; scipy's noncentral t gives NaN in the tails
    scales = np.sqrt(stats.chi2.ppf((np.arange(5000) + 0.5) / 5000, freedom) / freedom)

    def lack_of_power(shift: float) -> float:
        return POWER - np.mean(stats.norm.sf(limit * scales - shift) + stats.norm.cdf(-limit * scales - shift))

    return float(optimize.brentq(lack_of_power, 0, 4 * limit + 4))
