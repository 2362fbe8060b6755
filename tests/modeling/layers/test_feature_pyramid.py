"""The learned doubling of the encoder-only head, whose backward pass recomputes activations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semask_d2.modeling.layers.feature_pyramid import LearnedDoubling


def plain(layer: LearnedDoubling, x: Tensor) -> Tensor:
    transposed, depthwise, norm = layer.transposed, layer.depthwise, layer.norm
    x = F.gelu(F.conv_transpose2d(x, transposed.weight, transposed.bias, stride=2))
    x = F.conv2d(x, depthwise.weight, padding=1, groups=x.shape[1])
    return F.layer_norm(x.movedim(1, -1), (x.shape[1],), norm.weight, norm.bias, 1e-6).movedim(-1, 1)


def test_outputs_and_gradients_are_those_of_the_plain_formula() -> None:
    layer = LearnedDoubling(6).double().train()
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64, requires_grad=True)
    y, expected = layer(x), plain(layer, x)
    torch.testing.assert_close(y, expected)
    weights = torch.randn_like(y)
    inputs = (x, *layer.parameters())
    torch.testing.assert_close(torch.autograd.grad(y, inputs, weights), torch.autograd.grad(expected, inputs, weights))


def test_one_enlarged_map_is_kept_for_the_backward_pass() -> None:
    layer = LearnedDoubling(6)
    x = torch.randn(1, 6, 8, 8, requires_grad=True)

    def kept_maps() -> int:
        kept: list[Tensor] = []

        def keep(saved: Tensor) -> Tensor:
            kept.append(saved)
            return saved

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
            y = layer(x)
        return len({saved.data_ptr() for saved in kept if saved.numel() == y.numel()})

    layer.train()
    assert kept_maps() == 1
    layer.eval()
    assert kept_maps() == 3  # the inputs of GELU, the convolution and the norm
