"""Semantic attention against the paper's formula, and its training from each initialization."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from semask_d2.config import with_defaults
from semask_d2.modeling.backbones.base import SemanticSettings
from semask_d2.modeling.layers.semantic_attention import SemanticAttention, SemanticLayer


def make_layer(dim: int, num_classes: int, *, window: int | None, **settings: object) -> SemanticLayer:
    """Build the layer of the paper, except for `settings`."""
    paper = {"num_blocks": 1, "init": "live", "kind": "pairwise", "residual": "normalized"}
    return SemanticLayer(dim, num_classes, window=window, **(paper | settings))


def awake(layer: nn.Module) -> nn.Module:
    """Return `layer` in float64 and evaluation mode with random parameters, including gamma and biases."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer.double().eval()


KINDS = ["pairwise", "scaled", "centers"]


def plain_attention(block: SemanticAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute gamma * mlp_res(y) for tokens (N, C) of one group, without batches or fused attention."""
    q, k, v = block.mlp_cls_q(x), block.mlp_cls_k(x), block.mlp_v(x)
    if block.kind == "centers":
        centers = [sum(torch.exp(q[n, c]) * v[n] for n in range(len(x))) / torch.exp(q[:, c]).sum() for c in range(5)]
        y = [sum(torch.exp(k[n, c]) * centers[c] for c in range(5)) / torch.exp(k[n]).sum() for n in range(len(x))]
        return block.gamma * block.mlp_res(torch.stack(y)), q
    weights = torch.exp(q @ k.T / (math.sqrt(5) if block.kind == "scaled" else 1))
    weights = weights / weights.sum(1, keepdim=True)
    return block.gamma * block.mlp_res(weights @ v), q


def plain_windows(layer: SemanticLayer, x: Tensor, blocks: list[SemanticAttention], residual: str) -> tuple:
    """Apply blocks to each window of a map (or the map) separately; they add to the tokens unless `residual` is raw."""
    b, h, w, c = x.shape
    size = layer.window
    rows, columns = (h, w) if size is None else (size, size)
    classes = blocks[0].mlp_cls_q.out_features
    ph, pw = math.ceil(h / rows) * rows, math.ceil(w / columns) * columns
    padded = x.new_zeros(b, ph, pw, c)
    padded[:, :h, :w] = x
    features, semantics = torch.zeros_like(padded), x.new_zeros(b, ph, pw, classes)
    for image in range(b):
        for top in range(0, ph, rows):
            for left in range(0, pw, columns):
                window = (image, slice(top, top + rows), slice(left, left + columns))
                tokens = padded[window].reshape(-1, c)
                for block in blocks:
                    attended, q = plain_attention(block, tokens)
                    tokens = attended if residual == "raw" else tokens + attended
                features[window] = tokens.view(rows, columns, c)
                semantics[window] = q.view(rows, columns, classes)
    return features[:, :h, :w], semantics[:, :h, :w]


def plain_layer(layer: SemanticLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    """Apply the norm and all blocks; with a raw residual, apply norm and block and add the result, block by block."""

    def norm(x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], layer.norm1.weight, layer.norm1.bias, 1e-5)

    if layer.residual == "normalized":
        return plain_windows(layer, norm(x), list(layer.class_injection), "normalized")
    semantics = x
    for block in layer.class_injection:
        attended, semantics = plain_windows(layer, norm(x), [block], "raw")
        x = x + attended
    return x, semantics


@pytest.mark.parametrize("num_blocks", [1, 3])
@pytest.mark.parametrize("window", [None, 3, 4])
@pytest.mark.parametrize("size", [(4, 4), (5, 7), (2, 3)])
def test_equals_the_plain_formula(size: tuple[int, int], window: int | None, num_blocks: int) -> None:
    check_against_the_formula(make_layer(6, 5, window=window, num_blocks=num_blocks), size)


@pytest.mark.parametrize("residual", ["normalized", "raw"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("window", "size"), [(None, (4, 4)), (3, (5, 7))])
def test_variants_equal_the_plain_formula(kind: str, residual: str, window: int | None, size: tuple[int, int]) -> None:
    check_against_the_formula(make_layer(6, 5, window=window, num_blocks=2, kind=kind, residual=residual), size)


def check_against_the_formula(layer: SemanticLayer, size: tuple[int, int]) -> None:
    layer = awake(layer)
    x = torch.randn(2, *size, 6, dtype=torch.float64)
    with torch.no_grad():
        features, semantics = layer(x)
        expected_features, expected_semantics = plain_layer(layer, x)
    torch.testing.assert_close(features, expected_features)
    torch.testing.assert_close(semantics, expected_semantics)


def test_windowed_and_global_share_parameters_but_compute_different_results() -> None:
    whole = awake(make_layer(6, 5, window=None))
    windowed = make_layer(6, 5, window=2).double().eval()
    windowed.load_state_dict(whole.state_dict())
    x = torch.randn(1, 4, 4, 6, dtype=torch.float64)
    with torch.no_grad():
        assert not torch.allclose(whole(x)[0], windowed(x)[0])
        torch.testing.assert_close(whole(x)[1], windowed(x)[1])  # the map of the first block is linear in the input
        windowed.window = 4  # one window that is the map
        torch.testing.assert_close(whole(x), windowed(x))


@pytest.mark.parametrize("residual", ["normalized", "raw"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind: str, residual: str) -> None:
    layer = awake(make_layer(4, 3, window=2, num_blocks=2, kind=kind, residual=residual))
    x = torch.randn(1, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    values = tuple(p.detach().clone().requires_grad_() for p in parameters)

    def run(x: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *values))


@pytest.mark.parametrize("init", ["live", "released", "small"])
def test_starts_as_the_identity_on_the_normalized_input(init: str) -> None:
    layer = make_layer(6, 5, window=2, num_blocks=2, init=init)
    x = torch.randn(2, 4, 4, 6)
    assert torch.equal(layer(x)[0], layer.norm1(x))
    for block in layer.class_injection:
        assert block.gamma.shape == (1,)
        assert not block.gamma.any()
        assert bool(block.mlp_res.weight.any()) == (init != "released")
        for linear in (block.mlp_cls_q, block.mlp_cls_k, block.mlp_v):
            assert not linear.bias.any()
            # kaiming_normal: standard deviation sqrt(2 / fan in)
            expected = 0.02 if init == "small" else math.sqrt(2 / 6)
            assert 0.2 < linear.weight.std() / expected < 2


def test_inits_differ_in_mlp_res_alone_and_compute_the_same_from_the_same_weights() -> None:
    live, released = (
        SemanticAttention(6, 5, init=init, kind="pairwise", residual="normalized").eval()
        for init in ("live", "released")
    )
    released.load_state_dict(live.state_dict())
    x = torch.randn(2, 9, 6)
    assert torch.equal(live(x)[0], released(x)[0])
    assert torch.equal(live(x)[1], released(x)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_raw_residual_starts_as_the_identity_and_has_a_gate_for_each_channel(kind: str) -> None:
    layer = make_layer(6, 5, window=2, num_blocks=2, kind=kind, residual="raw")
    x = torch.randn(2, 4, 4, 6)
    assert torch.equal(layer(x)[0], x)
    layer(x)[0].square().sum().backward()
    for block in layer.class_injection:
        assert block.gamma.shape == (6,)
        assert block.gamma.grad.abs().min() > 0


def test_centers_cover_the_full_map_at_linear_cost() -> None:
    settings = with_defaults(SemanticSettings, window=2, windowed_stages=[0, 1], attention="centers")
    assert [settings.layer(stage, 6).window for stage in range(4)] == [None] * 4
    layer = settings.layer(0, 6)
    with FlopCounterMode(display=False) as few:
        layer(torch.randn(1, 4, 4, 6))
    with FlopCounterMode(display=False) as many:
        layer(torch.randn(1, 16, 16, 6))
    assert many.get_total_flops() == 16 * few.get_total_flops()


def train(init: str, steps: int, **options: str) -> tuple[SemanticLayer, SemanticLayer, list[dict[str, Tensor]]]:
    """Return a layer before and after `steps` of AdamW on features and maps, and the gradients of each step."""
    torch.manual_seed(0)
    layer = make_layer(8, 5, window=None, init=init, **options).double().eval()
    before = copy.deepcopy(layer)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.01)
    x, target = torch.randn(2, 4, 4, 8, dtype=torch.float64), torch.randn(2, 4, 4, 8, dtype=torch.float64)
    labels = torch.randint(0, 5, (2, 4, 4))
    gradients = []
    for _ in range(steps):
        optimizer.zero_grad()
        features, semantics = layer(x)
        loss = F.mse_loss(features, target) + F.cross_entropy(semantics.permute(0, 3, 1, 2), labels)
        loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in layer.named_parameters()})
        optimizer.step()
    return before, layer, gradients


def test_the_released_init_never_learns_attention() -> None:
    before, after, gradients = train("released", steps=3)
    asleep = ("gamma", "mlp_res.weight", "mlp_v.weight", "mlp_v.bias", "mlp_cls_k.weight", "mlp_cls_k.bias")
    for name in (f"class_injection.0.{name}" for name in asleep):
        for gradient in gradients:
            assert not gradient[name].any(), name
    block = after.class_injection[0]
    assert not block.gamma.any()
    assert not block.mlp_res.weight.any()
    assert not torch.equal(block.mlp_cls_q.weight, before.class_injection[0].mlp_cls_q.weight)  # the map has a loss


@pytest.mark.parametrize("residual", ["normalized", "raw"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_live_init_trains_every_parameter_within_two_steps(kind: str, residual: str) -> None:
    """But in `mlp_cls_k.bias`: what it adds to a query's logits is the same for all keys, and softmax drops it.

    That is of pairs of tokens; of centers it weighs the classes.
    """
    _, _, gradients = train("live", steps=2, kind=kind, residual=residual)
    assert gradients[0]["class_injection.0.gamma"].abs().max() > 1e-6
    norm = torch.stack([g.norm() for g in gradients[1].values()]).norm()
    for name, gradient in gradients[1].items():
        if name.endswith("mlp_cls_k.bias") and kind != "centers":
            assert gradient.norm() < 1e-12
        else:
            assert gradient.norm() > 1e-6 * norm, name


def test_dropout_acts_on_the_attended_part_in_training() -> None:
    block = SemanticAttention(16, 3, init="live", kind="pairwise", residual="normalized")
    nn.init.ones_(block.gamma)
    x = torch.randn(4, 50, 16)
    attended = block(x)[0] - x
    dropped = (attended == 0).float().mean()
    assert 0.05 < dropped < 0.15  # 0.1
    assert not (block.eval()(x)[0] == x).any()
