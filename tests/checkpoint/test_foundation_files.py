"""DINOv2, DINOv3 and ConvNeXt as transformers and Meta publish them start a model and compute the same."""

from __future__ import annotations

import json
import random
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2 import UserError
from semask_d2.checkpoint import load_weights, read_checkpoint
from semask_d2.config import with_defaults
from semask_d2.config.transformers_vits import CONVNEXTS, VITS, backbone_values
from semask_d2.modeling.backbones.base import SemanticSettings
from semask_d2.modeling.backbones.timm_backbone import SeMaskTimm
from tests.checkpoint.test_vit_files import SMALL, last_map, published, timms_map, vit_model, write
from tests.helpers.hub_server import Hub
from tests.helpers.refusals import refusal
from tests.helpers.small_models import HEADS, SmallModel
from tests.helpers.strange_values import damage
from tests.helpers.tiny_model import randomize

transformers = pytest.importorskip("transformers", reason="needs transformers, of the extra dev")

LEAVES = ("weight", "bias")
SIZES = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3}
DINOV3 = {**SIZES, "intermediate_size": 192, "num_register_tokens": 4}
GATED = {**DINOV3, "use_gated_mlp": True, "hidden_act": "silu"}
DINOV2 = {**SIZES, "image_size": 112, "patch_size": 14}
GIANT = {**DINOV2, "hidden_size": 96, "use_swiglu_ffn": True}
CASES = {  # model_type, settings, the timm model, and other sizes of it
    "DINOv3": ("dinov3_vit", DINOV3, "vit_small_patch16_dinov3_qkvb", {}),
    "DINOv3, gated": ("dinov3_vit", GATED, "vit_small_plus_patch16_dinov3_qkvb", {}),
    "DINOv3, patch 8": ("dinov3_vit", {**DINOV3, "patch_size": 8}, "vit_small_patch16_dinov3_qkvb", {"patch_size": 8}),
    "DINOv2": ("dinov2", DINOV2, "vit_small_patch14_dinov2", {"img_size": 112}),
    "DINOv2, gated": ("dinov2", GIANT, "vit_giant_patch14_dinov2", {"img_size": 112, "embed_dim": 96}),
    "DINOv2 with registers": (
        "dinov2_with_registers",
        DINOV2,
        "vit_small_patch14_reg4_dinov2",
        {"img_size": 112},
    ),
}
KINDS = {"dinov3_vit": "DINOv3", "dinov2": "DINOv2", "dinov2_with_registers": "DINOv2"}


def reference(model_type: str, settings: dict[str, Any]) -> Any:
    """Return a small model of transformers with random parameters, also of its norms."""
    config = transformers.AutoConfig.for_model(model_type, **settings)
    return randomize(transformers.AutoModel.from_config(config)).eval()


def saved(model: Any, folder: Path, layout: str = "folder") -> Path:
    """Write a model as transformers does, or its state dict, whose names differ, beside the same config.json."""
    model.save_pretrained(folder)
    if layout == "state dict":
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


@torch.no_grad()
def reference_map(model: Any, images: Tensor, patch: int) -> Tensor:
    """Return the patch tokens of the last hidden state, which are normalized, as a map (B, C, h, w)."""
    grid = [side // patch for side in images.shape[2:]]
    return model(images).last_hidden_state[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)


def normalized(x: Tensor, state: dict[str, Tensor], epsilon: float) -> Tensor:
    """Apply the last norm of a file, which backbones lack, to a map (B, C, h, w)."""
    weight, bias = (next(state[name] for name in state if re.fullmatch(rf"(layer_?)?norm\.{x}", name)) for x in LEAVES)
    return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, epsilon).permute(0, 3, 1, 2)


LAYOUTS = [  # state dicts have the gated layers of DINOv2 apart, which files have packed
    pytest.param(*case, layout, id=f"{name}, {layout}")
    for name, case in CASES.items()
    for layout in ("folder", "state dict")
    if (name, layout) != ("DINOv2, gated", "state dict")
]


