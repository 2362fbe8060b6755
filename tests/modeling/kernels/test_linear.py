"""The linear layer against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semask_d2.modeling.kernels import linear as module
from semask_d2.modeling.kernels.linear import linear
from semask_d2.modeling.layers.linear import Linear


@pytest.fixture(autouse=True, params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    return request.param


@pytest.mark.parametrize("shape", [(7,), (3, 7), (200, 7), (2, 40, 7), (2, 9, 11, 7), (1, 64, 7), (0, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_torchs_with_gradients(shape: tuple[int, ...], bias: bool) -> None:
    x = torch.randn(shape, requires_grad=True)
    weight, offset = torch.randn(5, 7, requires_grad=True), torch.randn(5, requires_grad=True) if bias else None
    arguments = [x, weight, *([offset] if bias else [])]
    actual, reference = linear(x, weight, offset), F.linear(x, weight, offset)
    assert torch.equal(actual, reference)  # training uses torch's function
    upstream = torch.randn_like(reference)
    gradients = [torch.autograd.grad(y, arguments, upstream) for y in (actual, reference)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, offset), reference, atol=1e-5, rtol=1e-5)


def test_views_that_are_not_contiguous() -> None:
    x, weight = torch.randn(2, 7, 80).transpose(1, 2), torch.randn(5, 7)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), atol=1e-5, rtol=1e-5)


def test_only_fp32_inference_on_several_threads_uses_onednn(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    x, weight = torch.randn(100, 7), torch.randn(5, 7)
    learned = weight.clone().requires_grad_()
    convolutions = []
    monkeypatch.setattr(F, "conv2d", lambda *args: convolutions.append(1) or torch.zeros(1, 5, 100, 1))
    linear(x, weight)
    with torch.inference_mode():
        linear(x, learned)
    detours = 2 * (threads > 1)
    assert len(convolutions) == detours
    linear(x, learned)
    linear(x.clone().requires_grad_(), weight)
    linear(x, weight, torch.zeros(5, requires_grad=True))
    linear(x.double(), weight.double())
    linear(x[: module.LEAST_TOKENS[torch.float32] - 1], weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    linear(x, weight)
    assert len(convolutions) == detours


@pytest.mark.parametrize("shape", [(256, 7), (2, 150, 7), (255, 7), (0, 7)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_bf16_products_of_many_tokens_with_a_bias_use_onednn(
    shape: tuple[int, ...], bias: bool, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight, offset = torch.randn(shape), torch.randn(5, 7), torch.randn(5) if bias else None
    calls = []
    convolve = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda *arguments: calls.append(1) or convolve(*arguments))
    halves = [None if t is None else t.bfloat16() for t in (x, weight, offset)]
    expected = F.linear(*(None if t is None else t.float() for t in halves))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = linear(x if autocast else halves[0], *halves[1:])
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.01, atol=0.01)
    assert len(calls) == (bias and x.numel() // 7 >= module.LEAST_TOKENS[torch.bfloat16])


def test_the_layer_is_torchs_by_its_state() -> None:
    layer = Linear(7, 5)
    assert isinstance(layer, nn.Linear)
    assert layer.state_dict().keys() == nn.Linear(7, 5).state_dict().keys()
