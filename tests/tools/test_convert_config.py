"""Published configs with executable tags are converted to literal ones, without executing anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from semask_d2 import build_model, get_cfg
from semask_d2.utils.errors import UserError
from tests.helpers.commands import load_script

tool = load_script("tools/convert_config.py")

TAG = "!!python/object/apply:eval"


LIST = "[int(x * 0.1 * 640) for x in range(5, 21)]"
NUMBERS = [int(x * 0.1 * 640) for x in range(5, 21)]


def convert(text: str) -> str:
    """Return what the tool writes for a config with this text, in the current folder."""
    Path("published.yaml").write_text(text)
    tool.main(["published.yaml", "--output", "literal.yaml"])
    return Path("literal.yaml").read_text()


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("expression", [LIST, "[int(0.25 * x * 512) for x in range(1, 8)]"])
def test_the_published_lists_are_written_out(expression: str) -> None:
    text = f'INPUT:\n  MIN_SIZE_TRAIN: {TAG} ["{expression}"]\n  MAX_SIZE_TRAIN: 99 # kept\n'
    Path("published.yaml").write_text(text)
    with pytest.raises(UserError, match=r"key INPUT\.MIN_SIZE_TRAIN, line 2.*tools/convert_config\.py"):
        get_cfg("published.yaml")
    assert convert(text) == f"INPUT:\n  MIN_SIZE_TRAIN: {eval(expression)}\n  MAX_SIZE_TRAIN: 99 # kept\n"
    assert list(get_cfg("literal.yaml").INPUT.MIN_SIZE_TRAIN) == eval(expression)


@pytest.mark.parametrize(
    "value",
    [
        f"{TAG} ['{LIST}']",
        f'{TAG}\n    ["{LIST}"]',
        f'{TAG}\n  - "{LIST}"',
        f'{TAG} [ # every tenth\n    "[int(x * 0.1 * 640)\n    for x in range(5, 21)]" ]',
        f'!<tag:yaml.org,2002:python/object/apply:eval> ["{LIST}",]',
    ],
)
def test_however_yaml_spells_them(value: str) -> None:
    text = convert(f"INPUT:\n  MIN_SIZE_TRAIN: {value}\n  MAX_SIZE_TRAIN: 99\n")
    assert text == f"INPUT:\n  MIN_SIZE_TRAIN: {NUMBERS}\n  MAX_SIZE_TRAIN: 99\n"


def test_what_only_looks_like_an_expression_is_left_alone() -> None:
    text = f'OUTPUT_DIR: \'{TAG} ["[evil]"]\'\n# MIN: {TAG} ["[evil]"]\n'
    assert convert(text) == text


def test_a_config_with_bases_becomes_one_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.yaml").write_text(f'INPUT:\n  MIN_SIZE_TRAIN: {TAG} ["{LIST}"]\n  MAX_SIZE_TRAIN: 1\n')
    (tmp_path / "sub/leaf.yaml").write_text("_BASE_: ../base.yaml\nINPUT: {MAX_SIZE_TRAIN: 2}\n")
    tool.main(["sub/leaf.yaml", "--output", "elsewhere/literal.yaml"])
    cfg = get_cfg("elsewhere/literal.yaml")
    assert list(cfg.INPUT.MIN_SIZE_TRAIN) == NUMBERS
    assert cfg.INPUT.MAX_SIZE_TRAIN == 2


@pytest.mark.parametrize(
    "value",
    [
        f"{TAG} [\"__import__('os').mkdir('PROOF')\"]",
        f'{TAG} ["[int(x.real) for x in range(3)]"]',
        f'{TAG} ["[int(x * 2) for x in range(3) if x]"]',
        f'{TAG} ["[int(x) async for x in range(3)]"]',
        f'{TAG} ["[int(int * 2) for int in range(3)]"]',
        f'{TAG} ["[int(x * True) for x in range(3)]"]',
        f'{TAG} ["[int(x * 1e999) for x in range(3)]"]',
        f'{TAG} ["[int(x) for x in range(1000000000000)]"]',
        f'{TAG} ["[float(x * 2) for x in range(3)]"]',
        f'{TAG} ["[int(x{" * 2" * 5000}) for x in range(3)]"]',
        f'{TAG} ["[int(x * 2) for"]',
        f'{TAG} ["{LIST}", "{LIST}"]',
        f'[1, {TAG} ["[]"]]',
        f'"{LIST}": {TAG} []',
        '!!python/object/apply:os.mkdir ["PROOF"]',
        "!!python/tuple [1, 2]",
    ],
)
def test_anything_else_is_refused_unexecuted(tmp_path: Path, value: str) -> None:
    with pytest.raises(UserError, match=r"published\.yaml: (key INPUT\.MIN_SIZE_TRAIN, line 2|not valid YAML)"):
        convert(f"INPUT:\n  MIN_SIZE_TRAIN: {value}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["published.yaml"]


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml: cannot be read"):
        tool.main(["gone.yaml", "--output", "new/literal.yaml"])
    (tmp_path / "latin.yaml").write_bytes(b"OUTPUT_DIR: caf\xe9\n")
    with pytest.raises(UserError, match=r"latin\.yaml: not a text file in UTF-8"):
        tool.main(["latin.yaml", "--output", "new/literal.yaml"])
    assert not (tmp_path / "new").exists()
    (tmp_path / "old.yaml").write_text("SEED: 1\n")
    with pytest.raises(UserError, match=r"--output old\.yaml: exists already"):
        tool.main(["old.yaml", "--output", "old.yaml"])
    with pytest.raises(UserError, match=r"--output old\.yaml/x: cannot be written"):
        tool.main(["old.yaml", "--output", "old.yaml/x"])
    assert (tmp_path / "old.yaml").read_text() == "SEED: 1\n"


def test_a_folder_of_transformers_becomes_a_config_that_trains_and_loads(tmp_path: Path) -> None:
    settings = {
        "model_type": "mask2former",
        "backbone_config": {"model_type": "swin", "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
        "feature_size": 32,
        "id2label": {"0": "road", "1": "sky", "2": "car"},
    }
    Path("theirs").mkdir()
    Path("theirs/config.json").write_text(json.dumps(settings))
    processor = {"image_mean": [0.5, 0.4, 0.2], "size": 480, "max_size": 960}  # as in older versions
    Path("theirs/preprocessor_config.json").write_text(json.dumps(processor))
    tool.main(["theirs", "--output", "ours.yaml"])
    cfg = get_cfg("ours.yaml")
    assert cfg.MODEL.SWIN.DEPTHS == [1, 1, 1, 1]
    assert (cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES) == (32, 3)
    assert pytest.approx([127.5, 102, 51]) == cfg.MODEL.PIXEL_MEAN
    assert (cfg.MODEL.WEIGHTS, cfg.INPUT.FORMAT, cfg.MODEL.SWIN.NUM_SEM_BLOCKS) == ("theirs", "RGB", 0)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (480, 960)
    assert sum(x.numel() for x in build_model(cfg).backbone.parameters())

    resnet = {"model_type": "resnet", "depths": [3, 4, 23, 3], "out_features": ["stage1", "stage2", "stage3", "stage4"]}
    Path("theirs/config.json").write_text(json.dumps({**settings, "backbone_config": resnet}))
    tool.main(["theirs", "--output", "resnet.yaml"])
    cfg = get_cfg("resnet.yaml")
    assert (cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS.DEPTH) == ("build_resnet_backbone", 101)
    assert (cfg.MODEL.RESNETS.NORM, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == ("FrozenBN", False)
    assert cfg == get_cfg("theirs")  # a folder gives the same config as the file

    Path("theirs/config.json").write_text(json.dumps({**settings, "model_type": "detr"}))
    with pytest.raises(UserError, match=r"theirs/config\.json: model_type: expected one of mask2former, maskformer"):
        tool.main(["theirs", "--output", "other.yaml"])
    assert not Path("other.yaml").exists()
