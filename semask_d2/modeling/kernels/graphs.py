"""Graphs: what is compiled, exported or traced holds standard operators alone."""

from __future__ import annotations

import torch


def in_graph() -> bool:
    """Return whether a graph is being made: compiled, exported or traced."""
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage] - it is public
    return tracing or torch.compiler.is_compiling()