@pytest.mark.parametrize(("model_type", "settings", "name", "sizes", "layout"), LAYOUTS)
def test_a_folder_of_transformers_starts_a_model(
    model_type: str, settings: dict[str, Any], name: str, sizes: dict[str, int], layout: str, tmp_path: Path
) -> None:
    foreign = reference(model_type, settings)
    folder = saved(foreign, tmp_path / "w", layout)
    model = vit_model(name, **sizes)
    report = load_weights(model, folder, training_start=True)
    assert report.kind == f"{KINDS[model_type]} of transformers"
    assert (report.unexpected, report.misshaped, report.notes) == ([], [], [])
    assert not any(name.startswith("backbone.body.") for name in report.missing)
    patch = model.backbone.patch_size
    final = {name.removeprefix("model."): value for name, value in foreign.state_dict().items()}
    for size in ((112, 112), *([(64, 96), (160, 48)] if model_type == "dinov3_vit" else [])):
        images = torch.randn(2, 3, *size)
        expected = reference_map(foreign, images, patch)
        assert expected.std() > 0.1
        actual = normalized(last_map(model, images), final, foreign.config.layer_norm_eps)
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_a_convnext_of_transformers_starts_a_model(tmp_path: Path) -> None:
    """Compared at the last stage, whose patch tokens transformers normalizes."""
    foreign = reference("dinov3_convnext", {"hidden_sizes": [40, 80, 160, 320], "depths": [2, 2, 6, 2]})
    model = convnext_model().eval()
    report = load_weights(model, saved(foreign, tmp_path / "w"), training_start=True)
    assert report.kind == "DINOv3 ConvNeXt of transformers"
    assert (report.unexpected, report.misshaped) == ([], [])
    assert not any(name.startswith("backbone.body.") for name in report.missing)
    images = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        expected = reference_map(foreign, images, 32)
        actual = normalized(list(model.backbone.body(images))[-1], foreign.state_dict(), 1e-6)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def convnext_model() -> SmallModel:
    """Return a SeMask model on timm's smallest ConvNeXt, whose linear layers are 1x1 convolutions."""
    semantic = with_defaults(SemanticSettings, num_classes=19)
    return SmallModel(with_defaults(SeMaskTimm, name="convnext_atto", semantic=semantic, freeze_at=0), HEADS["FPN"])


# Meta's names


def meta_dinov3(body: nn.Module) -> dict[str, Tensor]:
    """Return the state of a timm DINOv3 under Meta's names, with what timm leaves out of such files."""
    state = {}
    for name, value in body.state_dict().items():
        name = re.sub(r"\.gamma_(\d)", r".ls\1.gamma", name.replace("reg_token", "storage_tokens"))
        for ours, metas in (("fc1_g", "w1"), ("fc1_x", "w2")):
            name = name.replace(f"mlp.{ours}", f"mlp.{metas}")
        state[name.replace("mlp.fc2", "mlp.w3") if hasattr(body.blocks[0].mlp, "fc1_g") else name] = value
    for block in range(len(body.blocks)):
        biases = [state.pop(f"blocks.{block}.attn.{letter}_bias", torch.zeros(body.embed_dim)) for letter in "qv"]
        state[f"blocks.{block}.attn.qkv.bias"] = torch.cat([biases[0], torch.zeros(body.embed_dim), biases[1]])
        state[f"blocks.{block}.attn.qkv.bias_mask"] = torch.ones(3 * body.embed_dim)
    state |= {"mask_token": torch.ones(1, body.embed_dim), "rope_embed.periods": body.rope.periods}
    return {**state, "local_cls_norm.weight": torch.ones(body.embed_dim)}


def meta_dinov2(body: nn.Module) -> dict[str, Tensor]:
    """Return the state of a timm DINOv2 under Meta's names; with registers, the class token has a position."""
    state = dict(body.state_dict())
    if "reg_token" in state:
        position = torch.randn(1, 1, body.embed_dim)
        state["register_tokens"] = state.pop("reg_token")
        state["cls_token"] = state["cls_token"] - position
        state["pos_embed"] = torch.cat([position, state["pos_embed"]], 1)
    if "giant" in body.default_cfg["architecture"]:
        state = {name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): x for name, x in state.items()}
    return {**state, "mask_token": torch.ones(1, body.embed_dim)}


