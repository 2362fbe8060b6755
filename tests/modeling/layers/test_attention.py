"""Attention against its plain formula, and the multi-head layer against torch's with the same weights."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from semask_d2.modeling.kernels import cpu_attention as module
from semask_d2.modeling.kernels.cpu_attention import LeanSelfAttention
from semask_d2.modeling.layers.attention import MultiheadAttention, attention


def plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    logits = scale * torch.einsum("bhqd,bhkd->bhqk", q, k)
    return torch.einsum("bhqk,bhkc->bhqc", (logits if bias is None else logits + bias).softmax(-1), v)


sizes = st.integers(1, 5)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    batch=sizes,
    heads=sizes,
    tokens=sizes,
    dim=sizes,
    channels=sizes,
    part=st.integers(1, 200),
    biased=st.booleans(),
    scale=st.sampled_from([None, 0.5]),
)
def test_attention_equals_its_formula_with_gradients(
    batch: int, heads: int, tokens: int, dim: int, channels: int, part: int, biased: bool, scale: float | None
) -> None:
    q, k = (torch.randn(batch, heads, tokens, dim, dtype=torch.float64, requires_grad=True) for _ in range(2))
    v = torch.randn(batch, heads, tokens, channels, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(heads, tokens, tokens, dtype=torch.float64, requires_grad=True) if biased else None
    inputs = [q, k, v, *([] if bias is None else [bias])]
    reference = plain_attention(q, k, v, bias, scale)
    with mock.patch.object(module, "PART", part):
        learnt = attention(q, k, v, bias, scale=scale)
        upstream = torch.randn_like(learnt)
        gradients = torch.autograd.grad(learnt, inputs, upstream)
    with torch.no_grad():
        seen = attention(q, k, v, bias, scale=scale)
    torch.testing.assert_close(learnt, reference)
    torch.testing.assert_close(seen, reference)
    torch.testing.assert_close(list(gradients), list(torch.autograd.grad(reference, inputs, upstream)))


def has_denormals(x: Tensor) -> bool:
    return bool(((x != 0) & (x.abs() < torch.finfo(x.dtype).tiny)).any())


def test_no_weight_and_no_gradient_is_denormal() -> None:
    """Denormal numbers are a hundred times slower on a CPU; logits of semantic attention are not scaled."""
    q, k, v = (factor * torch.randn(1, 1, 200, 30) for factor in (10, 10, 1))
    weights = module.attention_weights(q, k, None, slice(None), 1.0)
    expected = (q.double() @ k.double().transpose(2, 3)).softmax(-1)
    torch.testing.assert_close(weights.double(), expected, atol=1e-6, rtol=1e-3)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    output = LeanSelfAttention.apply(*inputs, None, 1.0)
    gradients = torch.autograd.grad(output, inputs, 1e-8 * torch.randn_like(output))
    assert not any(map(has_denormals, (weights, *gradients)))
    assert has_denormals(expected.float())  # otherwise this test proves nothing


def test_gradcheck_of_lean_self_attention() -> None:
    def random(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    inputs = (random(2, 2, 3, 4), random(2, 2, 3, 4), random(2, 2, 3, 5), random(2, 3, 3), 0.7)
    assert torch.autograd.gradcheck(LeanSelfAttention.apply, inputs)


def test_lean_self_attention_stores_no_weights() -> None:
    q, k, v = (torch.randn(2, 3, 50, 4, requires_grad=True) for _ in range(3))
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        attention(q, k, v)
    assert sum(kept) == 3 * q.numel() < 2 * 3 * 50 * 50


def pair(dim: int, heads: int) -> tuple[MultiheadAttention, nn.MultiheadAttention]:
    actual, other = MultiheadAttention(dim, heads), nn.MultiheadAttention(dim, heads, batch_first=True)
    for parameter in other.parameters():
        nn.init.normal_(parameter, std=0.3)
    actual.load_state_dict(other.state_dict())  # the same names and shapes
    return actual.double(), other.double()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("heads", [1, 4])
def test_equals_torch(heads: int, masked: bool) -> None:
    actual, other = pair(16, heads)
    query = torch.randn(3, 5, 16, dtype=torch.float64, requires_grad=True)
    key = torch.randn(3, 7, 16, dtype=torch.float64, requires_grad=True)
    value = torch.randn(3, 7, 16, dtype=torch.float64, requires_grad=True)
    attend = (torch.rand(3, 5, 7) > 0.6) if masked else None
    blocked = None
    if masked:
        attend[..., 0] |= ~attend.any(-1)
        blocked = (~attend).repeat_interleave(heads, dim=0)
    result = actual(query, key, value, attend)
    reference = other(query, key, value, attn_mask=blocked, need_weights=False)[0]
    torch.testing.assert_close(result, reference)
    upstream = torch.randn_like(result)
    actual_gradients = torch.autograd.grad(result, (query, key, value, *actual.parameters()), upstream)
    reference_gradients = torch.autograd.grad(reference, (query, key, value, *other.parameters()), upstream)
    for a, b in zip(actual_gradients, reference_gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_blocked_keys_have_no_influence() -> None:
    actual, _ = pair(8, 2)
    query, tokens = torch.randn(1, 2, 8, dtype=torch.float64), torch.randn(1, 4, 8, dtype=torch.float64)
    attend = torch.tensor([[[True, True, False, False], [True, True, True, True]]])
    before = actual(query, tokens, tokens, attend)
    tokens[:, 2:] += 5
    after = actual(query, tokens, tokens, attend)
    torch.testing.assert_close(before[:, 0], after[:, 0])
    assert not torch.allclose(before[:, 1], after[:, 1])


def test_dropout_acts_in_training_only() -> None:
    layer = MultiheadAttention(8, 2, dropout=0.5)
    x = torch.randn(1, 6, 8)
    with torch.no_grad():
        assert not torch.equal(layer(x, x, x), layer(x, x, x))
        layer.eval()
        assert torch.equal(layer(x, x, x), layer(x, x, x))


@pytest.mark.parametrize(("channels", "biased"), [(8, True), (5, False)], ids=["windows", "semantic"])
def test_bf16_attention_has_an_fp32_softmax(channels: int, biased: bool) -> None:
    """Compare with the formula on the same rounded inputs, with large logits, in parts of few heads."""
    q, k = (3 * torch.randn(3, 4, 7, 8).bfloat16() for _ in range(2))
    v = torch.randn(3, 4, 7, channels).bfloat16()
    bias = torch.randn(4, 7, 7).bfloat16() if biased else None
    with torch.no_grad(), mock.patch.object(module, "PART", 100), torch.autocast("cpu", torch.bfloat16):
        out = attention(q, k, v, bias)
    expected = plain_attention(q.float(), k.float(), v.float(), None if bias is None else bias.float(), None)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.05)
    weights = module.attention_weights(q, k, bias, slice(None), 1.0)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, 7))
