"""Grammar of the commands: options with one meaning everywhere, settings last, and deprecated names."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pytest
import torch

import semask_d2
from semask_d2.__main__ import COMMANDS, main, parse_arguments
from semask_d2.commands.evaluate import evaluation_config
from semask_d2.commands.train import starting_weights
from semask_d2.inference.sources import choose_config, find_source
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TOY_CONFIG, load_script
from tests.helpers.hub_server import Hub
from tests.helpers.loggers import restored_loggers

MODEL_COMMANDS = ("train", "eval", "compare", "predict", "export", "report", "web")
NEEDED = {"predict": ["--input", "x.jpg"], "export": ["--output", "x.onnx"], "compare": ["a", "b"]}
SETTINGS = ["SEED", "7", "INPUT.CROP.SIZE", "[64, 64]"]


def help_text(name: str, capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("name", MODEL_COMMANDS)
def test_settings_may_end_every_command_with_a_model(name: str) -> None:
    words = NEEDED.get(name, [])
    for written in (SETTINGS, ["--opts", *SETTINGS]):
        args = parse_arguments(name, [*words, *written])
        assert args.opts == SETTINGS
        plain = parse_arguments(name, words)
        assert {**vars(args), "opts": [], "settings": []} == {**vars(plain), "opts": [], "settings": []}


@pytest.mark.parametrize("name", MODEL_COMMANDS)
def test_a_model_is_named_by_weights_everywhere(name: str, capsys: pytest.CaptureFixture) -> None:
    args = parse_arguments(name, [*NEEDED.get(name, []), "--weights", "SOURCE", *SETTINGS])
    assert args.weights == (["SOURCE"] if name == "compare" else "SOURCE")
    assert args.opts == SETTINGS
    text = help_text(name, capsys)
    assert "--weights SOURCE" in text
    assert "KEY VALUE" in text
    assert "--run" not in text
    assert "--opts" not in text


@pytest.mark.parametrize("name", [name for name in MODEL_COMMANDS if name != "export"])
def test_settings_override_the_device_option(name: str) -> None:
    words = [*NEEDED.get(name, []), "--device", "cuda:1", "MODEL.DEVICE", "cpu"]
    assert parse_arguments(name, words).opts == ["MODEL.DEVICE", "cuda:1", "MODEL.DEVICE", "cpu"]


@pytest.mark.parametrize("name", ["train", "eval"])
def test_output_sets_the_output_folder(name: str) -> None:
    assert parse_arguments(name, ["--output", "OUT", "SEED", "1"]).opts == ["OUTPUT_DIR", "OUT", "SEED", "1"]


@pytest.mark.parametrize("name", ["eval", "export", "report", "web"])
def test_the_deprecated_name_of_weights_works_with_a_warning(name: str, capsys: pytest.CaptureFixture) -> None:
    args = parse_arguments(name, [*NEEDED.get(name, []), "--run", "output/run"])
    assert (args.weights, args.weights_option) == ("output/run", "--run")
    warning = "warning: --run is deprecated and will be removed in the next release; use --weights\n"
    assert capsys.readouterr().err == warning
    assert parse_arguments(name, [*NEEDED.get(name, []), "--weights", "x"]).weights_option == "--weights"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["eval", "export", "report", "web"])
@pytest.mark.parametrize("option", ["--run", "--weights"])
def test_messages_name_the_option_that_was_typed(name: str, option: str, tmp_path: Path, capsys) -> None:
    needed = ["--output", str(tmp_path / "x.onnx")] if name == "export" else []
    assert main([name, *needed, option, "nowhere"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: {option} nowhere: no such file or run folder"


def test_the_help_of_eval_shows_its_own_options_and_takes_detectron2s(capsys: pytest.CaptureFixture) -> None:
    text = help_text("eval", capsys)
    assert "--resume" not in text
    assert "--eval-only" not in text
    args = parse_arguments("eval", ["--eval-only", "--resume", "--config-file", "x.yaml"])
    assert args.resume


def test_settings_are_recognized_after_options_with_several_values(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    args = parse_arguments("predict", ["--weights", "RUN", "--input", "a.jpg", "b.jpg", "SEED", "1"])
    assert (args.weights, args.input, args.opts) == ("RUN", ["a.jpg", "b.jpg"], ["SEED", "1"])
    args = parse_arguments("compare", ["a", "b", "--per-class", "TSET.AUG", "True"])  # a misspelled key is still a key
    assert (args.sources, args.per_class, args.opts) == (["a", "b"], True, ["TSET.AUG", "True"])
    (tmp_path / "SEED").touch()  # a file
    assert parse_arguments("predict", ["--input", "SEED", "SOLVER.BASE_LR=1"]).input == ["SEED"]
    words = ["--output", "X.onnx", "--size", "64", "96", "SEED", "1"]
    args = parse_arguments("export", words)
    assert (args.output, args.size, args.opts) == ("X.onnx", [64, 96], ["SEED", "1"])


def test_detectron2s_words_work_with_the_scripts(in_process, toy_data, tiny_run: Path, tmp_path: Path) -> None:
    words = ("--config-file", tiny_run / "config.yaml", "--num-gpus", "1", "--eval-only", "--resume")
    code, out, err = in_process("train_net.py", *words, "OUTPUT_DIR", tmp_path)
    assert code == 1
    assert "no checkpoint there" in err
    image_path = toy_data / "toy_scenes/images/validation/0000.jpg"
    drawing = ("--config-file", tiny_run / "config.yaml", "--input", image_path, "--output", tmp_path / "a.png")
    code, out, err = in_process("demo/demo.py", *drawing, "--opts", "MODEL.WEIGHTS", tiny_run / "model_best.pth")
    assert code == 0, out + err
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize(("path", "name"), [("train_net.py", "train"), ("demo/demo.py", "predict")])
def test_the_scripts_are_commands(path: str, name: str) -> None:
    assert load_script(path).command_line.args == (name,)


def test_every_command_is_a_module_of_two_functions() -> None:
    for name in COMMANDS:
        parser = argparse.ArgumentParser()
        needed = {"check": ["x"], "init-data": ["x"], **NEEDED}.get(name, [])
        assert parse_arguments(name, needed, parser).debug is False


def test_sources(tiny_run: Path, tmp_path: Path) -> None:
    weights, config = str(tiny_run / "model_best.pth"), str(tiny_run / "config.yaml")
    assert find_source(str(tiny_run)) == find_source(weights) == (weights, config, str(tiny_run))
    lone = tmp_path / "lone.pth"
    lone.touch()
    assert find_source(str(lone)) == (str(lone), None, None)
    assert find_source("timm://x") == ("timm://x", None, None)
    assert str(lone) == choose_config(config, str(lone)).MODEL.WEIGHTS
    with pytest.raises(UserError, match=r"^--weights timm://x: no config comes with it; add --config-file FILE"):
        choose_config(None, "timm://x")
    with pytest.raises(UserError, match=rf"^{lone}: no config at {tmp_path}/config.yaml; add --config-file FILE"):
        choose_config(None, str(lone), option="")


def test_a_training_starts_from_a_runs_weights(tiny_run: Path, tmp_path: Path) -> None:
    args = parse_arguments("train", ["--config-file", str(TOY_CONFIG), "--weights", str(tiny_run)])
    assert starting_weights(args) == ["MODEL.WEIGHTS", str(tiny_run / "model_best.pth")]
    args = parse_arguments("train", ["--weights", str(tiny_run), "MODEL.WEIGHTS", "x.pth"])
    with pytest.raises(UserError, match=r"and MODEL[.]WEIGHTS: give only one of them"):
        starting_weights(args)


def test_results_go_into_the_run_folder_unless_output_is_given(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)

    def folder(*words: object) -> str:
        return evaluation_config(parse_arguments("eval", ["--weights", *map(str, words)])).OUTPUT_DIR

    assert folder(run) == folder(run / "model_best.pth") == str(run)
    assert folder(run, "--output", tmp_path / "x") == folder(run, "OUTPUT_DIR", tmp_path / "x") == str(tmp_path / "x")
    assert folder(run, "--config-file", TOY_CONFIG) == "output/toy_scenes/semask_swin_mini_msfapn_m2f"


def test_a_report_of_a_checkpoint_is_that_of_its_run(tiny_run: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["report", "--weights", str(tiny_run / "model_best.pth")]) == 1
    assert f"error: {tiny_run}: no evaluation there" in capsys.readouterr().err


@pytest.mark.slow
def test_a_lone_checkpoint_with_a_config_is_evaluated(toy_data, tiny_run: Path, tmp_path: Path, capsys) -> None:
    state = torch.load(tiny_run / "model_best.pth")
    torch.save(state, tmp_path / "lone.pth")
    words = ["--config-file", str(tiny_run / "config.yaml"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    with restored_loggers():
        assert main(["eval", "--weights", str(tmp_path / "lone.pth"), *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("toy_scenes_val mIoU ")
    assert (tmp_path / "out/inference/toy_scenes_val/metrics.json").exists()


def test_results_of_models_of_others_go_into_the_working_directory(hub: Hub, tiny_run: Path, tmp_path: Path) -> None:
    semask_d2.from_pretrained(tiny_run).push_to_hub("me/toy")
    semask_d2.from_pretrained(tiny_run).save_pretrained(tmp_path / "shared")
    assert find_source("me/toy").results == find_source("hf://me/toy@v1").results == "output/me/toy"
    assert find_source(str(tmp_path / "shared")).results == str(tmp_path / "shared")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/config.json").write_text("{}")
    assert find_source("folder").results == "output/folder"
    assert evaluation_config(parse_arguments("eval", ["--weights", "me/toy"])).OUTPUT_DIR == "output/me/toy"


@pytest.mark.slow
def test_a_model_of_the_hub_is_evaluated_and_reported(
    hub: Hub, toy_data: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    semask_d2.from_pretrained(tiny_run).push_to_hub("me/toy")
    with restored_loggers():
        assert main(["eval", "--weights", "me/toy", "--device", "cpu", "DATALOADER.NUM_WORKERS", "0"]) == 0
        assert main(["report", "--weights", "me/toy", "--images", "1", "--device", "cpu"]) == 0
    assert Path("output/me/toy/log.txt").is_file()
    assert "data:image/" in Path("output/me/toy/report.html").read_text()
    snapshot = Path(find_source("me/toy").weights).parent
    assert {path.name for path in snapshot.iterdir()} == {"config.yaml", "model.safetensors", "README.md"}
