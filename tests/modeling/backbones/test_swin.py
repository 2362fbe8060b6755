"""SeMask Swin: shapes at any resolution, parameter names, and parts against explicit formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semask_d2.d2 import build_backbone
from semask_d2.modeling.backbones.swin import D2SeMaskSwinTransformer, PatchEmbed, PatchMerging
from semask_d2.modeling.layers.drop_path import DropPath
from semask_d2.utils.arguments import ArgumentError
from tests.helpers.tiny_model import CLASSES, randomize, tiny_cfg


def build(**options: object) -> D2SeMaskSwinTransformer:
    torch.manual_seed(0)
    return build_backbone(tiny_cfg(**{f"MODEL__SWIN__{key}": value for key, value in options.items()}))


def loss(outputs: dict[str, Tensor]) -> Tensor:
    return sum(x.square().mean() for x in outputs.values())


BACKBONE = build().eval()


@settings(deadline=None, derandomize=True, max_examples=25)
@given(height=st.integers(1, 90), width=st.integers(1, 90))
def test_outputs_agree_with_output_shape_at_any_resolution(height: int, width: int) -> None:
    with torch.no_grad():
        outputs = BACKBONE(torch.randn(1, 3, height, width))
    shapes = BACKBONE.output_shape()
    assert list(shapes) == [*(f"res{i}" for i in range(2, 6)), *(f"sem{i}" for i in range(2, 6))]
    assert outputs.keys() == shapes.keys()
    for name, shape in shapes.items():
        stride = 2 ** int(name[-1])
        assert shape.stride == stride
        assert shape.channels == (CLASSES if name.startswith("sem") else 4 * stride)
        assert outputs[name].shape == (1, shape.channels, math.ceil(height / stride), math.ceil(width / stride))
        assert outputs[name].isfinite().all()


def test_size_divisibility_is_the_coarsest_stride() -> None:
    assert BACKBONE.size_divisibility == 32


def test_images_of_a_batch_are_independent() -> None:
    backbone = randomize(build()).eval()
    x = torch.randn(2, 3, 50, 70)
    with torch.no_grad():
        both, second = backbone(x), backbone(x[1:])
    for name in both:
        torch.testing.assert_close(both[name][1:], second[name], atol=1e-5, rtol=1e-4)


def test_every_parameter_has_a_gradient() -> None:
    backbone = randomize(build(NUM_SEM_BLOCKS=2)).eval()
    loss({name: x.sin() for name, x in backbone(torch.randn(2, 3, 70, 64)).items()}).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("mlp_cls_k.bias"):  # softmax ignores a constant added to all keys
            assert parameter.grad.norm() > 1e-9, name


def test_features_leave_through_the_stage_norm() -> None:
    backbone = randomize(build()).eval()
    stage_outputs = []
    backbone.layers[1].semantic_layer.register_forward_hook(lambda module, args, out: stage_outputs.append(out))
    with torch.no_grad():
        outputs = backbone(torch.randn(1, 3, 64, 64))
    features, semantics = stage_outputs[0]
    expected = F.layer_norm(features, features.shape[-1:], backbone.norm1.weight, backbone.norm1.bias, 1e-5)
    torch.testing.assert_close(outputs["res3"], expected.permute(0, 3, 1, 2))
    torch.testing.assert_close(outputs["sem3"], semantics.permute(0, 3, 1, 2))


def test_the_semantic_layer_feeds_the_next_stage() -> None:
    """Patch merging of the next stage uses the features of the semantic layer, not of the blocks."""
    backbone = randomize(build()).eval()
    seen = {}
    backbone.layers[0].semantic_layer.register_forward_hook(lambda m, args, out: seen.update(features=out[0]))
    backbone.layers[0].downsample.register_forward_hook(lambda m, args, out: seen.update(input=args[0]))
    with torch.no_grad():
        backbone(torch.randn(1, 3, 64, 64))
    assert torch.equal(seen["features"], seen["input"])


@pytest.mark.parametrize("size", [(8, 8), (5, 6), (1, 3)])
def test_patch_embedding(size: tuple[int, int]) -> None:
    layer = PatchEmbed(4, 3, 8, norm=True)
    x = torch.randn(2, 3, *size)
    h, w = (math.ceil(side / 4) for side in size)
    padded = torch.zeros(2, 3, 4 * h, 4 * w)
    padded[..., : size[0], : size[1]] = x
    patches = padded.view(2, 3, h, 4, w, 4).permute(0, 2, 4, 1, 3, 5).reshape(2, h, w, 48)
    expected = F.layer_norm(patches @ layer.proj.weight.view(8, 48).T + layer.proj.bias, (8,))
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)
    assert PatchEmbed(4, 3, 8, norm=False)(x).shape == (2, h, w, 8)


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (1, 1)])
def test_patch_merging(size: tuple[int, int]) -> None:
    """Neighbors are in the order (row, column) (0,0) (1,0) (0,1) (1,1), and zero beyond odd sizes."""
    layer = PatchMerging(6)
    assert layer.reduction.bias is None
    x = torch.randn(2, *size, 6)
    h, w = (math.ceil(side / 2) for side in size)
    expected = torch.empty(2, h, w, 12)
    for i in range(h):
        for j in range(w):
            parts = []
            for di, dj in ((0, 0), (1, 0), (0, 1), (1, 1)):
                inside = 2 * i + di < size[0] and 2 * j + dj < size[1]
                parts.append(x[:, 2 * i + di, 2 * j + dj] if inside else torch.zeros(2, 6))
            expected[:, i, j] = layer.reduction(layer.norm(torch.cat(parts, -1)))
    torch.testing.assert_close(layer(x), expected)


def test_without_semantic_blocks_it_is_a_plain_swin() -> None:
    backbone = build(NUM_SEM_BLOCKS=0)
    assert list(backbone.output_shape()) == ["res2", "res3", "res4", "res5"]
    assert backbone(torch.randn(1, 3, 40, 40)).keys() == backbone.output_shape().keys()
    assert not any("semantic_layer" in name for name in backbone.state_dict())


def test_several_semantic_blocks() -> None:
    names = build(NUM_SEM_BLOCKS=3).state_dict()
    assert "layers.3.semantic_layer.class_injection.2.gamma" in names
    assert "layers.3.semantic_layer.class_injection.3.gamma" not in names


def test_windowed_stages_change_results_but_no_shape() -> None:
    x = torch.randn(1, 3, 80, 80)
    outputs, shapes = [], []
    rules = ([], [0], [1], [0, 1], [0, 1, 2, 3])
    for rule in rules:
        backbone = randomize(build(SEM_WINDOWED_STAGES=rule)).eval()
        assert [stage.semantic_layer.window for stage in backbone.layers] == [
            4 if i in rule else None for i in range(4)
        ]
        torch.manual_seed(1)
        for parameter in backbone.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        shapes.append({name: tensor.shape for name, tensor in backbone.state_dict().items()})
        with torch.no_grad():
            outputs.append(backbone(x)["res3"])
    assert all(s == shapes[0] for s in shapes)
    distinct = [0, 1, 2, 3]  # stages 2 and 3 come after res3
    for i in distinct:
        for j in distinct[:i]:
            assert not torch.allclose(outputs[i], outputs[j], atol=1e-4), (rules[i], rules[j])
    torch.testing.assert_close(outputs[3], outputs[4])


def test_both_starts_compute_the_same_at_first() -> None:
    live, released = build(SEM_INIT="live").eval(), build(SEM_INIT="released").eval()
    released.load_state_dict(
        {**released.state_dict(), **{k: v for k, v in live.state_dict().items() if "mlp_res" not in k}}
    )
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        a, b = live(x), released(x)
    for name in a:
        torch.testing.assert_close(a[name], b[name])


def test_train_and_eval_return_the_module() -> None:
    backbone = build()
    assert backbone.train() is backbone
    assert backbone.training
    assert backbone.train(False) is backbone
    assert not backbone.training
    assert backbone.eval() is backbone


def test_checkpointing_gives_the_same_gradients() -> None:
    x = torch.randn(2, 3, 64, 48)
    gradients = []
    for use_checkpoint in (False, True):
        backbone = build(USE_CHECKPOINT=use_checkpoint, DROP_PATH_RATE=0.4).train()
        torch.manual_seed(2)
        loss(backbone(x)).backward()
        gradients.append([parameter.grad for parameter in backbone.parameters()])
    for a, b in zip(*gradients, strict=True):
        if a is None or b is None:
            assert a is b
        else:
            torch.testing.assert_close(a, b)


def test_checkpointing_keeps_fewer_tensors() -> None:
    x = torch.randn(1, 3, 64, 64)
    saved = []
    for use_checkpoint in (False, True):
        backbone = build(USE_CHECKPOINT=use_checkpoint).train()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            backbone(x)
        saved.append(sum(sizes))
    assert saved[1] < saved[0]


def test_drop_path_rises_linearly_over_all_blocks() -> None:
    backbone = build(DROP_PATH_RATE=0.3)
    rates = [module.p for module in backbone.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0, 0.075, 0.15, 0.225, 0.3])


def test_windows_alternate_between_plain_and_shifted() -> None:
    backbone = build(DEPTHS=[1, 3, 2, 1])
    shifts = [[block.attn.shift for block in stage.blocks] for stage in backbone.layers]
    assert shifts == [[0], [0, 2, 0], [0, 2], [0]]


def test_absolute_position_embedding_is_resized_to_the_map() -> None:
    backbone = build(APE=True, PRETRAIN_IMG_SIZE=32).eval()
    assert backbone.absolute_pos_embed.shape == (1, 16, 8, 8)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        seen = []
        backbone.pos_drop.register_forward_hook(lambda module, args, out: seen.append(out))
        backbone(x)
        expected = backbone.patch_embed(x) + backbone.absolute_pos_embed.permute(0, 2, 3, 1)
        torch.testing.assert_close(seen[0], expected)
        assert backbone(torch.randn(1, 3, 50, 70))["res2"].shape[-2:] == (13, 18)


def test_out_features_choose_the_features_and_their_norms() -> None:
    backbone = build(OUT_FEATURES=["res3", "res5"], NUM_SEM_BLOCKS=0)
    assert list(backbone.output_shape()) == ["res3", "res5"]
    assert backbone(torch.randn(1, 3, 64, 64)).keys() == {"res3", "res5"}
    assert {name.split(".")[0] for name in backbone.state_dict()} == {"patch_embed", "layers", "norm1", "norm3"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SEM_WINDOWED_STAGES", [0, 4]),
        ("SEM_WINDOWED_STAGES", [-1]),
        ("SEM_INIT", "dead"),
    ],
)
def test_bad_values_are_named(key: str, value: object) -> None:
    with pytest.raises(ArgumentError) as caught:
        build(**{key: value})
    assert f"MODEL.SWIN.{key}" in str(caught.value)
    assert str(value) in str(caught.value)