META = {
    "DINOv3": ("vit_small_patch16_dinov3", meta_dinov3, {}),
    "DINOv3 with biases": ("vit_small_patch16_dinov3_qkvb", meta_dinov3, {}),
    "DINOv3, gated": ("vit_small_plus_patch16_dinov3", meta_dinov3, {}),
    "DINOv2": ("vit_small_patch14_dinov2", meta_dinov2, {"img_size": 112}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", meta_dinov2, {"img_size": 112}),
    "DINOv2, gated": ("vit_giant_patch14_dinov2", meta_dinov2, {"img_size": 112}),
}


@pytest.mark.parametrize(("name", "renamed", "sizes"), META.values(), ids=META)
def test_a_file_of_meta_starts_a_model(name: str, renamed: Any, sizes: dict[str, int], tmp_path: Path) -> None:
    body = published(name, **sizes)
    body.head = nn.Identity()
    path = write(renamed(body), tmp_path / "w.pth")
    model = vit_model(name, **sizes)
    report = load_weights(model, path, training_start=True)
    assert report.kind == f"DINOv{3 if 'dinov3' in name else 2} of Meta"
    assert (report.unexpected, report.misshaped) == ([], [])
    assert not any(name.startswith("backbone.body.") for name in report.missing)
    assert "mask_token" in report.dropped
    zeros = name.endswith("dinov3")
    assert report.notes == (["12 biases of zeros left out"] if zeros else ["4 biases of zeros left out"] * qkvb(name))
    images = torch.randn(1, 3, 112, 112)
    torch.testing.assert_close(last_map(model, images), timms_map(body, images), rtol=1e-5, atol=1e-5)
    # timm reads such a file in the same way
    again = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, num_classes=0, **(SMALL | sizes)
    )
    torch.testing.assert_close(timms_map(again.eval(), images), timms_map(body, images), rtol=1e-5, atol=1e-5)


def qkvb(name: str) -> bool:
    """Return whether timm's model has biases of queries and values; those of keys are always zero."""
    return name.endswith("_qkvb")


def test_a_convnext_of_meta_starts_a_model(tmp_path: Path) -> None:
    body = randomize(timm.create_model("convnext_atto", num_classes=7)).eval()
    state = {}
    for name, value in body.state_dict().items():
        name = re.sub(r"^stem\.", "downsample_layers.0.", name)
        name = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name).replace(".blocks.", ".")
        name = name.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv").replace("head.norm.", "norm.")
        state[name.replace("head.fc.", "head.")] = value.flatten(1) if "pwconv" in name and value.ndim == 4 else value
    path = write(state | {"norms.3.weight": torch.ones(320)}, tmp_path / "w.pth")
    model = convnext_model().eval()
    report = load_weights(model, path, training_start=True)
    assert report.kind == "ConvNeXt of Meta"
    assert (report.unexpected, report.misshaped) == ([], [])
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = body.forward_intermediates(images, intermediates_only=True)[-1]
        torch.testing.assert_close(list(model.backbone.body(images))[-1], expected)


# What does not fit


