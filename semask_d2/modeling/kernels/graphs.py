"""Detection of compilation, export and tracing, whose graphs use standard operators only."""

from __future__ import annotations

import torch
from torch import nn


def in_graph() -> bool:
    """Return whether torch is compiling, exporting or tracing."""
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage] - documented as public
    return tracing or torch.compiler.is_compiling()


def is_compiled(module: nn.Module) -> bool:
    """Return whether torch has compiled `module`, in place or in a wrapper; for its parts, ask them."""
    return getattr(module, "_compiled_call_impl", None) is not None or "_orig_mod" in module._modules
