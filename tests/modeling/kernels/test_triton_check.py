"""First use of a Triton operator: any failure falls back to standard operators, with one warning and a reason.

The operators are stand-ins here; `triton_deformable_*_cases.py` breaks the kernels themselves, in the interpreter.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from semask_d2.engine.setup import operator
from semask_d2.modeling.kernels import triton_check, triton_choice, triton_deformable_attention, triton_deformable_conv
from semask_d2.modeling.kernels.plain_deformable_attention import sampled_attention
from semask_d2.modeling.kernels.plain_deformable_conv import sampled_deform_conv2d
from semask_d2.utils.errors import UserError
from tests.helpers.triton_state import fresh_triton_state

CPU = torch.device("cpu")
PLAIN = {
    "deformable attention": (triton_deformable_attention, sampled_attention),
    "deformable convolution": (triton_deformable_conv, sampled_deform_conv2d),
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class WrongGradient(torch.autograd.Function):
    """Function with a correct forward and a wrong backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:
        return 1.1 * gradients[0]


class CompilationError(Exception):
    """Error of a compiler, of a type unknown to torch."""


def raising(result: Tensor) -> Tensor:
    raise CompilationError("PTXAS error: \n  no kernel image")


DOUBTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "wrong result": (lambda result: 1.1 * result, "differs from the formula by 0.1 of its largest value"),
    "one wrong value": (lambda result: result + torch.eye(result[0, 0].numel())[0].view(result[0, 0].shape), "differs"),
    "no number": (lambda result: result * torch.nan, "differs from the formula by inf"),
    "wrong gradient": (WrongGradient.apply, "differs from the formula by 0.1 "),
    "an error": (raising, r"CompilationError: PTXAS error: no kernel image; please report"),
    "another shape": (lambda result: result[..., :1], "differs from the formula by inf"),
}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Simulate a device that can run Triton, with no earlier results."""
    for module, _ in PLAIN.values():
        monkeypatch.delenv(module.VARIABLE, raising=False)
    with fresh_triton_state():
        monkeypatch.setattr(triton_choice, "obstacle", lambda device, on_cpu: "")
        monkeypatch.setenv("TRITON_INTERPRET", "1")  # warnings are only for devices that Triton runs on
        yield


def stand_in(monkeypatch: pytest.MonkeyPatch, what: str, change: Callable[[Tensor], Tensor]) -> list[None]:
    """Replace a kernel by the formula with `change` applied; the returned list grows with each call."""
    calls: list[None] = []
    plain, make = triton_check.OPERATORS[what][1:]

    def fused(*arguments) -> Tensor:
        calls.append(None)
        exact = [x.double() if isinstance(x, Tensor) else x for x in arguments]
        return change(plain(*exact).to(arguments[0].dtype))

    monkeypatch.setitem(triton_check.OPERATORS, what, (fused, plain, make))
    return calls


@pytest.mark.parametrize("what", PLAIN)
def test_a_correct_kernel_is_used_and_checked_once_per_device_and_dtype(what: str, monkeypatch) -> None:
    calls = stand_in(monkeypatch, what, lambda result: result)
    refusal = PLAIN[what][0].triton_refusal
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            for dtype in (torch.bfloat16, torch.float16):
                assert refusal(CPU, dtype) == ""
    assert len(calls) == 2
    assert operator("", "plain", CPU) == "Triton (checked)"


@pytest.mark.parametrize("what", PLAIN)
@pytest.mark.parametrize("doubt", DOUBTS)
def test_a_failure_falls_back_to_standard_operators_with_one_warning(what: str, doubt: str, monkeypatch) -> None:
    change, reason = DOUBTS[doubt]
    calls = stand_in(monkeypatch, what, change)
    module = PLAIN[what][0]
    values = [torch.zeros(1, dtype=dtype) for dtype in (torch.bfloat16, torch.float16, torch.bfloat16)]
    with pytest.warns(UserWarning, match=rf"Triton's {what} fails on cpu with torch .*triton .*{reason}") as caught:
        assert not sum(module.triton_serves(value) for value in values)
    assert len(caught) == len(calls) == 1  # a failure of one dtype applies to all others
    assert f"{what} uses standard operators" in str(caught[0].message)
    text = operator(module.triton_refusal(CPU, torch.bfloat16), "plain", torch.device("cuda"))
    assert text.startswith(f"plain (Triton's {what} fails on ")


@pytest.mark.parametrize("what", PLAIN)
def test_forcing_triton_raises_an_error(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, what, raising)
    module = PLAIN[what][0]
    monkeypatch.setenv(module.VARIABLE, "triton")
    for _ in range(2):
        with pytest.raises(UserError, match=f"{module.VARIABLE}=triton, but Triton's {what} fails .*please report"):
            module.triton_serves(torch.zeros(1))


def test_results_are_separate_for_each_operator_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "deformable attention", raising)
    stand_in(monkeypatch, "deformable convolution", lambda result: result)
    with pytest.warns(UserWarning, match="deformable attention"):
        assert triton_deformable_attention.triton_refusal(CPU, torch.bfloat16)
    assert not triton_deformable_conv.triton_refusal(CPU, torch.bfloat16)
    calls = stand_in(monkeypatch, "deformable attention", lambda result: result)
    assert not triton_deformable_attention.triton_refusal(torch.device("cpu:1"), torch.bfloat16)
    assert calls == [None]


def test_the_check_is_independent_of_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "deformable attention", lambda result: result)
    state = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu"):
        assert not triton_deformable_attention.triton_refusal(CPU, torch.float32)
    triton_choice.PASSED.clear()
    with FakeTensorMode():
        assert not triton_deformable_attention.triton_refusal(CPU, torch.float32)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("what", PLAIN)
def test_samples_lie_between_pixels_in_every_dtype(what: str, dtype: torch.dtype) -> None:
    """At pixel centers gradients of positions jump, and two correct implementations would differ."""
    _, _, make = triton_check.OPERATORS[what]
    inputs = make(dtype)
    if what == "deformable attention":
        _, sizes, reference, offsets, _ = inputs
        extents = torch.tensor([[width, height] for height, width in sizes])
        places = (reference[:, None] * extents)[:, None, :, None] - 0.5 + offsets.double()
    else:
        places = inputs[1].double()
    assert ((places - places.round()).abs() > 0.1).all()


def test_the_choice_is_marked_as_torch_marks_constants() -> None:
    """The attribute is the one that torch's decorator sets."""

    def plain() -> None:
        pass

    before = {*vars(plain)}
    torch.compiler.assume_constant_result(plain)
    marks = {name: value for name, value in vars(plain).items() if name not in before}
    assert marks
    assert vars(triton_choice.served).items() >= marks.items()
