"""Settings that have no effect are named, and the normalization follows a changed timm backbone."""

from __future__ import annotations

from pathlib import Path

import pytest

from semask_d2.config import all_keys, get_cfg
from semask_d2.config.sources import config_with_sources
from semask_d2.config.switches import BACKBONES, SWITCHES, settings_without_effect
from semask_d2.d2 import BACKBONE_REGISTRY
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TOY_CONFIG

TIMM = "camvid/semask_timm_lite0_m2f.yaml"
IMAGENET = [123.675, 116.28, 103.53]


def test_the_table_names_keys_and_backbones_that_exist() -> None:
    known = set(all_keys(get_cfg()))
    assert {f"{switch.section}.{key}" for switch in SWITCHES for key in switch.keys} <= known
    assert {switch.key for switch in SWITCHES} <= known
    assert all(name in BACKBONE_REGISTRY for name in BACKBONES)
    assert all(any(key.startswith(section) for key in known) for section in BACKBONES.values())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["INPUT.CROP.ENABLED", "False", "INPUT.CROP.SIZE", "[64, 64]"],
            "INPUT.CROP.SIZE has no effect while INPUT.CROP.ENABLED is False",
        ),
        (
            ["TEST.AUG.MIN_SIZES", "[64]", "TEST.AUG.FLIP", "False"],
            "TEST.AUG.MIN_SIZES, TEST.AUG.FLIP have no effect while TEST.AUG.ENABLED is False",
        ),
        (["TEST.SLIDING.OVERLAP", "0.5"], "TEST.SLIDING.OVERLAP has no effect while TEST.SLIDING.ENABLED is False"),
        (
            ["MODEL.BACKBONE.LORA.RANK", "4"],
            "MODEL.BACKBONE.LORA.RANK has no effect while MODEL.BACKBONE.TRAIN is full",
        ),
        (
            ["MODEL.BACKBONE.TRAIN", "frozen", "MODEL.BACKBONE.FREEZE_AT", "2"],
            "MODEL.BACKBONE.FREEZE_AT has no effect while MODEL.BACKBONE.TRAIN is frozen",
        ),
        (["SOLVER.EMA.DECAY", "0.9"], "SOLVER.EMA.DECAY has no effect while SOLVER.EMA.ENABLED is False"),
        (["SOLVER.MOMENTUM", "0.8"], "SOLVER.MOMENTUM has no effect while SOLVER.OPTIMIZER is ADAMW"),
        (["SOLVER.STEPS", "(10,)"], "SOLVER.STEPS has no effect while SOLVER.LR_SCHEDULER_NAME is WarmupPolyLR"),
        (["INPUT.IMAGE_SIZE", "512"], "INPUT.IMAGE_SIZE has no effect while INPUT.DATASET_MAPPER_NAME is mask_former"),
        (
            ["MODEL.TIMM.NAME", "resnet18"],
            "MODEL.TIMM.NAME has no effect while MODEL.BACKBONE.NAME is D2SeMaskSwinTransformer",
        ),
    ],
)
def test_settings_without_effect_are_named(words: list[str], line: str, caplog: pytest.LogCaptureFixture) -> None:
    get_cfg(TOY_CONFIG, words)
    assert line in caplog.text


def test_settings_with_effect_are_not(caplog: pytest.LogCaptureFixture) -> None:
    get_cfg(TOY_CONFIG, ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "[64]", "INPUT.CROP.SIZE", "[64, 64]"])
    get_cfg("ade20k/swin_t_m2f.yaml", ["SEED", "1"])  # its recipe sets TEST.AUG.MIN_SIZES
    get_cfg(TOY_CONFIG, ["INPUT.CROP.ENABLED", "False", "TEST.SLIDING.ENABLED", "True", "INPUT.CROP.SIZE", "[64, 64]"])
    assert "no effect" not in caplog.text


