"""EoMT of transformers: its folders are models here with equal outputs, and ours are written in its form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from semask_d2 import build_model, from_pretrained, get_cfg, postprocessing
from semask_d2.checkpoint import load_weights, save_weights
from semask_d2.checkpoint.kinds import recognize
from semask_d2.checkpoint.transformers_folder import write_folder
from semask_d2.config import DEFAULTS
from semask_d2.config.transformers_config import (
    FAMILIES,
    config_for_transformers,
    processor_for_transformers,
    values_from_transformers,
)
from semask_d2.d2 import META_ARCH_REGISTRY
from semask_d2.utils.errors import UserError
from tests.helpers.encoder_only import BLOCKS, QUERIES, VARIANTS, eomt_cfg, eomt_classes, reference_eomt
from tests.helpers.hub_server import Hub
from tests.helpers.small_models import same, snapshot
from tests.helpers.tiny_model import CLASSES, randomize
from tests.helpers.transformers_models import project_logits, reference_logits

NAMES = {"eomt": "EoMT on DINOv2 of transformers", "eomt_dinov3": "EoMT on DINOv3 of transformers"}
SIZES = ((64, 16), (96, 16), (40, 8), (96, 32))  # sides of images and patches; transformers takes squares only
# annealing unmasks the first blocks first; after one that is masked, transformers keeps its mask in unmasked ones
MASKS = ((0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1))


def assert_equal_logits(model: nn.Module, reference: Any, size: int) -> None:
    images = torch.randn(2, 3, size, size)
    for actual, expected in zip(project_logits(model, images), reference_logits(reference, images), strict=True):
        assert expected.std() > 0.1
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("size", "patch"), SIZES)
def test_a_folder_computes_the_same_here(variant: str, size: int, patch: int, tmp_path: Path) -> None:
    reference = reference_eomt(variant, size, patch)
    reference.save_pretrained(tmp_path)
    model = from_pretrained(tmp_path, device="cpu")
    assert_equal_logits(model, reference, size)
    assert model.size_divisibility == size


@pytest.mark.parametrize("variant", ["DINOv2", "DINOv3"])
@pytest.mark.parametrize("masks", MASKS)
def test_masks_that_are_not_annealed_are_the_same_too(variant: str, masks: tuple[int, ...], tmp_path: Path) -> None:
    reference = reference_eomt(variant, probabilities=masks)
    reference.save_pretrained(tmp_path)
    assert_equal_logits(from_pretrained(tmp_path, device="cpu"), reference, 64)


@pytest.mark.parametrize("variant", ["DINOv2", "DINOv3"])
def test_labels_segments_and_instances_are_the_same(variant: str, tmp_path: Path) -> None:
    reference = reference_eomt(variant)
    with torch.no_grad():
        reference.query.weight.mul_(20)  # queries that differ
        reference.class_predictor.weight.mul_(10)
    reference.save_pretrained(tmp_path)
    model = from_pretrained(tmp_path, device="cpu")
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    ours, size = model.logits(image), (100, 80)
    theirs = reference_logits(reference, (image - model.normalizer.mean) / model.normalizer.std)
    ours, theirs = ([x[0] for x in logits] for logits in (ours, theirs))
    labels, expected_labels = (postprocessing.semantic_labels(*logits, size) for logits in (ours, theirs))
    assert len(expected_labels.unique()) > 1
    assert torch.equal(labels, expected_labels)
    (panoptic, segments), (expected, expected_segments) = (
        postprocessing.panoptic_map(*logits, size, things={0, 1, 2}, **THRESHOLDS) for logits in (ours, theirs)
    )
    assert torch.equal(panoptic, expected)
    assert len(segments) > 1
    for ours_segment, theirs_segment in zip(segments, expected_segments, strict=True):
        assert ours_segment.pop("score") == pytest.approx(theirs_segment.pop("score"), abs=1e-4)
        assert ours_segment == theirs_segment
    actual, instances = (postprocessing.instance_masks(*logits, size) for logits in (ours, theirs))
    assert len(instances.masks) > 1
    assert torch.equal(actual.masks, instances.masks)
    assert torch.equal(actual.classes, instances.classes)
    torch.testing.assert_close(actual.scores, instances.scores, atol=1e-4, rtol=1e-4)


THRESHOLDS = {"object_mask_threshold": 0.1, "overlap_threshold": 0.1}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_written_loads_there_and_here(variant: str, tmp_path: Path) -> None:
    """A model goes there and back without loss; transformers misses no tensor and computes the same."""
    reference_eomt(variant).save_pretrained(tmp_path / "first")
    cfg = get_cfg(tmp_path / "first", ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [10.0, 20.0, 30.0], [50.0, 60.0, 70.0]
    model = randomize(build_model(cfg)).eval()
    model.sem_seg_head.mask_probability.copy_(torch.tensor([0.0, 0.0, 1.0]))
    model.eval()
    names = [f"class {i}" for i in range(CLASSES)]
    config = config_for_transformers(cfg, names)
    write_folder(tmp_path / "out", model.state_dict(), config, processor_for_transformers(cfg))
    _, reference_class = eomt_classes(VARIANTS[variant][0])
    reference, found = reference_class.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(found.values()), found
    assert [reference.config.id2label[i] for i in range(CLASSES)] == names
    assert_equal_logits(model, reference.eval(), 64)
    again = get_cfg(tmp_path / "out", ["MODEL.DEVICE", "cpu"])
    assert pytest.approx(cfg.MODEL.PIXEL_MEAN) == again.MODEL.PIXEL_MEAN
    again.MODEL.PIXEL_MEAN, again.MODEL.PIXEL_STD = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    again.MODEL.WEIGHTS, again.OUTPUT_DIR = cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR
    for key in ("MIN_SIZE_TEST", "MAX_SIZE_TEST"):
        assert again.INPUT[key] == cfg.INPUT[key]
    assert again == cfg
    other = build_model(again)
    report = load_weights(other, tmp_path / "out")
    assert report.kind == NAMES[VARIANTS[variant][0]]
    assert report.complete
    assert report.unexpected == []
    assert same(snapshot(other), snapshot(model))


def test_fractions_of_averaged_weights_are_written_as_evaluated(tmp_path: Path) -> None:
    reference_eomt("DINOv2").save_pretrained(tmp_path / "first")
    cfg = get_cfg(tmp_path / "first", ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    model.sem_seg_head.mask_probability.copy_(torch.tensor([1e-6, 0.4, 0.7]))
    write_folder(tmp_path / "out", model.state_dict(), config_for_transformers(cfg), processor_for_transformers(cfg))
    other = from_pretrained(tmp_path / "out", device="cpu")
    assert other.sem_seg_head.mask_probability.tolist() == [0, 0, 1]
    assert other.sem_seg_head.masked_blocks == [False, False, True]


def test_a_name_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    reference = reference_eomt("DINOv3")
    reference.save_pretrained(tmp_path)
    processor = {"do_split_image": True, "size": {"shortest_edge": 64, "longest_edge": None}}
    processor |= {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    hub.repositories["owner/eomt-tiny"] = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = from_pretrained("owner/eomt-tiny", device="cpu")
    assert_equal_logits(model, reference, 64)
    cfg = model.description.cfg
    assert cfg.MODEL.PIXEL_MEAN == [127.5] * 3
    assert cfg.TEST.SLIDING.ENABLED
    assert list(cfg.TEST.SLIDING.SIZE) == [64, 64]
    assert cfg.INPUT.MIN_SIZE_TEST == 64
    assert processor_for_transformers(cfg)["image_processor_type"] == "EomtImageProcessor"
    assert processor_for_transformers(cfg)["do_split_image"]


@pytest.mark.parametrize(("variant", "note"), [("DINOv2", True), ("DINOv3", False)])
def test_another_image_size_resamples_positions(
    variant: str, note: bool, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    reference = reference_eomt(variant)
    reference.save_pretrained(tmp_path)
    model = from_pretrained(tmp_path, device="cpu", **{"MODEL.VIT.IMG_SIZE": 96})
    assert ("position embeddings resampled from 4 x 4 to 6 x 6" in log.text) == note
    assert_equal_logits(from_pretrained(tmp_path, device="cpu"), reference, 64)
    assert model.logits(torch.zeros(1, 3, 96, 64, dtype=torch.uint8)).mask_logits.shape == (1, QUERIES, 32, 16)


def test_another_patch_size_resamples_the_kernel_or_names_what_is_missing(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    reference_eomt("DINOv2").save_pretrained(tmp_path)
    options = {"MODEL.VIT.PATCH_SIZE": 14, "MODEL.VIT.IMG_SIZE": 56, "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": 56}
    from_pretrained(tmp_path, device="cpu", **options)
    assert "patch kernel resampled from 16 to 14 pixels" in log.text
    options = {"MODEL.VIT.PATCH_SIZE": 32, "MODEL.VIT.IMG_SIZE": 64}
    with pytest.raises(UserError, match=r"do not fit .*missing: sem_seg_head\.upscale\.2"):
        from_pretrained(tmp_path, device="cpu", **options)


@pytest.mark.parametrize("size", ["s", "b", "l"])
@pytest.mark.parametrize("family", ["eomt", "eomt_dinov3"])
def test_names_and_shapes_of_the_published_sizes(family: str, size: str) -> None:
    """The packaged configs are transformers' models of these widths and depths."""
    body = {"eomt": "dinov2", "eomt_dinov3": "dinov3"}[family]
    cfg = get_cfg(f"ade20k/eomt_{body}_vit_{size}.yaml", ["MODEL.DEVICE", "cpu"])
    config, model = eomt_classes(family)
    settings = config_for_transformers(cfg)
    assert (settings["hidden_size"], settings["num_hidden_layers"], settings["num_blocks"]) == {
        "s": (384, 12, 3),
        "b": (768, 12, 3),
        "l": (1024, 24, 4),
    }[size]
    with torch.device("meta"):
        reference = model(config(**{key: x for key, x in settings.items() if key != "model_type"})).state_dict()
        ours = META_ARCH_REGISTRY.get("SeMaskMaskFormer")(cfg).state_dict()
    state, _ = recognize(reference, ours).convert(reference, ours)
    assert {name: x.shape for name, x in state.items()} == {name: x.shape for name, x in ours.items()}


