"""Weights for transformers, written by `tools/export_weights.py --format transformers`."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from semask_d2 import build_model, get_cfg
from semask_d2.checkpoint import load_weights
from semask_d2.utils.errors import UserError
from tests.helpers.commands import load_script
from tests.helpers.small_models import same, snapshot
from tests.helpers.tiny_model import randomize, tiny_cfg

tool = load_script("tools/export_weights.py")


def export(weights: Path, output: Path, config_file: Path | None = None) -> None:
    config = str(config_file) if config_file else None
    tool.main(argparse.Namespace(weights=str(weights), output=str(output), format="transformers", config_file=config))


@pytest.fixture
def plain_run(tmp_path: Path) -> Path:
    """A run folder of a model without semantic layers."""
    cfg = tiny_cfg(MODEL__SWIN__NUM_SEM_BLOCKS=0, MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME="MSDeformAttnPixelDecoder")
    torch.save({"model": randomize(build_model(cfg)).state_dict()}, tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    return tmp_path


def test_a_run_becomes_a_folder_of_transformers(plain_run: Path, capsys: pytest.CaptureFixture) -> None:
    export(plain_run, plain_run / "out")
    assert "Wrote " in capsys.readouterr().out
    assert {path.name for path in (plain_run / "out").iterdir()} == {
        *("config.json", "preprocessor_config.json", "model.safetensors")
    }
    export(plain_run / "model_final.pth", plain_run / "again", plain_run / "config.yaml")
    cfg = get_cfg(plain_run / "config.yaml")
    states = []
    for weights in (plain_run, plain_run / "out", plain_run / "again"):
        model = build_model(cfg)
        load_weights(model, weights)
        states.append(snapshot(model))
    assert same(states[0], states[1])
    assert same(states[0], states[2])


def test_what_cannot_be_written_is_said(plain_run: Path, tiny_run: Path) -> None:
    for weights, output, message in (
        (tiny_run, "out", r"NUM_SEM_BLOCKS: transformers does not support 1, only 0"),
        (plain_run, "config.yaml", r"config\.yaml: exists already"),
    ):
        with pytest.raises(UserError, match=message):
            export(weights, plain_run / output)
    (plain_run / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"no config at .*config\.yaml; add --config-file FILE"):
        export(plain_run / "model_final.pth", plain_run / "out")
    assert not (plain_run / "out").exists()
