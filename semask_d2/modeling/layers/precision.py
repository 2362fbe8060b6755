"""Mixed precision: the dtype that a device is quick in."""

from __future__ import annotations

import torch


def autocast_dtype(device: torch.device, *, enabled: bool) -> torch.dtype | None:
    """The dtype of mixed precision: bf16 where the GPU computes in it, else fp16; None for full precision.

    On a CPU mixed precision is always off.
    """
    if not enabled or device.type != "cuda":
        return None
    return torch.bfloat16 if gpu_has_bf16() else torch.float16


def gpu_has_bf16() -> bool:
    """Whether the GPU computes in bf16, and does not emulate it (as T4, V100 and RTX 20 do), which is slow."""
    return torch.cuda.is_bf16_supported(including_emulation=False)
