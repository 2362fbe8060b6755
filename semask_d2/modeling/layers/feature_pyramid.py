"""The simple feature pyramid of a plain ViT: maps of several strides from maps of one (ViTDet, arXiv 2203.16527)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map (B, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize each position of a map."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Rescale(nn.Sequential):
    """Change of a map's scale by a power of two: 2x2 transposed convolutions up, or max pooling down.

    Each doubling halves the number of channels; a norm and GELU stand between two doublings. `doublings` below 0 halves
    the sides, rounding up, and keeps the channels.
    """

    def __init__(self, channels: int, doublings: int):
        steps: list[nn.Module] = []
        for step in range(doublings):
            if step:
                steps += [ChannelNorm(channels), nn.GELU()]
            steps.append(nn.ConvTranspose2d(channels, channels // 2, 2, stride=2))
            channels //= 2
        if doublings < 0:
            steps.append(nn.MaxPool2d(2**-doublings, ceil_mode=True))
        super().__init__(*steps)
        self.out_channels = channels


class LearnedDoubling(nn.Module):
    """Doubling of a map's sides as in EoMT (CVPR 2025): transposed convolution, GELU, depthwise convolution, norm.

    The backward pass recomputes all but the transposed convolution, which halves the memory for a tenth of the time.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.transposed = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = ChannelNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, 2 h, 2 w)."""
        x = self.transposed(x)
        if self.training and torch.is_grad_enabled():
            return checkpoint(self.refine, x, use_reentrant=False, preserve_rng_state=False)
        return self.refine(x)

    def refine(self, x: Tensor) -> Tensor:
        """Apply GELU, the depthwise convolution and the norm to the enlarged map."""
        return self.norm(self.depthwise(F.gelu(x)))


def to_stride(x: Tensor, patch: int, stride: int, size: tuple[int, int]) -> Tensor:
    """Resample a map (B, C, h, w) of cells of `patch` pixels to cells of `stride` pixels that cover `size` pixels.

    The result is (B, C, ceil(height / stride), ceil(width / stride)). Maps whose cells are of that size are only
    cropped. Cells beyond the last of `x` repeat it.
    """
    if patch != stride:
        x = F.interpolate(x, scale_factor=patch / stride, mode="bilinear", align_corners=False)
        x = F.pad(x, (0, 1, 0, 1), mode="replicate")  # at most one cell is missing, without a look at the sizes
    height, width = ((pixels + stride - 1) // stride for pixels in size)
    return x[..., :height, :width]