# The start of a training


@pytest.mark.parametrize(
    ("name", "patch"), [("vit_small_patch14_reg4_dinov2", 14), ("vit_small_patch16_dinov3_qkvb", 16)]
)
def test_all_blocks_of_a_timm_model_start_a_training(name: str, patch: int, tmp_path: Path) -> None:
    body = randomize(timm.create_model(name, embed_dim=48, depth=7, num_heads=3, img_size=4 * patch))
    torch.save(body.state_dict(), tmp_path / "body.pth")
    cfg = eomt_cfg(MODEL__VIT__NAME=name, MODEL__VIT__PATCH_SIZE=patch, MODEL__VIT__IMG_SIZE=4 * patch)
    model = build_model(cfg)
    report = load_weights(model, tmp_path / "body.pth", training_start=True)
    assert report.kind == "timm model"
    heads = ("query_embed", "class_embed", "mask_embed", "upscale", "mask_probability")
    assert {name.split(".")[1] for name in report.missing} == {*heads}
    for number, block in model.sem_seg_head.backbone.blocks.items():
        for key, value in block.state_dict().items():
            assert torch.equal(value, body.state_dict()[f"blocks.{number}.{key}"])
    assert torch.equal(model.sem_seg_head.backbone.norm.weight, body.norm.weight)
    state = {key: value for key, value in body.state_dict().items() if "blocks.6." not in key}
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(UserError, match=r"missing: sem_seg_head\.backbone\.blocks\.6\."):
        load_weights(model, tmp_path / "short.pth", training_start=True)


