"""Transformers folder instead of a run: used for drawing, with its config derived and its classes named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semask_d2 import Predictor, build_model, get_cfg
from semask_d2.__main__ import main
from semask_d2.checkpoint.transformers_folder import write_folder
from semask_d2.config.transformers_config import config_for_transformers, processor_for_transformers
from semask_d2.d2 import CfgNode, MetadataCatalog
from semask_d2.inference.sources import choose_config
from semask_d2.utils.arguments import value_of
from tests.helpers.tiny_model import randomize, tiny_cfg
from tests.helpers.transformers_models import reference_model

NAMES = ["road", "sky", "car", "tree", "house", "pole"]
BACKBONES = {
    "swin": {"MODEL__SWIN__NUM_SEM_BLOCKS": 0},
    "resnet": {
        "MODEL__BACKBONE__NAME": "build_resnet_backbone",
        "MODEL__RESNETS__STEM_OUT_CHANNELS": 8,
        "MODEL__RESNETS__RES2_OUT_CHANNELS": 16,
        "MODEL__RESNETS__WIDTH_PER_GROUP": 4,
        "MODEL__RESNETS__OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    },
}


@pytest.fixture(params=BACKBONES)
def native_model(request: pytest.FixtureRequest) -> tuple[CfgNode, dict]:
    """Return the config and the weights of a small native model without semantic attention."""
    decoder = {"MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder", "INPUT__MIN_SIZE_TEST": 96}
    cfg = tiny_cfg(**decoder, **BACKBONES[request.param])
    return cfg, randomize(build_model(cfg)).state_dict()


@pytest.fixture
def folder(native_model: tuple[CfgNode, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write `native_model` as a transformers folder, and an image beside it; enter their folder."""
    cfg, state = native_model
    write_folder(tmp_path / "converted", state, config_for_transformers(cfg, NAMES), processor_for_transformers(cfg))
    blocks = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(blocks.repeat(30, 0).repeat(30, 1)).save(tmp_path / "x.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "converted"


def test_it_draws_like_the_converted_model(in_process, folder: Path, native_model: tuple[CfgNode, dict]) -> None:
    code, _, err = in_process(
        "demo/demo.py", "--weights", "converted", "--input", "x.png", "--output", "pictures", "--labels"
    )
    assert code == 0, err
    assert Image.open("pictures/x.png").width
    lines = Path("pictures/labels/classes.txt").read_text().splitlines()
    assert lines == [f"{i} {name}" for i, name in enumerate(NAMES)]
    cfg, state = native_model
    model = build_model(cfg).eval()
    model.load_state_dict(state)
    image = np.array(Image.open("x.png"))
    expected = Predictor.of_model(cfg, model)(image, scores=True)
    assert np.array_equal(np.array(Image.open("pictures/labels/x.png")), expected.labels)
    scores = Predictor(choose_config(None, "converted"))(image, scores=True).scores
    assert np.ptp(expected.scores, (1, 2)).min() > 1e-3  # the scores vary over the image
    np.testing.assert_allclose(scores, expected.scores, atol=1e-5)


def test_its_config_is_derived(folder: Path, native_model: tuple[CfgNode, dict], capsys: pytest.CaptureFixture) -> None:
    cfg = get_cfg(folder)
    assert (str(folder), 96) == (cfg.MODEL.WEIGHTS, cfg.INPUT.MIN_SIZE_TEST)
    for section in ("RESNETS", "SEM_SEG_HEAD") if "resnet" in cfg.MODEL.BACKBONE.NAME else ("SWIN",):
        for key, value in cfg.MODEL[section].items():
            if not key.startswith("SEM_"):
                assert value == native_model[0].MODEL[section][key], key
    assert main(["config", "--set", "converted"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert f"# {folder}" in next(line for line in printed if line.startswith("MODEL.SEM_SEG_HEAD.NUM_CLASSES "))
    assert any("# configs/recipes/m2f_ade20k_512.yaml" in line for line in printed)


def test_settings_over_it_and_a_config_without_weights(in_process, folder: Path) -> None:
    words = ("--input", "x.png", "--opts", "INPUT.MIN_SIZE_TEST", "64")
    code, _, err = in_process("demo/demo.py", "--weights", "converted", "--output", "a.png", *words)
    assert code == 0, err
    code, _, err = in_process("demo/demo.py", "--config-file", "converted", "--output", "b.png", *words)
    assert code == 0, err
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_classes_of_a_known_dataset_have_its_colors_and_things(
    in_process, folder: Path, native_model: tuple[CfgNode, dict]
) -> None:
    """Use the classes of the toy dataset, as those of COCO would be; other classes have no known things."""
    words = ("demo/demo.py", "--weights", "again", "--input", "x.png", "--output", "a.png", "--task", "panoptic")
    cfg, state = native_model
    metadata = MetadataCatalog.get("toy_scenes_panoptic_val")
    for names, known in ((metadata.stuff_classes, True), (NAMES + NAMES, False)):
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(names)
        for name in [name for name in state if "class_embed" in name]:
            state[name] = torch.randn(len(names) + 1, *state[name].shape[1:])
        write_folder("again", state, config_for_transformers(cfg, names), processor_for_transformers(cfg))
        code, out, err = in_process(*words)
        assert code == (0 if known else 1), err
        assert known or "whose metadata define thing classes" in err
        assert "Traceback" not in out + err
    cfg = choose_config(None, "again")
    assert Predictor(cfg).class_names == NAMES + NAMES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "segformer"},
            "converted/config.json: model_type: expected one of mask2former, maskformer, eomt, eomt_dinov3, got",
        ),
        (
            {"backbone_config": {"model_type": "bit"}},
            "converted/config.json: backbone_config.model_type: expected swin or",
        ),
        (None, "--weights converted: no config.yaml there; expected a run folder"),
    ],
)
def test_invalid_folders_are_refused(in_process, folder: Path, change: dict | None, message: str) -> None:
    path = folder / "config.json"
    if change is None:
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    code, out, err = in_process("demo/demo.py", "--weights", "converted", "--input", "x.png", "--output", "a.png")
    assert code == 1
    assert f"error: {message}" in err
    assert "Traceback" not in out + err
    assert not Path("a.png").exists()


@pytest.mark.parametrize("family", ["mask2former", "maskformer"])
def test_a_training_has_the_schedule_and_crops_of_a_recipe(family: str, tmp_path: Path) -> None:
    reference_model(family).save_pretrained(tmp_path / "folder")
    cfg = get_cfg(tmp_path / "folder")
    recipe = get_cfg(f"ade20k/r50_{'m2f' if family == 'mask2former' else 'mf'}.yaml")
    for key in ("INPUT.MIN_SIZE_TRAIN", "INPUT.CROP", "INPUT.SIZE_DIVISIBILITY", "SOLVER", "TEST.EVAL_PERIOD"):
        assert value_of(cfg, key) == value_of(recipe, key), key
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (800, 1333)  # transformers' without a processor
    assert cfg.OUTPUT_DIR == "output/folder"
