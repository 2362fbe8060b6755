"""Assignment against brute force, and its behavior for costs that are not finite."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semask_d2.modeling.losses.matcher import solve_assignments


def cheapest(cost: np.ndarray) -> float:
    """Return the least total cost over all one-to-one assignments of targets and queries."""
    if cost.shape[0] < cost.shape[1]:
        cost = cost.T
    queries, targets = cost.shape
    return min(sum(cost[q, t] for t, q in enumerate(chosen)) for chosen in permutations(range(queries), targets))


@settings(deadline=None, derandomize=True, max_examples=80)
@given(
    layers=st.integers(1, 3),
    queries=st.integers(1, 5),
    targets=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    seed=st.integers(0, 10**6),
)
def test_equals_brute_force(layers: int, queries: int, targets: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    costs = [torch.randn(layers, queries, m, generator=generator) for m in targets]
    assignments = solve_assignments(costs)
    assert [a.shape for a in assignments] == [(layers, m) for m in targets]
    for cost, assignment in zip(costs, assignments, strict=True):
        assert assignment.dtype.kind == "i"
        for matrix, query_of_target in zip(cost.double().numpy(), assignment, strict=True):
            given_queries = [q for q in query_of_target if q >= 0]
            assert len(given_queries) == len(set(given_queries)) == min(queries, cost.shape[2])
            total = sum(matrix[q, t] for t, q in enumerate(query_of_target) if q >= 0)
            assert total == pytest.approx(cheapest(matrix), abs=1e-5)


def test_targets_left_over_get_minus_one() -> None:
    (assignment,) = solve_assignments([torch.tensor([[[3.0, 1.0, 2.0]]])])
    assert assignment.tolist() == [[-1, 0, -1]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_costs_do_not_stop_it(value: float) -> None:
    costs = torch.full((2, 3, 2), value)
    (assignment,) = solve_assignments([costs])
    for row in assignment.tolist():
        assert len(set(row)) == 2
        assert set(row) <= {0, 1, 2}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_query_with_an_overflowed_cost_is_matched_last(value: float) -> None:
    costs = torch.tensor([[[value, value], [5.0, 1e4], [1e4, 7.0]]])
    (assignment,) = solve_assignments([costs])
    assert assignment.tolist() == [[1, 2]]
