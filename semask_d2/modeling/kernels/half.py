"""Half precision: what is computed in fp32 all the same."""

from __future__ import annotations

from torch import Tensor


def in_fp32(x: Tensor) -> Tensor:
    """Return `x` in fp32 if it has half precision, else as it is."""
    return x.float() if x.itemsize < 4 else x
