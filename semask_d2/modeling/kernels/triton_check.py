"""The first use of a Triton operator on a device: a small case, forward and backward, beside the plain formula.

No kernel of this project is trusted on a device before it has computed there what it should: compilers, drivers and
GPUs are many. The plain formula is computed in fp64 on the CPU, of the same rounded inputs. Samples lie between pixels,
not at them, where the gradient of a position jumps.
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

# The largest difference, in units of the largest value. In the interpreter it is 8e-7, 6e-4 and 7e-3; products of fp32
# may be TF32 on a GPU.
TOLERANCES = {torch.float32: 2e-3, torch.float16: 5e-3, torch.bfloat16: 3e-2}
SIZES = [(9, 7), (4, 5), (2, 3)]
HEADS, DIM, POINTS = 8, 32, 4  # the released models', for which the kernels are compiled once
QUERIES, CHANNELS_OUT = 13, 16
REASON = 300  # characters of an error

Function = Callable[..., Tensor]


def first_use(what: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return what is wrong with the operator `what` on `device`, in words to report; empty if it computes rightly."""
    fused, plain, make = OPERATORS[what]
    try:
        with in_plain_torch(device):
            inputs = make(dtype)
            found = computed(fused, [x.to(device) if isinstance(x, Tensor) else x for x in inputs])
            expected = computed(plain, [x.double() if isinstance(x, Tensor) else x for x in inputs])
            worst = max(difference(ours, right) for ours, right in zip(found, expected, strict=True))
        reason = "" if worst <= TOLERANCES[dtype] else f"differs from the formula by {worst:.2g} of its largest value"
    except Exception as error:  # of the compiler, the driver, the launch: of any type
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:REASON]}"
    return f"Triton's {what} fails on {machine(device)} for {dtype} ({reason}; please report this line)" * bool(reason)


@contextmanager
def in_plain_torch(device: torch.device) -> Iterator[None]:
    """Compute with data and gradients, whatever is going on around: inference, mixed precision, tracing."""
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
    """The result of a function of some inputs, and the gradients of those that are tensors but the reference."""
    learned = [x.detach().requires_grad_() if isinstance(x, Tensor) and x.dim() > 2 else x for x in inputs]
    out = function(*learned)
    upstream = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).sin().view(out.shape).to(out)
    gradients = torch.autograd.grad(out, [x for x in learned if isinstance(x, Tensor) and x.requires_grad], upstream)
    return [x.detach().double().cpu() for x in (out, *gradients)]


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference in units of the largest value; infinite for other shapes and what is no number."""
    if found.shape != expected.shape:
        return float("inf")
    worst = (found - expected).abs().max() / expected.abs().max()
    return float(worst.nan_to_num(torch.inf))


def machine(device: torch.device) -> str:
    """A device with the versions that compile for it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    version = getattr(sys.modules.get("triton"), "__version__", "of an unknown version")
    return f"{name} with torch {torch.__version__}, triton {version}"


def parts(count: int) -> int:
    """Return `count`, of heads or of groups, which are programs; the interpreter takes seconds for each of them."""
    return 1 if interpreted() else count


def attention_inputs(dtype: torch.dtype) -> list[Any]:
    """The arguments of `fused_deformable_attention`, on the CPU."""
    random, heads = torch.Generator().manual_seed(0), parts(HEADS)
    value = torch.randn(2, sum(h * w for h, w in SIZES), heads, DIM, generator=random)
    reference = torch.rand(QUERIES, 2, generator=random)
    logits = torch.randn(2, QUERIES, heads, len(SIZES), POINTS, generator=random)
    offsets = between_pixels((*logits.shape, 2), random)
    for level, (height, width) in enumerate(SIZES):
        whole = reference * torch.tensor([width, height])
        offsets[:, :, :, level] += (whole.floor() - whole + 0.5)[:, None, None]
    return [value.to(dtype), SIZES, reference, offsets.to(dtype), logits.to(dtype)]


def convolution_inputs(dtype: torch.dtype) -> list[Tensor]:
    """The arguments of `fused_deform_conv2d`, on the CPU; its bias apart, which no kernel sees."""
    random, groups = torch.Generator().manual_seed(0), parts(GROUPS)
    x = torch.randn(2, groups * DIM, 6, 5, generator=random)
    offsets = between_pixels((2, groups * TAPS * 2, 6, 5), random)
    weight = torch.randn(CHANNELS_OUT, groups * DIM, 3, 3, generator=random)
    mask = torch.rand(2, groups * TAPS, 6, 5, generator=random)
    return [tensor.to(dtype) for tensor in (x, offsets, weight, torch.zeros(CHANNELS_OUT), mask)]


def between_pixels(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Distances of -2 to 2 pixels, each at least a quarter away from whole ones."""
    return torch.randint(-2, 2, shape, generator=random) + 0.25 + 0.5 * torch.rand(shape, generator=random)


OPERATORS: dict[str, tuple[Function, Function, Callable[[torch.dtype], list[Any]]]] = {
    "deformable attention": (fused_deformable_attention, sampled_attention, attention_inputs),
    "deformable convolution": (fused_deform_conv2d, sampled_deform_conv2d, convolution_inputs),
}
