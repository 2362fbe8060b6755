"""Mixed precision: the dtype in which a device is fast."""

from __future__ import annotations

import torch


def autocast_dtype(device: torch.device, *, enabled: bool) -> torch.dtype | None:
    """Return the dtype of mixed precision: bf16 if the GPU supports it, else fp16; None for full precision.

    Mixed precision is always off on a CPU.
    """
    if not enabled or device.type != "cuda":
        return None
    return torch.bfloat16 if gpu_has_bf16() else torch.float16


def gpu_has_bf16() -> bool:
    """Return whether the GPU has native bf16; T4, V100 and RTX 20 only emulate it, which is slow."""
    return torch.cuda.is_bf16_supported(including_emulation=False)
