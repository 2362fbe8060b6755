"""Whether Triton's kernels compute on this machine: by what it has, and by what the environment asks for."""

from __future__ import annotations

import functools
import os
import shutil
import warnings

import torch

from semask_d2.utils.errors import UserError

# of this process: what failed at its first use on a device, and what did not, for which values
FAILURES: dict[tuple[str, str], str] = {}
PASSED: set[tuple[str, str, torch.dtype]] = set()
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def served(variable: str, what: str, device: torch.device, dtype: torch.dtype, *, wanted: bool = True) -> bool:
    """Return whether `what` is computed by Triton on `device`, for values of `dtype`; a constant in graphs.

    The arguments are those of `refusal`, which says why not.
    """
    return not refusal(variable, what, device, dtype, wanted=wanted)


def refusal(variable: str, what: str, device: torch.device, dtype: torch.dtype, *, wanted: bool = True) -> str:
    """Return why `what` is not computed by Triton on `device`, for values of `dtype`; empty if it is.

    The environment's `variable` is `auto`, or nothing: where it can and is `wanted`; `plain`: never; or `triton`:
    wherever it can, and `UserError` where it cannot. So is any other value. That it can is known after its first use on
    a device, a small case computed in both ways; of a GPU that it cannot serve a warning tells, once.
    """
    choice = os.environ.get(variable) or "auto"
    if choice not in ("auto", "triton", "plain"):
        raise UserError(f"{variable}={choice!r}: expected auto, triton or plain; unset it to choose by the machine")
    if choice == "plain":
        return f"{variable}=plain"
    if choice == "auto" and not wanted:
        return f"for {str(dtype).removeprefix('torch.')}"
    if dtype not in DTYPES:
        problem = f"values of {dtype} are none of fp32, bf16 and fp16"
    else:
        problem = obstacle(device, interpreted()) or failed_check(what, device, dtype)
    if choice == "triton" and problem:
        raise UserError(f"{variable}=triton, but {problem}; unset it to choose by the machine")
    if problem and (device.type == "cuda" or interpreted()):
        warn_once(f"{problem}: {what} is by standard operators, which are slower")
    return problem


@functools.cache
def warn_once(text: str) -> None:
    """Warn, unless this process has done so."""
    warnings.warn(text, stacklevel=4)


def failed_check(what: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return what was wrong with Triton's `what` at its first use on `device`; empty if it computes rightly."""
    if (what, str(device)) in FAILURES:
        return FAILURES[what, str(device)]
    if (what, str(device), dtype) not in PASSED:
        from semask_d2.modeling.kernels.triton_check import first_use  # which imports the operators, and they this file

        if problem := first_use(what, device, dtype):
            FAILURES[what, str(device)] = problem
            return problem
        PASSED.add((what, str(device), dtype))
    return ""


# What `torch.compiler.assume_constant_result` does, as a test makes sure; that would import the compiler, 1.3 s for
# everyone. There is no other public way: tracing into `served` would run its first use, real kernels, within a graph,
# and by `torch.compiler.is_compiling()` it could not say what has not been found out before.
served._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def interpreted() -> bool:
    """Whether Triton's interpreter is asked for, which runs kernels on a CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def obstacle(device: torch.device, on_cpu: bool) -> str:
    """Why Triton cannot run a kernel on `device`, with `on_cpu` by its interpreter; empty if it can."""
    if device.type != "cuda" and not on_cpu:
        return f"Triton has no kernels for the device {device.type}"
    try:
        import triton.language
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    if not hasattr(triton.language, "tuple"):
        return f"Triton {triton.__version__} is too old; 3.3 or newer is needed"
    return "" if on_cpu else compilation_obstacle(device)


def compilation_obstacle(device: torch.device) -> str:
    """Why nothing can be compiled for the GPU `device`; empty if it can."""
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    if torch.version.cuda and torch.cuda.get_device_capability(device) < (7, 5):
        return f"{torch.cuda.get_device_name(device)} is older than what Triton compiles for (compute capability 7.5)"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton finds no C compiler: neither gcc nor clang, nor one that CC names"
    return ""
