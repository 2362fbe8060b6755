"""Every publisher's layout is recognized and converted, and computes the same as the published model."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from semask_d2.checkpoint import LoadReport, load_weights
from semask_d2.checkpoint.conversion import fit_bias_table
from semask_d2.config import with_defaults
from semask_d2.modeling.backbones.base import SemanticSettings
from semask_d2.modeling.backbones.timm_backbone import SeMaskTimm
from semask_d2.utils.errors import UserError
from tests.helpers.small_models import (
    HEADS,
    SmallModel,
    backbone_state,
    microsoft_swin,
    mit_model,
    released,
    same,
    snapshot,
    swin_model,
)
from tests.helpers.tiny_model import randomize


def load(model: SmallModel, content: dict, folder: Path, **kwargs: bool) -> LoadReport:
    torch.save(content, folder / "w.pth")
    return load_weights(model, folder / "w.pth", **kwargs)


def features(model: SmallModel, image: Tensor) -> dict[str, Tensor]:
    """Return the backbone's features without output norms, which ImageNet weights do not have."""
    with torch.no_grad():
        for i in range(4):
            torch.nn.init.ones_(getattr(model.backbone, f"norm{i}").weight)
            torch.nn.init.zeros_(getattr(model.backbone, f"norm{i}").bias)
        return model.backbone(image)


@pytest.mark.parametrize("decoder", HEADS)
def test_released_models(tmp_path: Path, decoder: str) -> None:
    source, model = swin_model(decoder), swin_model(decoder)
    report = load(model, released(decoder, snapshot(source)), tmp_path)
    assert same(snapshot(model), snapshot(source))
    assert report.kind == f"released {decoder}"
    assert report.complete
    assert len(report.matched) == len(source.state_dict())
    assert report.unexpected == []
    assert report.dropped == ([] if decoder == "FPN" else ["criterion.empty_weight"])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_our_own(tmp_path: Path, prefix: str) -> None:
    source, model = swin_model(), swin_model()
    state = {prefix + name: value for name, value in snapshot(source).items()}
    report = load(model, {"model": state, "trainer": {}, "iteration": 3}, tmp_path)
    assert same(snapshot(model), snapshot(source))
    assert report.kind == "semask_d2 checkpoint"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_become_the_models(tmp_path: Path, dtype: torch.dtype) -> None:
    source, model = swin_model(), swin_model()
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in snapshot(source).items()}
    load(model, {"model": state}, tmp_path)
    for name, value in model.state_dict().items():
        assert value.dtype == source.state_dict()[name].dtype
        assert torch.equal(value, state[name].to(value.dtype)), name


def test_microsofts_swin_computes_the_same(tmp_path: Path) -> None:
    source, model = swin_model(num_blocks=0), swin_model(num_blocks=0)
    before = snapshot(model)
    report = load(model, microsoft_swin(source), tmp_path, training_start=True)
    assert report.kind == "ImageNet Swin of Microsoft"
    assert {name for name in report.missing if name.startswith("backbone.norm")} == {
        f"backbone.norm{i}.{leaf}" for i in range(4) for leaf in ("weight", "bias")
    }
    assert {"norm.weight", "head.weight", "layers.0.blocks.1.attn_mask"} <= set(report.dropped)
    assert report.unexpected == []
    for name, value in model.sem_seg_head.state_dict().items():
        assert torch.equal(value, before[f"sem_seg_head.{name}"])
    image = torch.randn(1, 3, 72, 100)
    ours, published = features(model, image), features(source, image)
    assert all(torch.equal(ours[name], published[name]) for name in published)


@pytest.mark.parametrize("publisher", ["timm", "Microsoft"])
def test_timms_swin_computes_the_same(tmp_path: Path, publisher: str) -> None:
    """Compare with timm's model at a size that needs no padding; timm's files come in either layout."""
    from timm.models.swin_transformer import SwinTransformer

    published = randomize(
        SwinTransformer(
            img_size=256, patch_size=4, window_size=4, embed_dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 4)
        )
    ).eval()
    state = snapshot(published)
    if publisher == "Microsoft":
        for i in range(1, 4):
            for leaf in ("norm.weight", "norm.bias", "reduction.weight"):
                state[f"layers.{i - 1}.downsample.{leaf}!"] = state.pop(f"layers.{i}.downsample.{leaf}")
        state = {name.removesuffix("!"): value for name, value in state.items()}
    model = swin_model(num_blocks=0)
    report = load(model, state, tmp_path, training_start=True)
    assert report.kind == f"ImageNet Swin of {publisher}"
    assert report.unexpected == []
    image = torch.randn(1, 3, 256, 256)
    ours = features(model, image)
    with torch.no_grad():
        stages = published.forward_intermediates(image, intermediates_only=True)
    for i, stage in enumerate(stages):
        tokens = stage.permute(0, 2, 3, 1)
        expected = F.layer_norm(tokens, tokens.shape[-1:]).permute(0, 3, 1, 2)
        torch.testing.assert_close(ours[f"res{i + 2}"], expected, rtol=1e-5, atol=1e-5)


def test_detectron2s_pickle_of_a_swin(tmp_path: Path) -> None:
    source, model = swin_model(), swin_model()
    state = {name: value.numpy() for name, value in microsoft_swin(source)["model"].items()}
    data = {"model": state, "__author__": "third_party", "matching_heuristics": True}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(data))
    report = load_weights(model, tmp_path / "w.pkl", training_start=True)
    assert report.kind == "ImageNet Swin of Microsoft"
    for name in report.matched:
        assert torch.equal(model.state_dict()[name], source.state_dict()[name])