def test_a_backbone_of_transformers_starts_one_too(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers, of the extra dev")
    sizes = {"hidden_size": 48, "num_hidden_layers": 7, "num_attention_heads": 3, "intermediate_size": 192}
    reference = randomize(transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**sizes, num_register_tokens=4)))
    reference.save_pretrained(tmp_path)
    model = build_model(eomt_cfg(MODEL__VIT__NAME="vit_small_patch16_dinov3_qkvb"))
    report = load_weights(model, tmp_path, training_start=True)
    assert {name.split(".")[1] for name in report.missing} == {
        *("query_embed", "class_embed", "mask_embed", "upscale", "mask_probability")
    }
    assert report.unexpected == []
    state = reference.state_dict()
    norm = next(value for name, value in state.items() if name.endswith("norm.weight") and "layer." not in name)
    assert torch.equal(model.sem_seg_head.backbone.norm.weight, norm)


def test_fine_tuning_on_other_classes_with_semantic_layers(tmp_path: Path) -> None:
    reference_eomt("DINOv2").save_pretrained(tmp_path)
    words = ["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 9, "MODEL.VIT.NUM_SEM_BLOCKS", 1]
    model = build_model(get_cfg(tmp_path, words))
    report = load_weights(model, tmp_path, training_start=True, drop_class_layers=True)
    others = [name for name in report.missing if "semantic_layers" not in name]
    assert sorted(others) == [f"sem_seg_head.class_embed.{leaf}" for leaf in ("bias", "weight")]
    save_weights(model, tmp_path / "ours.safetensors")
    assert load_weights(model, tmp_path / "ours.safetensors").complete


# Faults


@pytest.mark.parametrize(
    ("variant", "changed", "message"),
    [
        ("DINOv2", {"num_upscale_blocks": 3}, "num_upscale_blocks: expected 2 for patches of 16, got 3"),
        ("DINOv2", {"image_size": 70}, "image_size: expected a multiple of patch_size 16, got 70"),
        ("DINOv2", {"image_size": [64, 64]}, "image_size: expected a whole number"),
        ("DINOv2", {"num_register_tokens": 0}, "num_register_tokens: 0 is not supported, only 4"),
        ("DINOv2", {"hidden_act": "silu"}, "hidden_act: 'silu' is not supported, only 'gelu'"),
        ("DINOv2", {"patch_size": "16"}, "patch_size: expected a whole number"),
        ("DINOv2", {"num_blocks": 0}, "num_blocks: expected a whole number from 1"),
        ("DINOv2", {"use_swiglu_ffn": "no"}, "use_swiglu_ffn: expected true or false"),
        ("DINOv3", {"use_gated_mlp": True}, "use_gated_mlp: True is not supported, only False"),
        ("DINOv3", {"intermediate_size": 100}, "intermediate_size: expected 4 times hidden_size, 192, got 100"),
        ("DINOv3", {"value_bias": False}, "value_bias: expected True as query_bias, got False"),
        ("DINOv3", {"rope_parameters": {"rope_theta": 10}}, "rope_parameters.rope_theta: 10 is not supported"),
        ("DINOv3", {"hidden_size": None}, "intermediate_size: expected 4 times hidden_size"),
    ],
)
def test_settings_of_no_model_of_ours_are_named(variant: str, changed: dict[str, Any], message: str) -> None:
    settings = {**reference_eomt(variant).config.to_dict(), "model_type": VARIANTS[variant][0], **changed}
    with pytest.raises(UserError) as caught:
        values_from_transformers(settings, {}, "folder/config.json")
    assert str(caught.value).startswith("folder/config.json: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"MODEL__VIT__NAME": "vit_tiny_patch16_224"}, "MODEL.VIT.NAME: transformers' EoMT needs a DINOv2"),
        (
            {"MODEL__VIT__NAME": "vit_small_plus_patch16_dinov3"},
            "MODEL.VIT.NAME: expected a DINOv3 of timm without gated",
        ),
        ({"MODEL__VIT__NUM_SEM_BLOCKS": 1}, "MODEL.VIT.NUM_SEM_BLOCKS: transformers does not support 1, only 0"),
        (
            {"MODEL__VIT__NAME": "vit_small_patch14_reg4_dinov2", "MODEL__VIT__DEPTH": 0},
            "MODEL.VIT.DEPTH: 0 cannot be written; set it to the number of vit_small_patch14_reg4_dinov2",
        ),
    ],
)
def test_what_transformers_has_no_model_of_is_not_written(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        config_for_transformers(eomt_cfg(**options))
    assert message in str(caught.value)


@pytest.mark.parametrize("family", ["eomt", "eomt_dinov3"])
def test_settings_that_a_file_leaves_out_are_transformers_own(family: str) -> None:
    config, _ = eomt_classes(family)
    whole = config().to_dict()
    settings = (*FAMILIES[family].settings, *FAMILIES[family].backbones[""].settings)
    assert {x.name: x.default for x in settings} == {x.name: whole[x.name] for x in settings}
    assert values_from_transformers({"model_type": family}, {}, "c") == values_from_transformers(whole, {}, "c")
    assert all(x.key in DEFAULTS for x in settings)


def test_probabilities_are_ours_by_block() -> None:
    assert len(build_model(eomt_cfg()).sem_seg_head.mask_probability) == BLOCKS
    state: dict[str, Tensor] = reference_eomt("DINOv2").state_dict()
    assert len(state["attn_mask_probs"]) == BLOCKS
