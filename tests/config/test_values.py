"""Invalid values for a model or a run are refused with the key, the value and what was expected."""

from __future__ import annotations

import pytest

from semask_d2 import build_model, get_cfg
from semask_d2.config import with_defaults
from semask_d2.config.checks import check_training
from semask_d2.data import build_mapper
from semask_d2.modeling.backbones import D2SeMaskSwinTransformer
from semask_d2.modeling.backbones.base import SemanticSettings
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TINY, TOY_CONFIG


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.META_ARCHITECTURE", "SeMaskMaskFormr", 'Did you mean "SeMaskMaskFormer"'),
        ("MODEL.BACKBONE.NAME", "D2SeMaskSwin", "D2SeMaskSwinTransformer"),
        ("MODEL.SEM_SEG_HEAD.NAME", "MaskFormerHead", "BranchMaskFormerHead"),
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnDecoder", "MSDeformAttnPixelDecoder"),
        ("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "Standard", "StandardTransformerDecoder"),
        ("MODEL.SEM_SEG_HEAD.NORM", "LN", "'LN'"),
        ("MODEL.SEM_SEG_HEAD.CONVS_DIM", "48", "multiple of 32"),
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res2','res3','res4','res55']", 'Did you mean "res5"'),
        ("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES", "['res3','res4','res6']", '"res6"'),
        ("MODEL.SWIN.OUT_FEATURES", "['res2','res3','res4']", '"res5"'),
        ("MODEL.SWIN.NUM_HEADS", "[1,2]", "one number per stage"),
        ("MODEL.SWIN.NUM_HEADS", "[3,6,12,24]", "numbers that divide"),
        ("MODEL.SWIN.DROP_PATH_RATE", "1.0", "below 1"),
        ("MODEL.SWIN.DROP_RATE", "-1.0", "below 1"),
        ("MODEL.SWIN.ATTN_DROP_RATE", "1.5", "below 1"),
        ("MODEL.SWIN.MLP_RATIO", "-1.0", "a number above 0"),
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", "[2, 3]", 'there is no "2"'),
        ("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES", "[3]", '"3"'),
        ("MODEL.SWIN.SEM_WINDOWED_STAGES", "[4]", "from 0 to 3"),
        ("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "res5", "several maps"),
        ("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "res7", "backbone feature"),
        ("MODEL.MASK_FORMER.TEST.SEMANTIC_ON", "False", "expected True"),
        ("MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "True", "define thing classes"),
        ("MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", "-0.1", "from 0 to 1"),
        ("MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", "80.0", "from 0 to 1"),
        ("TEST.DETECTIONS_PER_IMAGE", "0", "at least 1"),
        ("MODEL.MASK_FORMER.NHEADS", "5", "multiple of 5"),
        ("MODEL.MASK_FORMER.HIDDEN_DIM", "30", "multiple of 4"),
        ("MODEL.MASK_FORMER.DEC_LAYERS", "0", "at least 1"),
        ("MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO", "1.5", "between 0 and 1"),
        ("MODEL.MASK_FORMER.OVERSAMPLE_RATIO", "0.5", "OVERSAMPLE_RATIO"),
        ("MODEL.MASK_FORMER.TRAIN_NUM_POINTS", "0", "at least 1"),
        ("MODEL.MASK_FORMER.PRE_NORM", "True", "expected False"),
        ("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "0", "at least 1"),
        ("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "-1", "at least 1"),
        ("MODEL.BACKBONE.FREEZE_AT", "6", "from 0 to 5"),
        ("MODEL.BACKBONE.TRAIN", "thawed", '"full" or "frozen" or "lora"'),
        ("MODEL.BACKBONE.LORA.RANK", "0", "at least 1"),
        ("INPUT.CHANNELS", "4", "MODEL.PIXEL_MEAN: expected as many numbers as INPUT.CHANNELS, 4"),
        ("MODEL.PIXEL_STD", "[1., 1.]", "MODEL.PIXEL_STD: expected as many numbers as INPUT.CHANNELS, 3"),
        ("MODEL.PIXEL_STD", "[1., 0., 1.]", "3 numbers above 0"),
        ("INPUT.DISPLAY_CHANNELS", "[0, 3, 1]", "one or three channels from 0 to 2"),
        ("INPUT.DISPLAY_CHANNELS", "[0, 1]", "one or three channels from 0 to 2"),
        ("MODEL.SWIN.NUM_SEM_BLOCKS", "-1", "at least 0"),
        ("MODEL.SWIN.SEM_ATTENTION", "center", '"pairwise" or "scaled" or "centers"'),
        ("MODEL.SWIN.SEM_RESIDUAL", "none", '"normalized" or "raw"'),
        ("MODEL.MASK_FORMER.CLASS_WEIGHT", "-1", "at least 0"),
        ("MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "3", "power of two"),
        ("MODEL.PIXEL_STD", "[0.0,1.0,1.0]", "above 0"),
    ],
)
def test_wrong_values_are_named_with_the_expected_ones(key: str, value: str, message: str) -> None:
    cfg = get_cfg(TOY_CONFIG, (*TINY, key, value))
    with pytest.raises(UserError, match=r"(MODEL|TEST|INPUT)\.") as caught:
        build_model(cfg)
    assert message in str(caught.value)


def test_windowed_stages_make_the_parameters_no_different_but_must_exist() -> None:
    cfg = get_cfg(TOY_CONFIG, (*TINY, "MODEL.SWIN.SEM_WINDOWED_STAGES", "[]"))
    assert all(stage.semantic_layer.window is None for stage in build_model(cfg).backbone.layers)


@pytest.mark.parametrize(
    ("config", "key", "value", "message"),
    [
        ("semask_mit_b0_m2f", "MODEL.MIT.NUM_HEADS", "[3,2,5,8]", "numbers that divide"),
        ("semask_mit_b0_m2f", "MODEL.MIT.MLP_RATIO", "0.01", "a number above 0"),
        ("semask_mit_b0_m2f", "MODEL.MIT.DEPTHS", "[2,2,2]", "one per stage"),
        ("semask_mit_b0_m2f", "MODEL.MIT.SEM_INIT", "dead", '"live" or "released"'),
        ("semask_timm_resnet18_m2f", "MODEL.TIMM.NAME", "resnet17", "the name of a timm model, such as resnet"),
        ("semask_timm_resnet18_m2f", "MODEL.TIMM.NAME", "hrnet_w18", "chain of modules"),
        ("semask_timm_resnet18_m2f", "MODEL.TIMM.NAME", "maxvit_tiny_tf_224", "images of any size"),
        ("semask_timm_resnet18_m2f", "MODEL.TIMM.DROP_PATH_RATE", "1.5", "below 1"),
        ("semask_swin_mini_fpn", "MODEL.SEM_SEG_HEAD.NORM", "LN", "one of"),
        ("semask_swin_mini_fpn", "MODEL.SEM_SEG_HEAD.OHEM_PIXELS", "-5", "at least 0"),
        ("semask_swin_mini_mf", "MODEL.MASK_FORMER.ENC_LAYERS", "2", "expected 0"),
    ],
)
def test_wrong_values_of_other_components_name_the_key(config: str, key: str, value: str, message: str) -> None:
    cfg = get_cfg(f"toy_scenes/{config}.yaml", [key, value])
    with pytest.raises(UserError) as caught:
        build_model(cfg)
    assert str(caught.value).startswith(key)
    assert message in str(caught.value)


def test_without_a_config_an_argument_is_named() -> None:
    with pytest.raises(ValueError, match=r"D2SeMaskSwinTransformer: num_heads \(MODEL\.SWIN\.NUM_HEADS\): .* \[3, 6\]"):
        with_defaults(D2SeMaskSwinTransformer, semantic=with_defaults(SemanticSettings), num_heads=[3, 6])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SOLVER.MAX_ITER", "0", "at least 1"),
        ("SOLVER.CHECKPOINT_PERIOD", "0", "at least 1"),
        ("SOLVER.CHECKPOINTS_KEPT", "-1", "at least 0"),
        ("DATALOADER.NUM_WORKERS", "-1", "from 0 to 1000"),
        ("DATALOADER.NUM_WORKERS", "2147483648", "from 0 to 1000"),  # each is a process
        ("DATASETS.TEST", "[[[]]]", "names of datasets"),
        ("DATASETS.TRAIN", "(1,)", "names of datasets"),
        ("SEED", "4294967296", "at most 4294901760"),
        ("SOLVER.BASE_LR", "1e999", "a finite number"),
        ("MODEL.PIXEL_MEAN", "[1, 2, 1e999]", "a finite number"),
        ("SOLVER.MAX_ITER", "1" + "0" * 400, "a whole number"),
        ("SOLVER.BASE_LR", "-1", "at least 0"),
        ("SOLVER.WARMUP_METHOD", "cosine", '"linear" or "constant"'),
        ("SOLVER.STEPS", "(20, 10)", "increasing iterations"),
        ("SOLVER.GAMMA", "-0.1", "at least 0"),
        ("INPUT.MIN_SIZE_TEST", "-5", "at least 0"),
        ("INPUT.MAX_SIZE_TEST", "0", "at least 1"),
        ("MODEL.DEVICE", "meta", '"cpu", "cuda"'),
        ("MODEL.DEVICE", "xla", '"cpu", "cuda"'),
        ("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "_BASE_"),
        ("SOLVER.EMA.DECAY", "1.0", "at least 0 and below 1"),
        ("SOLVER.EARLY_STOPPING.PATIENCE", "-1", "at least 0"),
        ("SOLVER.EARLY_STOPPING.MIN_DELTA", "-0.5", "at least 0"),
        ("OUTPUT_DIR", "", "folder"),
        ("OUTPUT_DIR", r"'a\0b'", "a string without null characters"),
        ("MODEL.WEIGHTS", r"'a\0b'", "a string without null characters"),
    ],
)
def test_settings_of_a_run(key: str, value: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_training(get_cfg(TOY_CONFIG, (*TINY, key, value)))
    assert str(caught.value).startswith(key)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("INPUT.CROP.SIZE", "[0,64]", "at least 1"),
        ("INPUT.CROP.SIZE", "[-64,64]", "at least 1"),
        ("INPUT.MIN_SIZE_TRAIN", "[-3]", "at least 1"),
        ("INPUT.MIN_SIZE_TRAIN", "[128,64]", "smaller end"),
        ("INPUT.MAX_SIZE_TRAIN", "0", "at least 1"),
    ],
)
def test_sizes_of_training_images(key: str, value: str, message: str) -> None:
    cfg = get_cfg(TOY_CONFIG, (*TINY, "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", key, value))
    with pytest.raises(UserError) as caught:
        build_mapper(cfg, is_train=True)
    assert str(caught.value).startswith(key)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
        ("TEST.PRECISE_BN.ENABLED", "True"),
        ("SOLVER.RESCALE_INTERVAL", "True"),
        ("VIS_PERIOD", "10"),
    ],
)
def test_what_is_not_obeyed_is_said(key: str, value: str, caplog: pytest.LogCaptureFixture) -> None:
    check_training(get_cfg(TOY_CONFIG, TINY))
    assert not caplog.records
    check_training(get_cfg(TOY_CONFIG, (*TINY, key, value)))
    (record,) = caplog.records
    assert f"{key} {value} has no effect in training" in record.getMessage()


def test_an_integer_too_large_for_a_float_is_named(tmp_path) -> None:
    (tmp_path / "x.yaml").write_text(f"SOLVER: {{BASE_LR: 1{'0' * 400}}}\n")
    with pytest.raises(UserError, match=r"x.yaml: SOLVER.BASE_LR: expected a value of type float"):
        get_cfg(tmp_path / "x.yaml")


def test_a_number_that_is_not_finite_is_named_with_its_file(tmp_path) -> None:
    (tmp_path / "x.yaml").write_text("MODEL: {PIXEL_MEAN: [1.0, .nan, 2.0]}\n")
    with pytest.raises(UserError, match=r"x.yaml: MODEL.PIXEL_MEAN: expected a finite number, got nan"):
        get_cfg(tmp_path / "x.yaml")


def test_a_norm_may_be_that_of_the_largest_gradient() -> None:
    check_training(get_cfg(TOY_CONFIG, (*TINY, "SOLVER.CLIP_GRADIENTS.NORM_TYPE", "1e999")))


def test_an_integer_is_a_float_where_one_is_meant(tmp_path) -> None:
    (tmp_path / "c.yaml").write_text("SOLVER: {BASE_LR: 1}\n")
    assert get_cfg(tmp_path / "c.yaml").SOLVER.BASE_LR == 1.0
    assert get_cfg(None, ["SOLVER.BASE_LR", "1"]).SOLVER.BASE_LR == 1.0


def test_a_dotted_key_in_yaml_is_explained(tmp_path) -> None:
    (tmp_path / "c.yaml").write_text("MODEL.WEIGHTS: x.pth\n")
    with pytest.raises(UserError, match=r"written with dots; in YAML, sections nest: MODEL: \{WEIGHTS: \.\.\.\}"):
        get_cfg(tmp_path / "c.yaml")


def test_the_published_defaults_hold_without_a_file() -> None:
    solver = get_cfg().SOLVER
    assert (solver.LR_SCHEDULER_NAME, solver.CLIP_GRADIENTS.CLIP_TYPE) == ("WarmupPolyLR", "full_model")


@pytest.mark.parametrize("name", ["a" * 5000, "a/" * 3000, "a\0b.yaml"])
def test_what_can_be_no_file_name_is_no_config(name: str) -> None:
    with pytest.raises(UserError, match="No such file, and no config of that name"):
        get_cfg(name)


def test_configs_of_the_package_are_found_by_name_from_anywhere(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    by_name = get_cfg("ade20k/semask_swin_l_m2f.yaml")
    assert by_name == get_cfg("configs/ade20k/semask_swin_l_m2f.yaml")
    with pytest.raises(UserError, match=r'no config of that name.* Did you mean "ade20k/semask_swin_l_m2f.yaml"'):
        get_cfg("ade20k/semask_swin_xl_m2f.yaml")
    with pytest.raises(UserError, match="no config of that name"):
        get_cfg("../pyproject.toml")
