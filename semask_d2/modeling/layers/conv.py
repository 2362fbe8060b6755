"""A convolution with the norm and the activation that follow it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

GROUPS = 32  # in GroupNorm
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "GN": lambda channels: nn.GroupNorm(GROUPS, channels),
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
}


def get_norm(name: str, channels: int) -> nn.Module | None:
    """Return the norm layer `name` ("GN" with 32 groups, "BN", "SyncBN"; "" for none) over `channels`."""
    return NORMS[name](channels) if name else None


class ConvNorm(nn.Conv2d):
    """Convolution padded by half its extent, then `norm` and `activation`; it has a bias only without a norm.

    The norm is the child `norm`, so parameters are `weight`, `norm.weight`, `norm.bias`.
    Initialized with kaiming_uniform (a = 1) and zero bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        norm: str | nn.Module | None = "",
        activation: Callable[[Tensor], Tensor] | None = None,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2 * dilation,
            dilation=dilation,
            groups=groups,
            bias=norm == "" or norm is None,
        )
        self.norm = get_norm(norm, out_channels) if isinstance(norm, str) else norm
        self.activation = activation
        init_conv(self)

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, ceil(H / stride), ceil(W / stride))."""
        return self.follow(super().forward(input))

    def follow(self, x: Tensor) -> Tensor:
        """Apply the norm and the activation that follow the convolution."""
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


@torch.no_grad()
def init_conv(conv: nn.Conv2d) -> None:
    """Fill a convolution's weight with kaiming_uniform (a = 1) and its bias, if any, with zeros."""
    nn.init.kaiming_uniform_(conv.weight, a=1)
    zero_bias(conv)


def zero_bias(conv: nn.Conv2d) -> None:
    """Fill a convolution's bias, if any, with zeros."""
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
