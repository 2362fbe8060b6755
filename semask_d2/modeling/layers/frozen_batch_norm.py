"""Batch normalization with constant statistics, as used to fine-tune pretrained ResNets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class FrozenBatchNorm(nn.Module):
    """Normalization (x - running_mean) / sqrt(running_var + eps) * weight + bias per channel, with buffers only.

    The buffers have the names of `nn.BatchNorm2d`, so its weights can be loaded. Initially this is the identity.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.full((channels,), 1 - eps))

    @classmethod
    def from_batch_norm(cls, norm: _BatchNorm) -> FrozenBatchNorm:
        """Build the frozen equivalent of `norm` in evaluation mode, with all of its buffers."""
        frozen = cls(norm.num_features, norm.eps)
        for name in ("weight", "bias", "running_mean", "running_var"):
            setattr(frozen, name, getattr(norm, name).detach())
        frozen.register_buffer("num_batches_tracked", norm.num_batches_tracked)
        return frozen

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, C, H, W); shape and dtype stay the same."""
        if not x.requires_grad:
            statistics = (self.running_mean, self.running_var)
            return F.batch_norm(x, *statistics, self.weight, self.bias, training=False, eps=self.eps)
        # this form need not keep `x` for the backward pass
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.view(1, -1, 1, 1).to(x.dtype) + shift.view(1, -1, 1, 1).to(x.dtype)
