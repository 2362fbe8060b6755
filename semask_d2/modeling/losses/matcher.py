"""Optimal assignment of targets to queries (Hungarian matching; DETR, arXiv 2005.12872, section 3.1)."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

NON_FINITE_COST = 1e8  # replaces overflowed costs, which would stop the solver; such queries are matched last


def solve_assignments(costs: list[Tensor]) -> list[np.ndarray]:
    """Assign the targets of each image to queries in every decoder layer, with a single copy from the device.

    `costs[i]` (L, Q, M_i) -> per image an integer array (L, M_i): the query of each target, or -1 for targets left over
    if there are more targets than queries.
    """
    flat = torch.cat([cost.flatten() for cost in costs]).float()
    flat = flat.nan_to_num(NON_FINITE_COST, posinf=NON_FINITE_COST, neginf=-NON_FINITE_COST).cpu().numpy()
    assignments, start = [], 0
    for cost in costs:
        layers, queries, targets = cost.shape
        matrices = flat[start : start + cost.numel()].reshape(layers, queries, targets)
        start += cost.numel()
        assigned_queries = np.full((layers, targets), -1)
        for row, matrix in zip(assigned_queries, matrices, strict=True):
            matched_queries, matched_targets = linear_sum_assignment(matrix)
            row[matched_targets] = matched_queries
        assignments.append(assigned_queries)
    return assignments