def test_the_users_own_file_is_read_and_that_of_a_run_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run.yaml").write_text(get_cfg(TOY_CONFIG).dump())
    get_cfg(tmp_path / "run.yaml")
    assert "no effect" not in caplog.text
    (tmp_path / "mine.yaml").write_text(f"_BASE_: {TOY_CONFIG}\nSOLVER: {{EMA: {{DECAY: 0.5}}}}\n")
    get_cfg(tmp_path / "mine.yaml")
    assert "SOLVER.EMA.DECAY has no effect" in caplog.text


def test_a_backbone_of_another_project_may_read_any_section() -> None:
    cfg = get_cfg(TOY_CONFIG, ["MODEL.BACKBONE.NAME", "D2SwinTransformer"])
    assert not settings_without_effect(cfg, ["MODEL.SWIN.DEPTHS"])


@pytest.mark.parametrize(
    ("config", "words", "mean"),
    [
        (TIMM, [], [127.0] * 3),
        (TIMM, ["MODEL.TIMM.NAME", "resnet18"], IMAGENET),
        (TIMM, ["MODEL.TIMM.NAME", "resnet18", "INPUT.FORMAT", "BGR"], IMAGENET[::-1]),
        (TIMM, ["MODEL.TIMM.NAME", "resnet18", "MODEL.PIXEL_MEAN", "[1.0, 2.0, 3.0]"], [1.0, 2.0, 3.0]),
        ("ade20k/semask_timm_convnext_tiny_m2f.yaml", ["MODEL.TIMM.NAME", "tf_efficientnet_lite0"], [127.5] * 3),
        (
            TIMM,
            ["MODEL.TIMM.NAME", "tf_efficientnet_b0", "MODEL.WEIGHTS", "timm://tf_efficientnet_b0.ap_in1k"],
            [127.5] * 3,
        ),
        (TIMM, ["MODEL.TIMM.NAME", "no_model"], [127.0] * 3),
        ("camvid/semask_vit_tiny_m2f.yaml", ["MODEL.VIT.NAME", "deit_tiny_patch16_224"], IMAGENET),
    ],
)
def test_the_normalization_follows_timms_weights(config: str, words: list[str], mean: list[float]) -> None:
    import timm

    if "timm://tf_efficientnet_b0.ap_in1k" in words:
        mean = [255 * x for x in timm.get_pretrained_cfg("tf_efficientnet_b0.ap_in1k").mean]
    assert pytest.approx(mean, abs=0.01) == get_cfg(config, words).MODEL.PIXEL_MEAN


def test_the_users_file_may_name_the_backbone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mine.yaml").write_text(f"_BASE_: {TIMM}\nMODEL: {{TIMM: {{NAME: resnet18}}}}\n")
    cfg, sources = config_with_sources(tmp_path / "mine.yaml")
    assert cfg.MODEL.PIXEL_MEAN == IMAGENET
    assert sources["MODEL.PIXEL_MEAN"] == "timm's weights"
    assert "MODEL.TIMM.NAME is resnet18: MODEL.PIXEL_MEAN [123.675, 116.28, 103.53]" in caplog.text
    (tmp_path / "run.yaml").write_text(cfg.dump())
    caplog.clear()
    assert get_cfg(tmp_path / "run.yaml").MODEL.PIXEL_MEAN == IMAGENET
    assert not caplog.text


@pytest.mark.parametrize("sides", ["0.5,1.0", "[256, 8]", "[]", "[True, 64]"])
def test_sizes_of_test_time_augmentation_are_pixels(sides: str) -> None:
    from semask_d2.config.checks import check_evaluation

    with pytest.raises(UserError, match=r"TEST.AUG.MIN_SIZES: expected shorter sides in pixels, such as \[256, 384\]"):
        check_evaluation(get_cfg(TOY_CONFIG, ["TEST.AUG.MIN_SIZES", sides, "MODEL.DEVICE", "cpu"]))