def test_another_windows_bias_tables_are_interpolated(tmp_path: Path) -> None:
    source, model = swin_model(window=7), swin_model(window=4)
    report = load(model, microsoft_swin(source), tmp_path, training_start=True)
    assert report.notes == ["8 bias tables interpolated from window 7 to 4"]
    name = "layers.2.blocks.1.attn.relative_position_bias_table"
    table, expected = model.backbone.state_dict()[name], source.backbone.state_dict()[name]
    for head in range(expected.shape[1]):
        grid = expected[:, head].reshape(1, 1, 13, 13)
        grid = F.interpolate(grid, (7, 7), mode="bicubic", align_corners=False)
        assert torch.allclose(table[:, head], grid.flatten(), atol=1e-6)
    assert torch.equal(
        model.backbone.layers[0].blocks[0].attn.relative_position_index,
        swin_model(window=4).backbone.layers[0].blocks[0].attn.relative_position_index,
    )


def test_an_interpolated_bias_keeps_its_axes_and_its_center() -> None:
    """A bias that falls only with vertical distance still does after interpolation, and its center stays the center."""
    side = torch.arange(-6.0, 7.0)
    table = torch.stack([side[:, None].expand(13, 13).flatten(), torch.full((169,), 3.0)], 1)
    grid = fit_bias_table(table, 23**2)[:, 0].view(23, 23)
    assert torch.allclose(grid, grid[:, :1].expand(23, 23))
    assert (grid[1:, 0] > grid[:-1, 0]).all()
    assert torch.allclose(grid[:, 0], -grid[:, 0].flip(0), atol=1e-5)
    assert torch.allclose(fit_bias_table(table, 23**2)[:, 1], torch.tensor(3.0))


@pytest.mark.parametrize("side", [32, 64])
def test_absolute_position_embeddings(tmp_path: Path, side: int) -> None:
    source = swin_model(num_blocks=0, ape=True, pretrain_img_size=32)
    model = swin_model(num_blocks=0, ape=True, pretrain_img_size=side)
    load(model, microsoft_swin(source), tmp_path, training_start=True)
    published = source.backbone.absolute_pos_embed
    if side == 32:
        assert torch.equal(model.backbone.absolute_pos_embed, published)
        image = torch.randn(1, 3, 40, 64)
        ours, expected = features(model, image), features(source, image)
        assert all(torch.equal(ours[name], expected[name]) for name in expected)
    else:
        expected = F.interpolate(published, (16, 16), mode="bicubic", align_corners=False)
        assert torch.allclose(model.backbone.absolute_pos_embed, expected)


def test_published_mix_transformers(tmp_path: Path) -> None:
    source, model = mit_model(), mit_model()
    state = {name: value for name, value in backbone_state(source).items() if "semantic_layer" not in name}
    report = load(
        model, {**state, "head.weight": torch.ones(10, 16), "head.bias": torch.ones(10)}, tmp_path, training_start=True
    )
    assert report.kind == "ImageNet Mix Transformer"
    assert report.dropped == ["head.weight", "head.bias"]
    assert len(report.matched) == len(state)
    assert all(name.startswith(("backbone.semantic_layer", "sem_seg_head.")) for name in report.missing)
    for name, value in state.items():
        assert torch.equal(model.backbone.state_dict()[name], value)


def test_weights_of_a_timm_backbone(tmp_path: Path) -> None:
    import timm

    name = "convnext_atto"
    published = timm.create_model(name, num_classes=7)
    model = SmallModel(
        with_defaults(SeMaskTimm, name=name, semantic=with_defaults(SemanticSettings), freeze_at=0), HEADS["FPN"]
    )
    report = load(model, published.state_dict(), tmp_path, training_start=True)
    assert report.kind == "timm model"
    assert report.unexpected == []
    assert not any(name.startswith("backbone.body.") for name in report.missing)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = published.eval().forward_intermediates(image, intermediates_only=True)[0]
        body = model.backbone.body.eval()
        ours = body["stages_0"](body["stem_1"](body["stem_0"](image)))
    assert torch.equal(ours, expected)


def test_weights_of_efficientnet_pytorch(tmp_path: Path) -> None:
    """Load the same tensors as timm's in the same order, under other names."""
    import timm

    published = timm.create_model("tf_efficientnet_lite0", num_classes=7).state_dict()
    named = {}
    for number, (name, value) in enumerate(published.items()):
        prefix = {"conv_stem": "_conv_stem", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
        start = name.split(".")[0]
        named[f"{prefix.get(start, f'_blocks.0._depthwise_conv.{number}')}.{name}"] = value
    model = SmallModel(
        with_defaults(SeMaskTimm, name="tf_efficientnet_lite0", semantic=with_defaults(SemanticSettings), freeze_at=0),
        HEADS["FPN"],
    )
    report = load(model, named, tmp_path, training_start=True)
    assert report.kind == "EfficientNet of efficientnet_pytorch"
    assert report.unexpected == []
    for name, value in model.backbone.body.state_dict().items():
        assert torch.equal(value, published[name])
    other = {name: value for name, value in named.items() if "_conv_stem" not in name} | {"_conv_stem.x": torch.ones(3)}
    with pytest.raises(UserError, match="do not fit"):
        load(model, other, tmp_path, training_start=True)


def test_arrays_in_a_torch_file(tmp_path: Path) -> None:
    source, model = swin_model(), swin_model()
    load(model, {"model": {name: value.numpy() for name, value in snapshot(source).items()}}, tmp_path)
    assert same(snapshot(model), snapshot(source))
