"""Activation checkpointing (arXiv 1604.06174): less memory in training for a second forward pass of some blocks."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

PARTS = ("res2", "res3", "res4", "res5", "pixel_decoder")  # the backbone's stages, and the deformable encoder's layers
CHECKPOINTING_KEY = "MODEL.ACTIVATION_CHECKPOINTING"


def run(block: nn.Module, *args: object, recompute: bool):
    """`block(*args)`; where `recompute`, a training block keeps no activations and makes them again when needed."""
    if recompute and block.training and torch.is_grad_enabled():
        return checkpoint(block, *args, use_reentrant=False)
    return block(*args)
