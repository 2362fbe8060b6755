#!/usr/bin/env python3
"""Benchmark of single layers against their plain formulas, at the sizes of Swin-T with MSFaPN.

    python benchmarks/layers.py [--layer NAME ...] [--size 512] [--backward] [--repeats N] [--json FILE]

The size is the side of an image. `--backward` also times forward and backward pass together, with the gradients of
inputs and parameters. Before timing, both variants are checked to compute the same values.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timing import parser, report
from torch import Tensor, nn

from semask_d2.modeling.layers.conv import GROUPS, ConvNorm
from semask_d2.modeling.layers.deformable_attention import MSDeformAttn, reference_points
from semask_d2.modeling.layers.deformable_conv import DeformableConv
from semask_d2.modeling.layers.feature_alignment import FeatureAlignment
from semask_d2.modeling.layers.linear import Linear
from semask_d2.modeling.layers.semantic_attention import SemanticAttention
from semask_d2.modeling.layers.window_attention import WindowAttention, shifted_window_mask
from semask_d2.modeling.layers.window_partition import window_merge, window_partition

DIM, HEADS, POINTS, WINDOW, CLASSES = 256, 8, 4, 7, 150
TOLERANCE = 0.01


class Case(NamedTuple):
    """A layer with its inputs, and its plain formula as a function of layer and inputs.

    Inputs require gradients if a model backpropagates through them.
    """

    title: str
    layer: nn.Module
    plain: Callable
    inputs: tuple


def plain_linear(layer: Linear, x: Tensor) -> Tensor:
    """Return x W^T + b."""
    return F.linear(x, layer.weight, layer.bias)


def plain_conv(layer: ConvNorm, x: Tensor) -> Tensor:
    """Return convolution, GroupNorm and ReLU of `x`."""
    assert isinstance(layer.norm, nn.GroupNorm)
    y = F.conv2d(x, layer.weight, layer.bias, padding=layer.kernel_size[0] // 2)
    return F.relu(F.group_norm(y, GROUPS, layer.norm.weight, layer.norm.bias))


def plain_deformable_attention(
    layer: MSDeformAttn, query: Tensor, reference: Tensor, tokens: Tensor, sizes: list[tuple[int, int]]
) -> Tensor:
    """Return deformable attention, computed with `grid_sample` (arXiv 2010.04159, equation 3)."""
    b, queries, _ = query.shape
    heads, levels, points = layer.num_heads, layer.num_levels, layer.num_points
    value = plain_linear(layer.value_proj, tokens).view(b, len(tokens[0]), heads, -1)
    offsets = plain_linear(layer.sampling_offsets, query).view(b, queries, heads, levels, points, 2)
    weights = plain_linear(layer.attention_weights, query).view(b, queries, heads, -1).softmax(-1)
    weights = weights.view(b, queries, heads, levels, points).permute(0, 2, 1, 3, 4).flatten(0, 1)
    extent = torch.tensor([(w, h) for h, w in sizes], device=query.device)
    locations = reference[:, None, None, None] + offsets / extent[:, None]
    grid = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # (B heads, Q, levels, P, 2)
    samples = []
    for level, part in enumerate(value.split([h * w for h, w in sizes], 1)):
        level_map = part.permute(0, 2, 3, 1).reshape(b * heads, -1, *sizes[level])
        samples.append(F.grid_sample(level_map, grid[:, :, level], align_corners=False))
    attended = (torch.stack(samples, -2) * weights[:, None]).flatten(-2).sum(-1)  # (B heads, D, Q)
    return plain_linear(layer.output_proj, attended.view(b, -1, queries).transpose(1, 2))


def plain_deformable_conv(layer: DeformableConv, x: Tensor, guide: Tensor) -> Tensor:
    """Return deformable convolution, computed by torchvision's operator."""
    from torchvision.ops import deform_conv2d  # imported here because it takes seconds

    y, x_offset, mask = layer.conv_offset_mask(guide).chunk(3, 1)
    offsets = torch.cat([y, x_offset], 1)
    return deform_conv2d(x, offsets, layer.weight, layer.bias, padding=(1, 1), mask=mask.sigmoid())


