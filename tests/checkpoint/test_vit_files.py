"""Files of plain ViTs start a model: recognized, complete, resampled as timm does, and computing what timm's does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from semask_d2.checkpoint import load_weights
from semask_d2.checkpoint.conversion import grid_sides
from semask_d2.config import with_defaults
from semask_d2.modeling.backbones.base import SemanticSettings
from semask_d2.modeling.backbones.vit import SeMaskViT
from semask_d2.utils.errors import UserError
from tests.helpers.hub_server import Hub
from tests.helpers.small_models import HEADS, SmallModel, same, snapshot
from tests.helpers.tiny_model import randomize

SMALL = {"embed_dim": 48, "depth": 4, "num_heads": 3}
FAMILIES = {
    "supervised": "vit_tiny_patch16_224",
    "DINOv2": "vit_small_patch14_dinov2",
    "DINOv2 with registers": "vit_small_patch14_reg4_dinov2",
    "DINOv3": "vit_small_patch16_dinov3",
    "DINOv3 with biases": "vit_small_patch16_dinov3_qkvb",
    "EVA-02": "eva02_tiny_patch14_224",
    "SigLIP": "vit_base_patch16_siglip_224",
}
FRESH = ("sem_seg_head.", "backbone.semantic_layers.", "backbone.norms.", "backbone.pyramid.")


def published(name: str, **sizes: int) -> nn.Module:
    """Return a small timm model of this family with random parameters, and its classifier."""
    return randomize(timm.create_model(name, num_classes=7, **(SMALL | sizes))).eval()


def vit_model(name: str, **sizes: int) -> SmallModel:
    """Return a SeMask model on a small ViT of this family."""
    semantic = with_defaults(SemanticSettings, num_classes=19, windowed_stages=[], residual="raw")
    shared: dict[str, Any] = {"semantic": semantic, "freeze_at": 0, "checkpointing": [], "drop_path_rate": 0.0}
    return SmallModel(with_defaults(SeMaskViT, name=name, **(SMALL | sizes), **shared), HEADS["FPN"]).eval()


def write(state: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@torch.no_grad()
def last_map(model: SmallModel, images: Tensor) -> Tensor:
    """Return the output of the last block (B, C, h, w), with semantic layers that change nothing."""
    for layer in model.backbone.semantic_layers:
        layer.class_injection[0].gamma.data.zero_()
    return model.backbone.taps(images)[-1][0].permute(0, 3, 1, 2)


@torch.no_grad()
def timms_map(body: nn.Module, images: Tensor) -> Tensor:
    return body.forward_intermediates(images, indices=1, intermediates_only=True)[0]


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("name", FAMILIES.values(), ids=FAMILIES)
def test_a_file_of_timm_starts_a_model(name: str, suffix: str, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    body = published(name, img_size=112)
    path = write(body.state_dict(), tmp_path / f"w.{suffix}")
    model = vit_model(name, img_size=112)
    before = snapshot(model)
    report = load_weights(model, path, training_start=True)
    assert report.kind == "timm model"
    assert (report.unexpected, report.misshaped, report.notes) == ([], [], [])
    assert {name for name in before if not name.startswith("backbone.body.")} == set(report.missing)
    assert all(name.startswith(FRESH) for name in report.missing)
    assert any(name.startswith("backbone.pyramid.") for name in report.missing)
    assert f"{path}: timm model: {len(report.matched)} tensors matched" in log.text
    assert f"{len(report.missing)} tensors are newly initialized, which timm model files lack" in log.text
    for name in report.missing:
        assert torch.equal(model.state_dict()[name], before[name])
    images = torch.randn(1, 3, 112, 112)
    torch.testing.assert_close(last_map(model, images), timms_map(body, images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "patch"), [("vit_small_patch14_dinov2", 14), ("vit_base_patch16_siglip_224", 16)])
def test_position_embeddings_of_another_grid(
    name: str, patch: int, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    """They are resampled as timm does when it loads such a file."""
    path = write(published(name, img_size=8 * patch).state_dict(), tmp_path / "w.safetensors")
    model = vit_model(name, img_size=6 * patch)
    report = load_weights(model, path, training_start=True)
    assert report.notes == ["position embeddings resampled from 8 x 8 to 6 x 6"]
    assert "; position embeddings resampled from 8 x 8 to 6 x 6" in log.text
    body = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, img_size=6 * patch, num_classes=7, **SMALL
    ).eval()
    assert body.pos_embed.shape == model.backbone.body.pos_embed.shape
    torch.testing.assert_close(model.backbone.body.pos_embed, body.pos_embed)
    images = torch.randn(1, 3, 6 * patch, 6 * patch)
    torch.testing.assert_close(last_map(model, images), timms_map(body, images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
@pytest.mark.parametrize(("old", "new"), [(16, 32), (32, 16)])
def test_patches_of_another_size(name: str, old: int, new: int, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    """The kernel is resampled as timm does when it loads such a file; images of the resampled size give one grid."""
    path = write(published(name, img_size=8 * old, patch_size=old).state_dict(), tmp_path / "w.pth")
    model = vit_model(name, img_size=8 * new, patch_size=new)
    report = load_weights(model, path, training_start=True)
    assert report.notes == [f"patch kernel resampled from {old} to {new} pixels"]
    assert f"; {report.notes[0]}" in log.text
    sizes = {"img_size": 8 * new, "patch_size": new, "num_classes": 7, **SMALL}
    body = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **sizes).eval()
    torch.testing.assert_close(model.backbone.body.patch_embed.proj.weight, body.patch_embed.proj.weight)
    images = torch.randn(1, 3, 8 * new, 8 * new)
    torch.testing.assert_close(last_map(model, images), timms_map(body, images), rtol=1e-5, atol=1e-5)


def test_our_own_checkpoints_are_resampled_too(tmp_path: Path) -> None:
    source = randomize(vit_model("vit_tiny_patch16_224", img_size=128))
    path = write(source.state_dict(), tmp_path / "w.pth")
    model = vit_model("vit_tiny_patch16_224", img_size=192)
    report = load_weights(model, path)
    assert report.complete
    assert report.notes == ["position embeddings resampled from 8 x 8 to 12 x 12"]
    with pytest.raises(UserError, match=r"missing: backbone\.pyramid\."):  # it has other steps
        load_weights(vit_model("vit_tiny_patch16_224", img_size=128, patch_size=32), path)
    again = vit_model("vit_tiny_patch16_224", img_size=128)
    assert load_weights(again, path).notes == []
    assert same(snapshot(again), snapshot(source))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"embed_dim": 96}, "the file's ViT has 96 channels and 4 blocks, the model's 48 channels and 4 blocks"),
        ({"depth": 3}, "the file's ViT has 48 channels and 3 blocks, the model's 48 channels and 4 blocks"),
        (
            {"embed_dim": 24, "img_size": 64},
            "the file's ViT has 24 channels and 4 blocks, the model's 48 channels and 4 blocks",
        ),
    ],
)
def test_a_file_of_another_size_is_refused(sizes: dict[str, int], message: str, tmp_path: Path) -> None:
    path = write(published("vit_tiny_patch16_224", **sizes).state_dict(), tmp_path / "w.pth")
    model = vit_model("vit_tiny_patch16_224")
    before = snapshot(model)
    with pytest.raises(UserError) as caught:
        load_weights(model, path, training_start=True)
    message = message.replace("the model's 48 channels and 4 blocks", "the model's 48 channels and 4 blocks")
    assert f"{message}: check MODEL.VIT.NAME, EMBED_DIM, DEPTH and OUT_INDICES" in str(caught.value)
    assert str(caught.value).startswith(f"{path} (timm model): ")
    assert "\n" not in str(caught.value)
    assert same(snapshot(model), before)


def test_a_deeper_file_starts_a_model_that_uses_its_first_blocks(tmp_path: Path) -> None:
    """The model with OUT_INDICES below the last block has no later ones."""
    path = write(published("vit_tiny_patch16_224", depth=6).state_dict(), tmp_path / "w.pth")
    report = load_weights(vit_model("vit_tiny_patch16_224"), path, training_start=True)
    assert {name.split(".")[3] for name in report.unexpected} == {"4", "5"}


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "eva02_tiny_patch14_224"])
def test_timms_names_come_from_the_hub(name: str, hub: Hub, tmp_path: Path) -> None:
    tag = timm.get_pretrained_cfg(name).tag
    repository = timm.get_pretrained_cfg(f"{name}.{tag}").hf_hub_id
    body = published(name)
    write(body.state_dict(), tmp_path / "model.safetensors")
    hub.repositories[repository] = {"model.safetensors": (tmp_path / "model.safetensors").read_bytes()}
    model = vit_model(name)
    report = load_weights(model, f"timm://{name}.{tag}", training_start=True)
    assert report.kind == "timm model"
    assert report.unexpected == []
    assert torch.equal(model.backbone.body.blocks[3].mlp.fc2.weight, body.blocks[3].mlp.fc2.weight)


def test_grids_share_their_prefix_tokens() -> None:
    assert grid_sides(1370, 257) == (37, 16)
    assert grid_sides(1369, 256) == (37, 16)
    assert grid_sides(197 + 4, 16 * 16 + 5) == (14, 16)
    assert grid_sides(197, 2**20 + 17) is None
