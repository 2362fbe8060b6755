"""Choice between Triton kernels and standard operators, by the machine and by environment variables."""

from __future__ import annotations

import functools
import os
import shutil
import warnings

import torch

from semask_d2.utils.errors import UserError

# results of the first use on each device in this process: messages of failures, and dtypes that passed
FAILURES: dict[tuple[str, str], str] = {}
PASSED: set[tuple[str, str, torch.dtype]] = set()
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def served(variable: str, what: str, device: torch.device, dtype: torch.dtype, *, by_default: bool = True) -> bool:
    """Return whether Triton computes `what` on `device` for tensors of `dtype`; a constant in graphs.

    The arguments are those of `refusal`, which gives the reason if not.
    """
    return not refusal(variable, what, device, dtype, by_default=by_default)


def refusal(variable: str, what: str, device: torch.device, dtype: torch.dtype, *, by_default: bool = True) -> str:
    """Return the reason why Triton does not compute `what` on `device` for tensors of `dtype`; empty if it does.

    The environment `variable` is `auto` (or unset) to use Triton where it works and `by_default` is True, `plain` to
    never use it, or `triton` to always use it, with a `UserError` where it fails. Any other value is a `UserError`. The
    first use on a device compares a small case with the plain formula; a warning reports, once, a GPU where it fails.
    """
    choice = os.environ.get(variable) or "auto"
    if choice not in ("auto", "triton", "plain"):
        raise UserError(f"{variable}={choice!r}: expected auto, triton or plain; unset it to choose automatically")
    if choice == "plain":
        return f"{variable}=plain"
    if choice == "auto" and not by_default:
        return f"for {str(dtype).removeprefix('torch.')}"
    if dtype not in DTYPES:
        problem = f"{dtype} is not one of fp32, bf16 and fp16"
    else:
        problem = obstacle(device, interpreted()) or failed_check(what, device, dtype)
    if choice == "triton" and problem:
        raise UserError(f"{variable}=triton, but {problem}; unset it to choose automatically")
    if problem and (device.type == "cuda" or interpreted()):
        warn_once(f"{problem}: {what} uses standard operators, which are slower")
    return problem


@functools.cache
def warn_once(text: str) -> None:
    """Warn once per process."""
    warnings.warn(text, stacklevel=4)


def failed_check(what: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return the failure of Triton's `what` at its first use on `device`; empty if its results were correct."""
    if (what, str(device)) in FAILURES:
        return FAILURES[what, str(device)]
    if (what, str(device), dtype) not in PASSED:
        # imported late: it imports the operators, which import this file
        from semask_d2.modeling.kernels.triton_check import first_use

        if problem := first_use(what, device, dtype):
            FAILURES[what, str(device)] = problem
            return problem
        PASSED.add((what, str(device), dtype))
    return ""


# This is what `torch.compiler.assume_constant_result` does, as a test verifies; calling it would import the compiler,
# which takes 1.3 s for every user. There is no other public way: tracing into `served` would run the first use, with
# real kernels, within a graph, and skipping it while compiling would leave the question open.
served._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def interpreted() -> bool:
    """Return whether Triton's interpreter is enabled, which runs kernels on a CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def obstacle(device: torch.device, on_cpu: bool) -> str:
    """Return the reason why Triton cannot run on `device`, `on_cpu` by its interpreter; empty if it can."""
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
    """Return the reason why Triton cannot compile for the GPU `device`; empty if it can."""
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    if torch.version.cuda and torch.cuda.get_device_capability(device) < (7, 5):
        return f"{torch.cuda.get_device_name(device)} is older than what Triton compiles for (compute capability 7.5)"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton finds no C compiler: neither gcc nor clang, nor one that CC names"
    return ""
