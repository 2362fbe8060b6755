"""Stochastic depth: skip a residual branch for random samples in training (arXiv 1603.09382)."""

from __future__ import annotations

from torch import Tensor, nn


class DropPath(nn.Module):
    """Zero whole samples with probability `p` in training, and scale the others by 1 / (1 - p).

    Same as torchvision's `StochasticDepth`, whose import would take most of the start-up time.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ...) to the same shape."""
        if self.p == 0 or not self.training:
            return x
        keep = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(1 - self.p)
        return x * keep / (1 - self.p)


def linear_drop_paths(last: float, depth: int) -> list[float]:
    """Return the rates of `depth` blocks, increasing linearly from 0 to `last`."""
    return [last * i / max(1, depth - 1) for i in range(depth)]
