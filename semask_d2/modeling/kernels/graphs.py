"""Detection of compilation, export and tracing, whose graphs use standard operators only."""

from __future__ import annotations

import torch


def in_graph() -> bool:
    """Return whether torch is compiling, exporting or tracing."""
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage] - documented as public
    return tracing or torch.compiler.is_compiling()
