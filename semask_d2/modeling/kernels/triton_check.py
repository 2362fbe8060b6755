"""Check of a Triton operator at its first use on a device: a small case against the plain formula, with gradients.

Compilers, drivers and GPUs vary, so no kernel is trusted on a device before it has passed there. The plain formula is
computed in fp64 on the CPU from the same rounded inputs. Samples lie between pixels, because the gradient of a position
jumps at pixel centers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from semask_d2.modeling.kernels.plain_deformable_attention import sampled_attention
from semask_d2.modeling.kernels.plain_deformable_conv import GROUPS, TAPS, sampled_deform_conv2d
from semask_d2.modeling.kernels.triton_choice import interpreted
from semask_d2.modeling.kernels.triton_deformable_attention import fused_deformable_attention
from semask_d2.modeling.kernels.triton_deformable_conv import fused_deform_conv2d

# Allowed difference in units of the largest value. The interpreter's differences are 8e-7, 6e-4 and 7e-3, but fp32
# products may use TF32 on a GPU.
TOLERANCES = {torch.float32: 2e-3, torch.float16: 5e-3, torch.bfloat16: 3e-2}
SIZES = [(9, 7), (4, 5), (2, 3)]
HEADS, DIM, POINTS = 8, 32, 4  # as in the released models, so no extra compilation is needed
QUERIES, CHANNELS_OUT = 13, 16
REASON = 300  # characters of an error message

Function = Callable[..., Tensor]


def first_use(what: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return a message about the failure of operator `what` on `device`; empty if its results are correct."""
    fused, plain, make = OPERATORS[what]
    try:
        with in_plain_torch(device):
            inputs = make(dtype)
            results = computed(fused, [x.to(device) if isinstance(x, Tensor) else x for x in inputs])
            expected = computed(plain, [x.double() if isinstance(x, Tensor) else x for x in inputs])
            worst = max(difference(result, target) for result, target in zip(results, expected, strict=True))
        reason = "" if worst <= TOLERANCES[dtype] else f"differs from the formula by {worst:.2g} of its largest value"
    except Exception as error:  # compiler, driver and launch raise errors of many types
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:REASON]}"
    return f"Triton's {what} fails on {machine(device)} for {dtype} ({reason}; please report this line)" * bool(reason)


@contextmanager
def in_plain_torch(device: torch.device) -> Iterator[None]:
    """Compute with real data and gradients, even if called under inference mode, autocast or tracing."""
    with ExitStack() as stack:
        for context in (
            _disable_current_modes(),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            stack.enter_context(context)
        yield


def computed(function: Function, inputs: list[Any]) -> list[Tensor]:
    """Return the result of `function` and the gradients of its tensor inputs, except of the reference points."""
    learned = [x.detach().requires_grad_() if isinstance(x, Tensor) and x.dim() > 2 else x for x in inputs]
    out = function(*learned)
    upstream = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).sin().view(out.shape).to(out)
    gradients = torch.autograd.grad(out, [x for x in learned if isinstance(x, Tensor) and x.requires_grad], upstream)
    return [x.detach().double().cpu() for x in (out, *gradients)]


def difference(result: Tensor, expected: Tensor) -> float:
    """Return the largest difference in units of the largest value; infinite for different shapes and for NaN."""
    if result.shape != expected.shape:
        return float("inf")
    worst = (result - expected).abs().max() / expected.abs().max()
    return float(worst.nan_to_num(torch.inf))


def machine(device: torch.device) -> str:
    """Describe a device, with the versions of torch and Triton."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    version = getattr(sys.modules.get("triton"), "__version__", "of an unknown version")
    return f"{name} with torch {torch.__version__}, triton {version}"


def parts(count: int) -> int:
    """Return `count` images, heads or groups, or 1 in the interpreter, which takes seconds for each."""
    return 1 if interpreted() else count


def attention_inputs(dtype: torch.dtype) -> list[Any]:
    """Return arguments of `fused_deformable_attention`, on the CPU."""
    random, heads = torch.Generator().manual_seed(0), parts(HEADS)
    batch = parts(2)
    value = torch.randn(batch, sum(h * w for h, w in SIZES), heads, DIM, generator=random)
    reference = torch.rand(QUERIES, 2, generator=random)
    logits = torch.randn(batch, QUERIES, heads, len(SIZES), POINTS, generator=random)
    offsets = between_pixels((*logits.shape, 2), random)
    for level, (height, width) in enumerate(SIZES):
        whole = reference * torch.tensor([width, height])
        offsets[:, :, :, level] += (whole.floor() - whole + 0.5)[:, None, None]
    return [value.to(dtype), SIZES, reference, offsets.to(dtype), logits.to(dtype)]


def convolution_inputs(dtype: torch.dtype) -> list[Tensor]:
    """Return arguments of `fused_deform_conv2d`, on the CPU; the bias is zero, because no kernel reads it."""
    random, groups = torch.Generator().manual_seed(0), parts(GROUPS)
    batch = parts(2)
    x = torch.randn(batch, groups * DIM, 6, 5, generator=random)
    offsets = between_pixels((batch, groups * TAPS * 2, 6, 5), random)
    weight = torch.randn(CHANNELS_OUT, groups * DIM, 3, 3, generator=random)
    mask = torch.rand(batch, groups * TAPS, 6, 5, generator=random)
    return [tensor.to(dtype) for tensor in (x, offsets, weight, torch.zeros(CHANNELS_OUT), mask)]


def between_pixels(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Return random distances from -2 to 2 pixels, each at least 0.25 away from an integer."""
    return torch.randint(-2, 2, shape, generator=random) + 0.25 + 0.5 * torch.rand(shape, generator=random)


OPERATORS: dict[str, tuple[Function, Function, Callable[[torch.dtype], list[Any]]]] = {
    "deformable attention": (fused_deformable_attention, sampled_attention, attention_inputs),
    "deformable convolution": (fused_deform_conv2d, sampled_deform_conv2d, convolution_inputs),
}
