"""The command `semask`: the same functions as the scripts, and what a config is made of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from semask_d2.__main__ import COMMANDS, main
from semask_d2.config import get_cfg
from semask_d2.config.sources import config_with_sources
from tests.helpers.commands import TINY


def test_every_command_has_help(capsys: pytest.CaptureFixture) -> None:
    for words in ([], *([name] for name in COMMANDS)):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--help"])
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: semask {words[0] if words else 'COMMAND'}")


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["trian"])
    assert ended.value.code == 2
    assert "invalid choice: 'trian'" in capsys.readouterr().err


def test_config_names_the_file_of_each_setting(capsys: pytest.CaptureFixture) -> None:
    assert main(["config", "ade20k/semask_swin_l_m2f.yaml", "SEED", "7"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["MODEL.SWIN.EMBED_DIM"].endswith(["192", "# configs/backbones/swin_l.yaml"][1])
    assert "# configs/recipes/" in lines["SOLVER.MAX_ITER"]
    assert "# configs/data/ade20k.yaml" in lines["MODEL.SEM_SEG_HEAD.NUM_CLASSES"]
    assert "# configs/ade20k/semask_swin_l_m2f.yaml" in lines["MODEL.SWIN.SEM_WINDOWED_STAGES"]
    assert "# command line" in lines["SEED"]
    assert "# default" in lines["MODEL.SWIN.MLP_RATIO"]
    assert main(["config", "--set", "ade20k/semask_swin_l_m2f.yaml"]) == 0
    assert "# default" not in capsys.readouterr().out


def test_every_key_has_a_source_and_the_config_is_get_cfgs(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("_BASE_: base.yaml\nSEED: 3\n")
    (tmp_path / "base.yaml").write_text("SEED: 1\nSOLVER: {MAX_ITER: 5}\n")
    cfg, sources = config_with_sources(tmp_path / "mine.yaml")
    assert cfg == get_cfg(tmp_path / "mine.yaml")
    assert sources["SEED"] == str(tmp_path / "mine.yaml")
    assert sources["SOLVER.MAX_ITER"] == str(tmp_path / "base.yaml")
    assert sources["SOLVER.BASE_LR"] == "default"


def test_a_users_mistake_is_one_line(capsys: pytest.CaptureFixture) -> None:
    assert main(["config", "ade20k/nothing.yaml"]) == 1
    assert capsys.readouterr().err.startswith("error: ade20k/nothing.yaml: No such file")


@pytest.mark.slow
def test_train_eval_and_predict_from_another_folder(toy_root: Path, tmp_path: Path) -> None:
    config = "toy_scenes/semask_swin_mini_msfapn_m2f.yaml"

    def semask(*words: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "semask_d2", *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, "DETECTRON2_DATASETS": str(toy_root)},
            capture_output=True,
            text=True,
            check=False,
        )

    trained = semask("train", "--config-file", config, *TINY, "SOLVER.MAX_ITER", 2, "OUTPUT_DIR", "output/run")
    assert trained.returncode == 0, trained.stderr
    weights = ("MODEL.WEIGHTS", "output/run/model_best.pth")
    evaluated = semask("eval", "--config-file", "output/run/config.yaml", *weights)
    assert evaluated.returncode == 0, evaluated.stderr
    assert evaluated.stdout.splitlines()[-1] == trained.stdout.splitlines()[-1]
    image = toy_root / "toy_scenes/images/validation/0000.jpg"
    drawn = semask("predict", "--input", image, "--output", "pictures")
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "pictures/0000.png").exists()
