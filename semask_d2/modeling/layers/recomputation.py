"""Activation checkpointing (arXiv 1604.06174): save training memory by running some blocks forward twice."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

PARTS = ("res2", "res3", "res4", "res5", "pixel_decoder")  # backbone stages, and the layers of the deformable encoder
CHECKPOINTING_KEY = "MODEL.ACTIVATION_CHECKPOINTING"


def run(block: nn.Module, *args: object, recompute: bool):
    """Return `block(*args)`; with `recompute`, activations are recomputed in the backward pass instead of stored."""
    if recompute and block.training and torch.is_grad_enabled():
        return checkpoint(block, *args, use_reentrant=False)
    return block(*args)