def plain_alignment(layer: FeatureAlignment, lateral: Tensor, coarse: Tensor) -> Tensor:
    """Return feature alignment (arXiv 2108.07058), computed with `plain_deformable_conv`."""
    norm = layer.offset.norm
    assert isinstance(norm, nn.GroupNorm)
    guide = F.conv2d(torch.cat([lateral, 2 * coarse], 1), layer.offset.weight, layer.offset.bias)
    guide = F.group_norm(guide, norm.num_groups, norm.weight, norm.bias)
    return F.relu(plain_deformable_conv(layer.dcpack_L2, coarse, guide)) + lateral


def plain_window_attention(layer: WindowAttention, x: Tensor, mask: Tensor) -> Tensor:
    """Return softmax(q k^T + bias) v in windows (arXiv 2103.14030, section 3.2)."""
    b, h, w, c = x.shape
    window, shift, heads = layer.window, layer.shift, layer.num_heads
    x = F.pad(x, (0, 0, 0, -w % window, 0, -h % window))
    height, width = x.shape[1:3]
    x = window_partition(x.roll((-shift, -shift), (1, 2)), window)
    q, k, v = plain_linear(layer.qkv, x).view(*x.shape[:2], 3, heads, c // heads).permute(2, 0, 3, 1, 4)
    bias = layer.relative_position_bias_table[layer.relative_position_index].permute(2, 0, 1)
    logits = (c // heads) ** -0.5 * q @ k.transpose(-2, -1) + bias
    if shift:
        logits = (logits.unflatten(0, (b, -1)) + mask[:, None]).flatten(0, 1)
    x = plain_linear(layer.proj, (logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
    return window_merge(x, window, height, width).roll((shift, shift), (1, 2))[:, :h, :w]


def plain_semantic_attention(layer: SemanticAttention, x: Tensor) -> Tensor:
    """Return x + gamma mlp_res(softmax(q k^T) v) (arXiv 2112.12782, section 3.2)."""
    q, k, v = (plain_linear(linear, x) for linear in (layer.mlp_cls_q, layer.mlp_cls_k, layer.mlp_v))
    return x + layer.gamma * plain_linear(layer.mlp_res, (q @ k.transpose(-2, -1)).softmax(-1) @ v)


def activations(*shape: int) -> Tensor:
    """Return random inputs of a layer."""
    return torch.randn(shape, requires_grad=True)


def maps(size: int) -> Tensor:
    """Return random maps at stride 4."""
    return activations(1, DIM, size // 4, size // 4)


def map_title(name: str, size: int) -> str:
    """Return the title of a layer applied to `maps`."""
    return f"{name}, {DIM} channels, {size // 4} x {size // 4}"


def linear_cases(size: int) -> Iterator[Case]:
    for stride, width, out in ((4, 96, 384), (4, 384, 96), (8, 256, 256), (8, 256, 1024)):
        tokens = (size // stride) ** 2
        yield Case(
            f"linear layer, {tokens} tokens, {width} to {out}",
            Linear(width, out),
            plain_linear,
            (activations(1, tokens, width),),
        )


def deformable_attention_cases(size: int) -> Iterator[Case]:
    sizes = [(size // stride, size // stride) for stride in (32, 16, 8)]
    tokens = sum(h * w for h, w in sizes)
    layer = MSDeformAttn(DIM, len(sizes), HEADS, POINTS)
    query, value = activations(1, tokens, DIM), activations(1, tokens, DIM)
    reference = reference_points(sizes, query.device)
    title = f"deformable attention, {tokens} queries, {HEADS} heads, {len(sizes)} levels, {POINTS} points"
    yield Case(title, layer, plain_deformable_attention, (query, reference, value, sizes))


def deformable_conv_cases(size: int) -> Iterator[Case]:
    title = map_title("deformable convolution", size)
    yield Case(title, DeformableConv(DIM), plain_deformable_conv, (maps(size), maps(size)))


def alignment_cases(size: int) -> Iterator[Case]:
    layer = FeatureAlignment(DIM, nn.GroupNorm(GROUPS, DIM))
    yield Case(map_title("feature alignment", size), layer, plain_alignment, (maps(size), maps(size)))


def window_attention_cases(size: int) -> Iterator[Case]:
    side, dim = size // 4, 96
    padded = -(-side // WINDOW) * WINDOW
    mask = shifted_window_mask(padded, padded, WINDOW, WINDOW // 2, torch.device("cpu"))
    for shift in (0, WINDOW // 2):
        title = f"window attention, {side} x {side} tokens of {dim}" + (", shifted" if shift else "")
        layer = WindowAttention(
            dim, 3, window=WINDOW, shift=shift, qkv_bias=True, qk_scale=None, attn_drop=0.0, proj_drop=0.0
        )
        yield Case(title, layer, plain_window_attention, (activations(1, side, side, dim), mask))


def semantic_attention_cases(size: int) -> Iterator[Case]:
    windows, tokens = (-(-(size // 4) // WINDOW)) ** 2, (size // 16) ** 2
    for kind, shape in (("in windows", (windows, WINDOW**2, 96)), ("global", (1, tokens, 384))):
        title = f"semantic attention, {kind}, {shape[0] * shape[1]} tokens of {shape[2]}, {CLASSES} classes"
        layer = SemanticAttention(shape[2], CLASSES, init="live", kind="pairwise", residual="normalized")
        yield Case(title, layer, plain_semantic_attention, (activations(*shape),))


def conv_cases(size: int) -> Iterator[Case]:
    layer = ConvNorm(DIM, DIM, 3, norm="GN", activation=F.relu)
    yield Case(map_title("3x3 convolution, norm and ReLU", size), layer, plain_conv, (maps(size),))


LAYERS = {
    "linear": linear_cases,
    "deformable-attention": deformable_attention_cases,
    "deformable-convolution": deformable_conv_cases,
    "alignment": alignment_cases,
    "window-attention": window_attention_cases,
    "semantic-attention": semantic_attention_cases,
    "convolution": conv_cases,
}


def first(value: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the output of a layer, which comes first if there are several."""
    return value if isinstance(value, Tensor) else value[0]


def with_gradients(function: Callable, inputs: list[Tensor], gradient: Tensor) -> list[Tensor]:
    """Run forward and backward pass: return the output, and the gradients of `inputs` for the output's `gradient`."""
    y = first(function())
    return [y, *torch.autograd.grad(y, inputs, gradient)]


def without_gradients(function: Callable) -> list[Tensor]:
    """Run the forward pass only."""
    with torch.inference_mode():
        return [first(function())]


def checked(ways: dict[str, Callable[[], list[Tensor]]]) -> dict[str, Callable[[], list[Tensor]]]:
    """Return the two variants after checking that they compute the same values."""
    for plain, fast in zip(*(way() for way in ways.values()), strict=True):
        # compares norms of whole tensors, because the gradient of a sampling point jumps if rounding moves it across a
        # pixel center; the norm is at least 1, because some gradients are zero up to rounding
        difference, norm = (fast - plain).norm().item(), max(1, plain.norm().item())
        if not difference <= TOLERANCE * norm:
            raise AssertionError(f"layer and formula differ by {difference / norm:.2g} of the norm")
    return ways


def measure(case: Case, arguments: argparse.Namespace) -> None:
    """Time a layer against its plain formula."""
    layer = case.layer.eval()
    with torch.no_grad():
        for parameter in layer.parameters():  # some start at zero and would disable parts of a layer
            parameter += 0.02 * torch.randn_like(parameter)
    functions = {"plain": partial(case.plain, layer, *case.inputs), "this project": partial(layer, *case.inputs)}
    forward = checked({name: partial(without_gradients, function) for name, function in functions.items()})
    report(case.title, forward, arguments)
    if arguments.backward:
        inputs = [x for x in case.inputs if isinstance(x, Tensor) and x.requires_grad] + list(layer.parameters())
        gradient = torch.randn(forward["plain"]()[0].shape)
        both = {name: partial(with_gradients, function, inputs, gradient) for name, function in functions.items()}
        report(f"{case.title}, forward and backward", checked(both), arguments)


def main() -> None:
    command_line = parser(__doc__)
    command_line.add_argument("--layer", nargs="+", choices=LAYERS, default=list(LAYERS))
    command_line.add_argument("--size", type=int, default=512)
    command_line.add_argument(
        "--backward", action="store_true", help="also time the forward and backward pass together"
    )
    arguments = command_line.parse_args()
    for name in arguments.layer:
        torch.manual_seed(0)
        for case in LAYERS[name](arguments.size):
            measure(case, arguments)


if __name__ == "__main__":
    main()