def test_biases_that_the_model_lacks_are_refused(tmp_path: Path) -> None:
    """Without them the model would compute something else; biases of zeros change nothing."""
    path = write(meta_dinov3(published("vit_small_patch16_dinov3_qkvb")), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r'DINOv3 of Meta\): blocks.0.attn.q_bias is not zero, .* variant with "_qkvb"'):
        load_weights(vit_model("vit_small_patch16_dinov3"), path, training_start=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 6}, "its ViT has 6 attention heads, the model's 3: set MODEL.VIT.NUM_HEADS 6"),
        ({"hidden_size": 96, "intermediate_size": 384}, "check MODEL.VIT.NAME, EMBED_DIM, DEPTH"),
        ({"num_register_tokens": 0}, "config.json: num_register_tokens: 0 is not supported, only 4"),
        ({"rope_theta": 10.0}, "config.json: rope_theta: 10.0 is not supported, only 100.0"),
        ({"intermediate_size": 64}, "config.json: intermediate_size: 64 is not supported, only 192"),
    ],
)
def test_a_folder_of_another_architecture_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Also where no shape shows the difference."""
    folder = saved(reference("dinov3_vit", DINOV3 | changes), tmp_path / "w")
    with pytest.raises(UserError) as caught:
        load_weights(vit_model("vit_small_patch16_dinov3_qkvb"), folder, training_start=True)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


# A folder as a config


@pytest.mark.parametrize(("model_type", "settings", "name", "sizes"), CASES.values(), ids=CASES)
def test_settings_of_a_folder_are_values_of_keys(
    model_type: str, settings: dict[str, Any], name: str, sizes: dict[str, int]
) -> None:
    config = transformers.AutoConfig.for_model(model_type, **settings).to_dict()
    file, values = backbone_values(config, "config.json")
    expected = {"EMBED_DIM": 48, "DEPTH": 4, "NUM_HEADS": 3, "NAME": name, "PATCH_SIZE": config["patch_size"]}
    expected |= {key.upper(): value for key, value in sizes.items()}
    assert values == {f"MODEL.VIT.{key}": value for key, value in expected.items()}
    assert file == f"backbones/{'dinov3' if 'v3' in model_type else 'dinov2'}_vit_s.yaml"


@pytest.mark.parametrize("model_type", VITS)
def test_defaults_are_those_of_transformers(model_type: str) -> None:
    config, kind = transformers.AutoConfig.for_model(model_type), VITS[model_type]
    assert {x.name: getattr(config, x.name) for x in kind.settings} == {x.name: x.default for x in kind.settings}
    assert {name: getattr(config, name) for name in kind.fixed} == {name: x for name, (_, x) in kind.fixed.items()}
    assert getattr(config, kind.gated) is False


@pytest.mark.parametrize("name", [name for kind in VITS.values() for name in kind.plain_names.values()])
def test_the_names_by_width_are_timms(name: str) -> None:
    kind = next(kind for kind in VITS.values() if name in kind.plain_names.values())
    for width, gated in [*kind.plain_names.items(), *kind.gated_names.items()]:
        with torch.device("meta"):
            assert timm.create_model(gated, depth=1, num_classes=0).embed_dim == width


@pytest.mark.parametrize("size", CONVNEXTS)
def test_a_convnext_is_known_by_its_sizes(size: str) -> None:
    widths, depths = CONVNEXTS[size]
    config = {"model_type": "dinov3_convnext", "hidden_sizes": widths, "depths": depths}
    file, values = backbone_values(config, "config.json")
    assert values == {"MODEL.TIMM.NAME": f"convnext_{size}"}
    assert file == f"backbones/dinov3_convnext_{size[0]}.yaml"
    with torch.device("meta"):
        body = timm.create_model(f"convnext_{size}", features_only=True)
    assert (body.feature_info.channels(), [len(body[f"stages_{i}"].blocks) for i in range(4)]) == (widths, depths)
    with pytest.raises(
        UserError, match=r"config.json: hidden_sizes and depths: expected those of ConvNeXt tiny, small,"
    ):
        backbone_values(config | {"depths": [1, 1, 1, 1]}, "config.json")


def test_a_repository_of_the_hub_is_a_folder(hub: Hub, tmp_path: Path) -> None:
    name = "facebook/dinov3-vits16-pretrain-lvd1689m"
    folder = saved(reference("dinov3_vit", DINOV3), tmp_path / "w")
    hub.repositories[name] = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = load_weights(vit_model("vit_small_patch16_dinov3_qkvb"), name, training_start=True)
    assert report.kind == "DINOv3 of transformers"
    assert "metadata" not in read_checkpoint(name)  # a backbone has no classes
    hub.gated.add("facebook/dinov3-vitb16-pretrain-lvd1689m")
    with pytest.raises(UserError, match="access must be granted first: accept its terms at"):
        read_checkpoint("facebook/dinov3-vitb16-pretrain-lvd1689m")


@pytest.mark.parametrize("model_type", [*VITS, "dinov3_convnext"])
def test_changed_settings_are_values_or_one_line(model_type: str) -> None:
    generator = random.Random(model_type)
    whole = transformers.AutoConfig.for_model(model_type, num_register_tokens=4).to_dict()
    outcomes = []
    for number in range(200):
        config = json.loads(json.dumps(whole))
        for _ in range(generator.randint(1, 3) if number else 0):
            damage(config, generator)
        config["model_type"] = model_type
        message = refusal(partial(backbone_values, config, "config.json"))
        assert message is None or ("\n" not in message and message.startswith("config.json: ")), message
        outcomes.append(message is None)
    assert outcomes[0]
    assert 0 < sum(outcomes) < 200


def test_damaged_settings_give_one_line(tmp_path: Path) -> None:
    folder = saved(reference("dinov3_vit", DINOV3), tmp_path / "w")
    settings = json.loads((folder / "config.json").read_text())
    for changes, message in (
        ({"hidden_size": "48"}, "hidden_size: expected a whole number"),
        ({"use_gated_mlp": "no"}, "use_gated_mlp: expected true or false"),
        ({"num_hidden_layers": 2}, "num_hidden_layers: expected a whole number from 4"),
        ({"intermediate_size": None}, "intermediate_size: 1536 is not supported, only 192"),
    ):
        (folder / "config.json").write_text(json.dumps(settings | changes))
        with pytest.raises(UserError, match=f"config.json: {message}"):
            read_checkpoint(folder)
