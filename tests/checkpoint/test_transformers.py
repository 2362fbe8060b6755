"""Models of transformers are recognized, compute the same here, and are written so that transformers loads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from semask_d2 import build_model, get_cfg
from semask_d2.checkpoint import load_weights, read_checkpoint, save_weights
from semask_d2.checkpoint.class_metadata import classes_of_file
from semask_d2.checkpoint.kinds import recognize
from semask_d2.checkpoint.load_report import COMPUTED
from semask_d2.checkpoint.transformers_folder import write_folder
from semask_d2.config.transformers_config import (
    config_for_transformers,
    processor_for_transformers,
    values_from_transformers,
)
from semask_d2.d2 import META_ARCH_REGISTRY, CfgNode
from semask_d2.utils.errors import UserError
from tests.helpers.small_models import same, snapshot, with_statistics
from tests.helpers.transformers_models import (
    BACKBONES,
    FAMILIES,
    model_class,
    project_logits,
    reference_config,
    reference_logits,
    reference_model,
)

NAMES = {"mask2former": "Mask2Former", "maskformer": "MaskFormer"}
SIZES = {
    "swin_t": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
    "swin_s": {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
    "swin_b": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12},
    "swin_l": {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "window_size": 12},
    "resnet_18": {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"},
    "resnet_50": {},
    "resnet_101": {"depths": [3, 4, 23, 3]},
}


def config_of(settings: dict[str, Any], *options: str) -> CfgNode:
    """Return our config of the model that a config.json describes."""
    cfg = get_cfg(None, ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SEM_SEG_HEAD.NAME = "SeMaskMaskFormer", "BranchMaskFormerHead"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    if settings["model_type"] == "mask2former":
        cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE = "multi_scale_pixel_decoder"
    values = values_from_transformers(settings, {}, "config.json")
    cfg.merge_from_list([word for pair in values.items() for word in pair])
    cfg.merge_from_list(list(options))
    return cfg


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def settings_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_folder_computes_the_same_here(family: str, backbone: str, tmp_path: Path) -> None:
    reference = reference_model(family, backbone)
    folder = saved(reference, tmp_path / "reference")
    model = build_model(config_of(settings_in(folder))).eval()
    report = load_weights(model, folder)
    assert report.kind == f"{NAMES[family]} of transformers"
    assert report.complete
    assert report.unexpected == []
    for size in ((64, 96), (50, 71)):
        images = 2 * torch.randn(2, 3, *size)
        for actual, expected in zip(project_logits(model, images), reference_logits(reference, images), strict=True):
            assert expected.std() > 0.1
            torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    classes = classes_of_file(read_checkpoint(folder))
    assert classes.names == tuple(f"LABEL_{i}" for i in range(6))
    assert len(set(classes.colors)) == 6


@pytest.mark.parametrize("family", FAMILIES)
def test_both_generations_of_names_in_both_formats(family: str, tmp_path: Path) -> None:
    """What transformers calls its modules now, and what it writes, which are the names of its version 4."""
    reference = reference_model(family)
    folder = saved(reference, tmp_path / "reference")
    model = build_model(config_of(settings_in(folder)))
    load_weights(model, folder)
    first = snapshot(model)
    written = read_checkpoint(folder)["model"]
    assert set(written) - set(reference.state_dict())
    (folder / "model.safetensors").unlink()
    for state in (written, reference.state_dict()):
        torch.save(state, folder / "pytorch_model.bin")
        again = build_model(config_of(settings_in(folder)))
        assert load_weights(again, folder).complete
        assert same(snapshot(again), first)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_is_written_loads_there_and_here(family: str, backbone: str, tmp_path: Path) -> None:
    """Converting to transformers and back keeps every tensor; transformers misses none and computes the same."""
    torch.manual_seed(3)
    cfg = config_of(reference_config(family, backbone=backbone).to_dict() | {"model_type": family})
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [10.0, 20.0, 30.0], [50.0, 60.0, 70.0]
    model = with_statistics(build_model(cfg)).eval()
    names = [f"class {i}" for i in range(6)]
    config = config_for_transformers(cfg, names)
    write_folder(tmp_path / "out", model.state_dict(), config, processor_for_transformers(cfg))
    reference, found = model_class(family).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(found.values()), found
    assert [reference.config.id2label[i] for i in range(6)] == names
    images = torch.randn(2, 3, 64, 96)
    for a, b in zip(project_logits(model, images), reference_logits(reference.eval(), images), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)

    processor = json.loads((tmp_path / "out/preprocessor_config.json").read_text())
    values = values_from_transformers(settings_in(tmp_path / "out"), processor, "config.json")
    again = cfg.clone()
    again.merge_from_list([word for pair in values.items() for word in pair])
    for key in values:
        if key.startswith("MODEL.PIXEL"):
            section, leaf = key.split(".")
            assert pytest.approx(cfg[section][leaf]) == again[section][leaf]
            again[section][leaf] = cfg[section][leaf]
    assert again == cfg
    other = build_model(again)
    load_weights(other, tmp_path / "out")
    assert same(snapshot(other), snapshot(model))
    reference.save_pretrained(tmp_path / "there")  # and by way of transformers itself
    other = build_model(again)
    load_weights(other, tmp_path / "there")
    assert same(snapshot(other), snapshot(model))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", SIZES)
def test_names_and_shapes_of_the_published_sizes(family: str, size: str) -> None:
    config = reference_config(family, backbone=size.split("_")[0], small=False, classes=133, **SIZES[size])
    with torch.device("meta"):
        reference = model_class(family)(config).state_dict()
        cfg = config_of(config.to_dict())
        ours = META_ARCH_REGISTRY.get("SeMaskMaskFormer")(cfg).state_dict()
    state, _ = recognize(reference, {}).convert(reference, {})
    actual, expected = (
        {name: value.shape for name, value in x.items() if not name.endswith(COMPUTED)} for x in (state, ours)
    )
    assert actual == expected


# As the start of a training with semantic layers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(reference_model("mask2former"), tmp_path / "reference")


def test_a_semask_training_starts_from_one(folder: Path, log: pytest.LogCaptureFixture) -> None:
    plain = build_model(config_of(settings_in(folder)))
    load_weights(plain, folder)
    model = build_model(config_of(settings_in(folder), "MODEL.SWIN.NUM_SEM_BLOCKS", "1"))
    before = snapshot(model)
    with pytest.raises(UserError, match="it holds a model without semantic layers to start training from"):
        load_weights(model, folder)
    assert same(snapshot(model), before)
    report = load_weights(model, folder, training_start=True)
    assert report.missing
    assert all(".semantic_layer." in name for name in report.missing)
    loaded = snapshot(plain)
    for name, value in model.state_dict().items():
        assert torch.equal(value, (before if name in report.missing else loaded)[name]), name
    words = "newly initialized, which Mask2Former of transformers files lack (semantic layers)"
    assert f"{len(report.missing)} tensors are {words}" in log.text


def test_so_it_does_from_a_plain_model_of_ours(folder: Path, tmp_path: Path) -> None:
    plain = build_model(config_of(settings_in(folder)))
    save_weights(plain, tmp_path / "plain.safetensors")
    model = build_model(config_of(settings_in(folder), "MODEL.SWIN.NUM_SEM_BLOCKS", "1"))
    report = load_weights(model, tmp_path / "plain.safetensors", training_start=True)
    assert report.kind == "semask_d2 checkpoint without semantic layers"
    assert all(".semantic_layer." in name for name in report.missing)


def test_other_classes_are_fine_tuned_on(folder: Path) -> None:
    model = build_model(config_of(settings_in(folder), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "9"))
    with pytest.raises(UserError, match=r"MODEL\.WEIGHTS_DROP_CLASS_LAYERS True"):
        load_weights(model, folder, training_start=True)
    report = load_weights(model, folder, training_start=True, drop_class_layers=True)
    assert sorted(report.missing) == [f"sem_seg_head.predictor.class_embed.{leaf}" for leaf in ("bias", "weight")]


# Faults


@pytest.mark.parametrize("fault", ["missing", "mis-shaped", "scalar"])
def test_a_projection_that_is_not_there_is_named(folder: Path, fault: str) -> None:
    state: dict[str, Tensor] = dict(read_checkpoint(folder)["model"])
    name = next(name for name in state if "layers.2.blocks.0.attention" in name and "key.weight" in name)
    if fault == "missing":
        del state[name]
    else:
        state[name] = torch.zeros(()) if fault == "scalar" else torch.zeros(3, 64)
    torch.save(state, folder / "broken.bin")
    model = build_model(config_of(settings_in(folder)))
    with pytest.raises(UserError, match=r"1 missing: backbone\.layers\.2\.blocks\.0\.attn\.qkv\.weight"):
        load_weights(model, folder / "broken.bin")


def test_folders_that_hold_no_model(folder: Path) -> None:
    config = (folder / "config.json").read_text()
    for text in ("{", "[]", "[" * 10**5, "\0"):
        (folder / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config\.json: (not a JSON|expected a JSON)"):
            read_checkpoint(folder)
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors or pytorch_model\.bin"):
        read_checkpoint(folder)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="no such weight file"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "model_type",
            "oneformer",
            "model_type: expected one of mask2former, maskformer, eomt, eomt_dinov3, got 'oneformer'",
        ),
        ("backbone_config", {"model_type": "bit"}, "backbone_config.model_type: expected swin or resnet, got 'bit'"),
        ("backbone_config", "swin", "backbone_config: expected a mapping of keys to values, got 'swin'"),
        (
            "backbone_config",
            {"model_type": ["swin"]},
            "backbone_config.model_type: expected swin or resnet, got ['swin']",
        ),
        (
            "backbone_config",
            {"model_type": "resnet", "depths": [1, 1, 1, 1]},
            "backbone_config.depths: expected those of a ResNet of depth 18, 34, 50, 101, 152, got [1, 1, 1, 1] blocks",
        ),
        (
            "backbone_config",
            {"model_type": "resnet", "depths": [2, 2, 2, 2]},
            "got [2, 2, 2, 2] blocks of layer_type 'bottleneck'",
        ),
        (
            "backbone_config",
            {"model_type": "resnet", "hidden_sizes": [16, 32, 64, 64]},
            "hidden_sizes: expected four widths, each twice the one before, got [16, 32, 64, 64]",
        ),
        ("backbone_config", {"model_type": "resnet", "hidden_sizes": "wide"}, "got 'wide'"),
        (
            "backbone_config",
            {"model_type": "resnet", "downsample_in_first_stage": True},
            "backbone_config.downsample_in_first_stage: True is not supported, only False",
        ),
        ("pre_norm", True, "pre_norm: True is not supported, only False"),
        ("encoder_feedforward_dim", 512, "encoder_feedforward_dim: 512 is not supported"),
        ("id2label", {"one": "x"}, "id2label: expected class ids such as '0', each once, got 'one'"),
        ("id2label", {"0": "x", "00": "y"}, "id2label: expected class ids such as '0', each once, got '00'"),
        ("id2label", {"²": "x"}, "id2label: expected class ids such as '0', each once, got '²'"),
        ("id2label", [], "id2label: expected a mapping of keys to values, got []"),
        ("id2label", {str(i): "x" for i in range(100_001)}, "id2label: number of classes: expected a whole number"),
        ("hidden_dim", -256, "hidden_dim: expected a whole number from 1 to 8192, got -256"),
        ("num_queries", 1e9, "num_queries: expected a whole number from 1 to 10000, got 1000000000.0"),
        ("class_weight", float("nan"), "class_weight: expected a finite number from 0 to 1000000.0, got nan"),
        ("dropout", "0.1", "dropout: expected a finite number from 0 to 1, got '0.1'"),
        ("enforce_input_projection", "no", "enforce_input_projection: expected true or false, got 'no'"),
        ("backbone_config", {"model_type": "swin", "depths": [2, 2, 2]}, "depths: expected a list of 4 values"),
        ("backbone_config", {"model_type": "swin", "window_size": 10**5}, "window_size: expected a whole number from"),
        (
            "model_type",
            ["swin"],
            "model_type: expected one of mask2former, maskformer, eomt, eomt_dinov3, got ['swin']",
        ),
    ],
)
def test_settings_of_no_model_of_ours_are_named(folder: Path, key: str, value: Any, message: str) -> None:
    settings = settings_in(folder) | {key: value}
    with pytest.raises(UserError) as caught:
        values_from_transformers(settings, {}, "folder/config.json")
    assert message in str(caught.value)
    assert "folder/config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        ({"image_mean": [0.5]}, "image_mean: expected a list of 3 values, got [0.5]"),
        ({"image_mean": [0, 0, float("nan")]}, "image_mean: expected a finite number from -1000 to 1000, got nan"),
        ({"image_std": [1, 0, 1]}, "image_std: expected a finite number from 1e-06 to 1000, got 0"),
        ({"size": {"shortest_edge": -1}}, "size.shortest_edge: expected a whole number from 0 to"),
        ({"size": {"longest_edge": 10**20}}, "size.longest_edge: expected a whole number from 0 to"),
        ({"size": "large"}, "size: expected a whole number from 0 to"),
        ({"size": 640, "max_size": True}, "max_size: expected a whole number from 0 to"),
    ],
)
def test_settings_of_pictures_are_read_with_their_ranges(folder: Path, processor: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        values_from_transformers(settings_in(folder), processor, "config.json", "x/preprocessor_config.json")
    assert str(caught.value).startswith(f"x/preprocessor_config.json: {message}")


def test_both_forms_of_a_pictures_size(folder: Path) -> None:
    expected = {"INPUT.MIN_SIZE_TEST": 640, "INPUT.MAX_SIZE_TEST": 2560}
    for processor in ({"size": 640, "max_size": 2560}, {"size": {"shortest_edge": 640, "longest_edge": 2560}}):
        values = values_from_transformers(settings_in(folder), processor, "config.json")
        assert {key: value for key, value in values.items() if key.endswith("SIZE_TEST")} == expected
    values = values_from_transformers(settings_in(folder), {"size": {"height": 384, "width": 384}}, "config.json")
    assert not [key for key in values if key.endswith("SIZE_TEST")]


def test_without_names_there_are_two_classes_as_in_transformers(folder: Path) -> None:
    for labels in ({}, {"id2label": None}):
        settings = {key: value for key, value in settings_in(folder).items() if key != "id2label"} | labels
        assert values_from_transformers(settings, {}, "c")["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] == 2


def test_settings_that_a_file_leaves_out_are_transformers_own() -> None:
    """Files of version 4 hold only what differs from the defaults."""
    reference_config(FAMILIES[0])  # skips where transformers is not there
    from transformers import ResNetConfig, SwinConfig

    for family in FAMILIES:
        whole = model_class(family).config_class().to_dict()
        body = {**ResNetConfig().to_dict(), "out_features": ["stage1", "stage2", "stage3", "stage4"]}
        actual, expected = (
            values_from_transformers(whole | {"backbone_config": x}, {}, "c") for x in ({"model_type": "resnet"}, body)
        )
        assert actual == expected
        short = {"model_type": family, "backbone_config": {"model_type": "swin"}, "id2label": whole["id2label"]}
        actual, expected = (values_from_transformers(x, {}, "c") for x in (short, whole))
        swin = {key for key in actual if key.startswith("MODEL.SWIN.")}
        others = actual.keys() - swin
        assert {key: actual[key] for key in others} == {key: expected[key] for key in others}
        plain = {**SwinConfig().to_dict(), "out_features": ["stage1", "stage2", "stage3", "stage4"]}
        expected = values_from_transformers(whole | {"backbone_config": plain}, {}, "c")
        assert {key: actual[key] for key in swin} == {key: expected[key] for key in swin}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("MODEL.SWIN.NUM_SEM_BLOCKS", "1"),
            "MODEL.SWIN.NUM_SEM_BLOCKS: transformers does not support 1, only 0",
        ),
        (("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "PixelFANDecoder"), "transformers does not support 'PixelFAN"),
        (("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "Own"), "TRANSFORMER_DECODER_NAME Own: expected one of"),
    ],
)
def test_what_transformers_has_no_model_of_is_not_written(folder: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as caught:
        config_for_transformers(config_of(settings_in(folder), *options))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("NORM", "GN"), "MODEL.RESNETS.NORM: transformers does not support 'GN', only BatchNorm"),
        (
            ("WIDTH_PER_GROUP", "8"),
            "WIDTH_PER_GROUP: transformers does not support 8, only a quarter of RES2_OUT_CH",
        ),
        (("NUM_GROUPS", "32"), "MODEL.RESNETS.NUM_GROUPS: transformers does not support 32, only 1"),
        (("DEPTH", "7"), "MODEL.RESNETS.DEPTH: expected one of [18, 34, 50, 101, 152], got 7"),
    ],
)
def test_resnets_that_transformers_has_not_are_named(options: tuple[str, str], message: str) -> None:
    key, value = options
    cfg = get_cfg("ade20k/r50_m2f.yaml", ["MODEL.DEVICE", "cpu", f"MODEL.RESNETS.{key}", value])
    with pytest.raises(UserError) as caught:
        config_for_transformers(cfg)
    assert message in str(caught.value)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_deeplab_backbone"
    with pytest.raises(
        UserError, match=r"BACKBONE\.NAME: transformers does not support 'build_resnet_deeplab_backbone'"
    ):
        config_for_transformers(cfg)


def test_tensors_that_transformers_has_no_place_for_are_named(folder: Path, tmp_path: Path) -> None:
    cfg = config_of(settings_in(folder))
    state: dict[str, Any] = {**build_model(cfg).state_dict(), "sem_seg_head.other.weight": nn.Parameter(torch.ones(1))}
    with pytest.raises(UserError, match=r"no tensor for sem_seg_head\.other\.weight \(1 without one\)"):
        write_folder(tmp_path / "out", state, config_for_transformers(cfg), {})
    assert not (tmp_path / "out").exists()
