"""Command `semask`: its help, the sources of a config's settings, and one-line errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from semask_d2.__main__ import COMMANDS, main
from semask_d2.config import get_cfg
from semask_d2.config.sources import config_with_sources
from semask_d2.engine.training import warn_of_long_warmup
from tests.helpers.commands import TINY, TOY_CONFIG

CONFIG = ("--config-file", "toy_scenes/semask_swin_mini_m2f.yaml")


def test_every_command_has_help(capsys: pytest.CaptureFixture) -> None:
    for words in ([], *([name] for name in COMMANDS)):
        with pytest.raises(SystemExit) as exit_info:
            main([*words, "--help"])
        assert exit_info.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: semask {words[0] if words else 'COMMAND'}")


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["trian"])
    assert exit_info.value.code == 2
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
    evaluated = semask("eval", "--weights", "output/run")
    assert evaluated.returncode == 0, evaluated.stderr
    assert evaluated.stdout.splitlines()[-1] == trained.stdout.splitlines()[-1]
    image = toy_root / "toy_scenes/images/validation/0000.jpg"
    drawn = semask("predict", "--input", image, "--output", "pictures")
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "pictures/0000.png").exists()


def test_a_base_missing_beside_a_file_is_taken_from_the_package(tmp_path: Path) -> None:
    bases = "[data/ade20k.yaml, backbones/swin_s.yaml, recipes/m2f_ade20k_512.yaml]"
    (tmp_path / "mine.yaml").write_text(f"_BASE_: {bases}\nSEED: 3\n")
    _, sources = config_with_sources(tmp_path / "mine.yaml")
    assert sources["SOLVER.MAX_ITER"].startswith("configs/recipes/")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/ade20k.yaml").write_text("SEED: 5\n")
    assert config_with_sources(tmp_path / "mine.yaml")[1]["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] == "default"


def test_settings_changed_for_the_machine_name_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cfg, sources = config_with_sources("ade20k/semask_swin_t_fpn.yaml")
    assert cfg.MODEL.SEM_SEG_HEAD.NORM == "BN"
    assert sources["MODEL.SEM_SEG_HEAD.NORM"] == sources["MODEL.DEVICE"] == "what this machine has"


def test_a_closed_output_pipe_is_no_error() -> None:
    code = f"{sys.executable} -m semask_d2 config ade20k/semask_swin_l_m2f.yaml | head -n 1"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "toy_scenes/x.yaml"], "write --config-file toy_scenes/x.yaml"),
        (
            ["train", "--config-file", "toy_scenes/semask_swin_mini_m2f.yaml", "SEED", "1", "--resume"],
            "--resume is a flag",
        ),
        (["train", "--config-file", "toy_scenes/semask_swin_mini_m2f.yaml", "SOLVER.BASE_LR=0.1"], "with a space"),
        (["train", "--config-file", "toy_scenes/semask_swin_mini_m2f.yaml", "--num-gpus", "0"], "also on a CPU"),
        (["eval", "--config-file", "toy_scenes/semask_swin_mini_m2f.yaml"], "an evaluation needs trained weights"),
    ],
)
def test_mistakes_on_the_command_line(words: list[str], expected: str, toy_data, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(("iterations", "warned"), [(30, True), (100, False)])
def test_a_run_that_is_mostly_warm_up_causes_a_warning(
    iterations: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = get_cfg(TOY_CONFIG, ["SOLVER.WARMUP_ITERS", "50", "SOLVER.MAX_ITER", str(iterations)])
    warn_of_long_warmup(cfg)
    assert ("WARMUP_ITERS 50 is more than half of SOLVER.MAX_ITER 30" in caplog.text) is warned
    assert ("set SOLVER.WARMUP_ITERS 3" in caplog.text) is warned


def test_an_evaluation_of_nothing_is_refused(toy_data, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = "toy_scenes/semask_swin_mini_m2f.yaml"
    assert main(["eval", "--config-file", config, "--resume", "OUTPUT_DIR", str(tmp_path)]) == 1
    assert "no checkpoint there; add MODEL.WEIGHTS FILE" in capsys.readouterr().err


def test_an_invalid_config_does_not_move_an_earlier_run(toy_data, tmp_path: Path) -> None:
    (tmp_path / "model_final.pth").write_bytes(b"precious")
    wrong = ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "PixelFanDecoder", "OUTPUT_DIR", str(tmp_path))
    assert main(["train", "--config-file", "toy_scenes/semask_swin_mini_m2f.yaml", *wrong]) == 1
    assert (tmp_path / "model_final.pth").read_bytes() == b"precious"
