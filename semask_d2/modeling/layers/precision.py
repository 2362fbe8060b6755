"""Mixed precision: the dtype in which a device is fast."""

from __future__ import annotations

import logging
import platform
from functools import cache

import torch

logger = logging.getLogger(__name__)


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


def cpu_has_bf16() -> bool:
    """Return whether the CPU has instructions for bf16 products; without, they take longer than those in fp32."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def warn_of_slow_bf16() -> None:
    """Log, once in a process, that bf16 does not pay if the CPU has no bf16 products."""
    if not cpu_has_bf16():
        logger.warning(
            "MODEL.PRECISION bf16 does not pay on this processor: without instructions for bf16 products (AVX512-BF16, "
            "AMX), they take longer than in fp32"
        )
