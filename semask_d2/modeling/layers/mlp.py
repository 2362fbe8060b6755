"""Small multi-layer perceptron for mask embeddings."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from semask_d2.modeling.layers.linear import Linear


class MLP(nn.Module):
    """Multi-layer perceptron: `num_layers` linear layers with an activation between them."""

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        out_dim: int,
        num_layers: int,
        activation: Callable[[Tensor], Tensor] = torch.relu_,
    ):
        super().__init__()
        self.activation = activation
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_dim) to (..., out_dim)."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)
