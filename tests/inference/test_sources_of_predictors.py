"""Sources of a Predictor: nothing, a model in memory, a config with weights; and sources that are none."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import semask_d2
from semask_d2 import Predictor
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TINY_MODEL, TINY_TRAINING, TOY_CONFIG

NAME = "toy_scenes/semask_swin_mini_m2f"


def make_image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


def test_without_a_source_it_is_that_of_the_command(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(Predictor(device="cpu").classes) == 17
    assert "No trained model under output/: using the packaged one" in capsys.readouterr().out
    shutil.copytree(tiny_run, tmp_path / "output/run")
    assert len(Predictor().classes) == 12
    assert capsys.readouterr().out == "Using the newest trained run: output/run/model_best.pth\n"


def test_a_model_in_memory(tiny_run: Path) -> None:
    expected = Predictor(tiny_run)(make_image(), scores=True)
    model = semask_d2.from_pretrained(tiny_run).train()
    predictor = Predictor(model)
    assert not model.training
    assert predictor.model is model
    assert np.array_equal(predictor(make_image(), scores=True).scores, expected.scores)
    created = semask_d2.create_model(NAME, class_names=["a", "b"], **TINY_MODEL, **TINY_TRAINING)
    assert Predictor(created).class_names == ["a", "b"]
    assert set(Predictor(created)(make_image()).shares) <= {"a", "b"}


@pytest.mark.parametrize("as_config", [False, True])
def test_a_config_and_its_weights(tiny_run: Path, tmp_path: Path, as_config: bool) -> None:
    lone = tmp_path / "lone.pth"
    shutil.copy(tiny_run / "model_best.pth", lone)
    config = tiny_run / "config.yaml"
    source = semask_d2.get_cfg(config) if as_config else config
    expected = Predictor(tiny_run)(make_image())
    assert np.array_equal(Predictor(source, lone)(make_image()).labels, expected.labels)
    assert np.array_equal(Predictor(config)(make_image()).labels, expected.labels)  # the weights beside it


def test_a_config_by_its_name(tmp_path: Path) -> None:
    model = semask_d2.create_model(NAME)
    torch.save({"model": model.state_dict()}, tmp_path / "lone.pth")
    for name in (NAME, f"{NAME}.yaml"):
        assert len(Predictor(name, tmp_path / "lone.pth", device="cpu").classes) == 12


def test_what_is_no_source(tiny_run: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone.pth"
    shutil.copy(tiny_run / "model_best.pth", lone)
    model = semask_d2.from_pretrained(tiny_run)
    unknown = semask_d2.build_model(semask_d2.get_cfg(tiny_run / "config.yaml"))
    for call, message in (
        (lambda: Predictor("photo.jpg"), r"^photo.jpg: a model is expected here.*: Predictor\(\)\('photo.jpg'\)$"),
        (lambda: semask_d2.from_pretrained("drive.MP4"), r"^drive.MP4: a model is expected here"),
        (lambda: Predictor(lone), rf"^{lone}: no config at .*config.yaml; name its config too: Predictor\("),
        (lambda: semask_d2.from_pretrained(lone), r"no config at .*; name its config too: Predictor\("),
        (lambda: Predictor("nowhere"), r"^nowhere: no such file or run folder$"),
        (lambda: Predictor(3), r"^Predictor: expected a model, a config or the name of a source, got a int$"),
        (lambda: Predictor(model, lone), r"^Predictor: a model has its weights"),
        (lambda: Predictor(unknown), r"config and classes of this model are unknown.*Predictor.of_model\(cfg, model\)"),
        (lambda: Predictor(torch.nn.Identity()), "Identity: the config and classes of this model are unknown"),
        (lambda: Predictor(semask_d2.get_cfg(TOY_CONFIG)), r"as Predictor\(config, weights\)"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "--" not in str(caught.value), "an option of a shell"
        assert "\n" not in str(caught.value)


def test_test_time_augmentation_is_said_to_have_no_effect(tiny_run: Path, caplog: pytest.LogCaptureFixture) -> None:
    Predictor.from_run(tiny_run, opts=["TEST.AUG.ENABLED", "True"])
    assert "TEST.AUG.ENABLED has no effect here; semask eval and compare average several sizes" in caplog.text
