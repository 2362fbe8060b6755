"""Reading configs: bases and options, clear errors, and no execution of anything in a file."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import semask_d2
from semask_d2.config import DEFAULTS, add_semask_config, all_keys, get_cfg
from semask_d2.d2 import CfgNode
from semask_d2.d2 import get_cfg as get_detectron2_cfg
from semask_d2.utils.errors import UserError
from tests.helpers.refusals import refusal


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def error_of(*args: object) -> str:
    with pytest.raises(UserError) as caught:
        get_cfg(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_add_semask_config_adds_every_key_and_keeps_existing_ones() -> None:
    cfg = get_detectron2_cfg()
    cfg.MODEL.SWIN = CfgNode({"EMBED_DIM": 7})
    cfg.SOLVER.POLY_LR_POWER = 0.5
    add_semask_config(cfg)
    assert cfg.MODEL.SWIN.EMBED_DIM == 7
    assert cfg.SOLVER.POLY_LR_POWER == 0.5
    known = set(all_keys(cfg))
    assert known >= DEFAULTS.keys()
    before = cfg.clone()
    add_semask_config(cfg)
    assert cfg == before


def test_a_frozen_config_takes_no_keys() -> None:
    cfg = get_detectron2_cfg()
    cfg.freeze()
    with pytest.raises(UserError, match=r"the config is frozen.*before cfg\.freeze"):
        add_semask_config(cfg)
    assert "SWIN" not in cfg.MODEL


def test_defaults_are_not_shared_between_configs() -> None:
    get_cfg().MODEL.SWIN.DEPTHS.append(99)
    assert get_cfg().MODEL.SWIN.DEPTHS == [2, 2, 6, 2]


def test_options_win_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "SOLVER: {BASE_LR: 0.5, MAX_ITER: 3}\nMODEL: {SWIN: {DEPTHS: [1, 1]}}\n")
    cfg = get_cfg(path, ["SOLVER.BASE_LR", "0.25", "MODEL.SWIN.NUM_HEADS", "[3, 4]", "OUTPUT_DIR", "here"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR) == (0.25, 3, "here")
    assert (cfg.MODEL.SWIN.DEPTHS, cfg.MODEL.SWIN.NUM_HEADS) == ([1, 1], [3, 4])


# Bases


def test_base_files_lie_under_the_file_that_names_them(tmp_path: Path) -> None:
    write(tmp_path / "parts/one.yaml", "SOLVER: {BASE_LR: 1.0, MAX_ITER: 1, IMS_PER_BATCH: 1}\n")
    write(tmp_path / "parts/two.yaml", "_BASE_: deeper/three.yaml\nSOLVER: {MAX_ITER: 2, IMS_PER_BATCH: 2}\n")
    write(tmp_path / "parts/deeper/three.yaml", "SOLVER: {BASE_LR: 3.0, GAMMA: 0.3}\n")
    many = write(tmp_path / "a.yaml", "_BASE_: [parts/one.yaml, parts/two.yaml]\nSOLVER: {IMS_PER_BATCH: 4}\n")
    solver = get_cfg(many).SOLVER
    assert (solver.BASE_LR, solver.MAX_ITER, solver.IMS_PER_BATCH, solver.GAMMA) == (3.0, 2, 4, 0.3)
    one = write(tmp_path / "b.yaml", "_BASE_: parts/one.yaml\nSOLVER: {MAX_ITER: 9}\n")
    solver = get_cfg(one).SOLVER
    assert (solver.BASE_LR, solver.MAX_ITER) == (1.0, 9)


def test_the_same_base_twice_is_no_circle(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "SOLVER: {BASE_LR: 1.0}\n")
    write(tmp_path / "left.yaml", "_BASE_: base.yaml\n")
    write(tmp_path / "right.yaml", "_BASE_: base.yaml\n")
    assert get_cfg(write(tmp_path / "a.yaml", "_BASE_: [left.yaml, right.yaml]\n")).SOLVER.BASE_LR == 1.0


@pytest.mark.parametrize("relative", [False, True])
def test_a_circle_of_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.yaml", "_BASE_: b.yaml\n")
    write(tmp_path / "b.yaml", "_BASE_: [a.yaml]\n")
    message = error_of("a.yaml" if relative else tmp_path / "a.yaml")
    assert "_BASE_" in message
    assert ".yaml" in message
    assert "_BASE_" in error_of(write(tmp_path / "self.yaml", "_BASE_: self.yaml\n"))


def test_a_missing_base_names_both_files(tmp_path: Path) -> None:
    message = error_of(write(tmp_path / "a.yaml", "_BASE_: gone.yaml\n"))
    assert "gone.yaml" in message
    assert "a.yaml" in message


@pytest.mark.parametrize("value", ["5", "~", "{a: b}", "[1]"])
def test_a_base_that_is_no_file_name(tmp_path: Path, value: str) -> None:
    assert "a.yaml" in error_of(write(tmp_path / "a.yaml", f"_BASE_: {value}\n"))


# Mistakes


def test_missing_file(tmp_path: Path) -> None:
    assert str(tmp_path / "no.yaml") in error_of(tmp_path / "no.yaml")
    assert str(tmp_path) in error_of(tmp_path)


@pytest.mark.parametrize(
    ("text", "wrong", "nearest"),
    [
        ("SOLVER: {BASE_LRR: 1.0}", "SOLVER.BASE_LRR", "SOLVER.BASE_LR"),
        ("SOLVR: {BASE_LR: 1.0}", "SOLVR", "SOLVER"),
        ("MODEL: {SWIN: {SEM_WINDOWD_STAGES: [0]}}", "MODEL.SWIN.SEM_WINDOWD_STAGES", "MODEL.SWIN.SEM_WINDOWED_STAGES"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, text: str, wrong: str, nearest: str) -> None:
    message = error_of(write(tmp_path / "a.yaml", text))
    assert f'"{wrong}"' in message
    assert f'Did you mean "{nearest}"?' in message
    assert "a.yaml" in message
    leaf = wrong if "." in wrong else "SOLVR.BASE_LR"
    assert f'"{wrong}"' in error_of(None, [leaf, "1"])


def test_an_unrelated_key_gets_no_suggestion(tmp_path: Path) -> None:
    assert "Did you mean" not in error_of(write(tmp_path / "a.yaml", "QQQQ: 1"))


@pytest.mark.parametrize("text", ["SOLVER: {MAX_ITER: many}", "MODEL: {SWIN: {DEPTHS: 3}}", "SOLVER: {BASE_LR: [1.0]}"])
def test_a_value_of_the_wrong_type(tmp_path: Path, text: str) -> None:
    message = error_of(write(tmp_path / "a.yaml", text))
    assert "a.yaml" in message
    assert any(key in message for key in ("MAX_ITER", "DEPTHS", "BASE_LR"))


def test_an_option_of_the_wrong_type() -> None:
    assert "SOLVER.MAX_ITER" in error_of(None, ["SOLVER.MAX_ITER", "many"])


@pytest.mark.parametrize("text", ["SOLVER: 3", "SOLVER: ~", "SOLVER: [1]"])
def test_a_value_where_a_section_is_expected(tmp_path: Path, text: str) -> None:
    assert "SOLVER" in error_of(write(tmp_path / "a.yaml", text))
    assert "SOLVER" in error_of(None, ["SOLVER", "3"])


def test_a_section_where_a_value_is_expected(tmp_path: Path) -> None:
    assert "OUTPUT_DIR" in error_of(write(tmp_path / "a.yaml", "OUTPUT_DIR: {A: 1}"))


@pytest.mark.parametrize("option", ["OUTPUT_DIR.A", "SOLVER.MAX_ITER.A", "MODEL.DEVICE.c", "MODEL.SWIN.DEPTHS.0"])
def test_an_option_below_a_value(option: str) -> None:
    assert option in error_of(None, [option, "1"])


@pytest.mark.parametrize("text", ["OUTPUT_DIR: 2024-01-01", "1: 2", "SOLVER: {3: 4}", "SOLVER: {MAX_ITER: 2024-01-01}"])
def test_yaml_types_that_no_config_has(tmp_path: Path, text: str) -> None:
    assert "a.yaml" in error_of(write(tmp_path / "a.yaml", text))


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "just text", "A: [1, 2", "A: b: c", "\tA: 1"])
def test_files_that_are_no_mapping(tmp_path: Path, text: str) -> None:
    assert "a.yaml" in error_of(write(tmp_path / "a.yaml", text))


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x80\x81 \xc3(")
    assert "a.yaml" in error_of(tmp_path / "a.yaml")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert get_cfg(write(tmp_path / "a.yaml", "# nothing\n")) == get_cfg()


@pytest.mark.parametrize("opts", [["SOLVER.BASE_LR"], ["A", "1", "B"]])
def test_an_odd_number_of_options(opts: list[str]) -> None:
    message = error_of(None, opts)
    assert "KEY VALUE" in message
    assert opts[-1] in message


# Tags


@pytest.mark.parametrize(
    "tag",
    [
        '!!python/object/apply:os.mkdir ["PROOF"]',
        "!!python/object/apply:eval [\"__import__('os').mkdir('PROOF')\"]",
        '!!python/object/new:os.mkdir ["PROOF"]',
        "!<tag:yaml.org,2002:python/object/apply:os.mkdir> [PROOF]",
        "!!python/name:os.mkdir",
        "!!int 3",
        "[480, !!int 3]",
    ],
)
def test_tags_are_refused_unexecuted_and_name_their_key(tmp_path: Path, tag: str) -> None:
    proof = tmp_path / "executed"
    text = f"SOLVER:\n  MAX_ITER: 3\nINPUT:\n  MIN_SIZE_TRAIN: {tag.replace('PROOF', str(proof))}\n"
    base = write(tmp_path / "base.yaml", text)
    for path in (base, write(tmp_path / "a.yaml", "_BASE_: base.yaml\n")):
        message = error_of(path)
        assert "base.yaml" in message
        assert "MIN_SIZE_TRAIN" in message
        assert "line 4" in message
        assert "tag" in message
    assert not proof.exists()


def test_a_tag_on_an_option_is_text() -> None:
    assert get_cfg(None, ["OUTPUT_DIR", "!!python/name:os.mkdir"]).OUTPUT_DIR == "!!python/name:os.mkdir"


def test_options_are_not_evaluated(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    text = f"__import__('os').mkdir('{proof}')"
    assert text == get_cfg(None, ["OUTPUT_DIR", text]).OUTPUT_DIR
    assert not proof.exists()


# The machine


def test_cuda_without_cuda_becomes_cpu(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert get_cfg().MODEL.DEVICE == "cpu"
    assert not caplog.records
    with caplog.at_level(logging.WARNING, logger="semask_d2"):
        cfg = get_cfg(None, ["MODEL.DEVICE", "cuda:1", "MODEL.SEM_SEG_HEAD.NORM", "SyncBN"])
    assert (cfg.MODEL.DEVICE, cfg.MODEL.SEM_SEG_HEAD.NORM) == ("cpu", "BN")
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "MODEL.DEVICE" in messages[0]
    assert "cuda:1" in messages[0]
    assert "SyncBN" in messages[1]


def test_with_cuda_everything_stays(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = get_cfg(None, ["MODEL.SEM_SEG_HEAD.NORM", "SyncBN"])
    assert (cfg.MODEL.DEVICE, cfg.MODEL.SEM_SEG_HEAD.NORM) == ("cuda", "SyncBN")
    assert not caplog.records
    cfg = get_cfg(None, ["MODEL.SEM_SEG_HEAD.NORM", "SyncBN", "MODEL.DEVICE", "cpu"])
    assert (cfg.MODEL.DEVICE, cfg.MODEL.SEM_SEG_HEAD.NORM) == ("cpu", "BN")


def test_other_norms_stay() -> None:
    assert get_cfg(None, ["MODEL.SEM_SEG_HEAD.NORM", "GN", "MODEL.DEVICE", "cpu"]).MODEL.SEM_SEG_HEAD.NORM == "GN"


@pytest.mark.parametrize("name", ["facebook/mask2former-swin-tiny-ade-semantic", "hf://me/model"])
def test_a_repository_as_config_names_the_commands(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = f"semask train --config-file ade20k/swin_t_m2f.yaml --weights {name} --data my.yaml "
    calls = (get_cfg, semask_d2.create_model, semask_d2.train)
    for call in calls:
        message = refusal(lambda call=call: call(name))
        assert message is not None
        assert command + "MODEL.WEIGHTS_DROP_CLASS_LAYERS True" in message
        assert f'create_model("ade20k/swin_t_m2f", num_classes=17, weights="{name}")' in message
    assert "hub" not in str(refusal(lambda: get_cfg("me/model.yaml")))
