"""Optimal assignment of target classes to queries (Hungarian matching; DETR, arXiv 2005.12872, section 3.1)."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

NON_FINITE_COST = 1e8  # a query whose cost overflowed is taken last, instead of stopping the solver


def solve_assignments(costs: list[Tensor]) -> list[np.ndarray]:
    """Assign every target of each image in every decoder layer, with a single copy from the device.

    `costs[i]` (L, Q, M_i) -> per image an integer array (L, M_i): the query that each target got, -1 where there
    are more targets than queries.
    """
    flat = torch.cat([cost.flatten() for cost in costs]).float()
    flat = flat.nan_to_num(NON_FINITE_COST, posinf=NON_FINITE_COST, neginf=-NON_FINITE_COST).cpu().numpy()
    assignments, start = [], 0
    for cost in costs:
        layers, queries, targets = cost.shape
        matrices = flat[start : start + cost.numel()].reshape(layers, queries, targets)
        start += cost.numel()
        query_of_target = np.full((layers, targets), -1)
        for row, matrix in zip(query_of_target, matrices, strict=True):
            matched_queries, matched_targets = linear_sum_assignment(matrix)
            row[matched_targets] = matched_queries
        assignments.append(query_of_target)
    return assignments
