"""Trainings of frozen and adapted backbones: resuming, averaging, mixed precision, processes, export and commands."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml

from semask_d2 import Predictor, Trainer, build_model, from_pretrained, get_cfg
from semask_d2.__main__ import main
from semask_d2.checkpoint import read_checkpoint, save_weights
from semask_d2.checkpoint.backbone_training import RECORD
from semask_d2.modeling.backbones.lora import adapted_layers, is_adapter
from tests.helpers.commands import TINY, TOY_CONFIG, load_script
from tests.helpers.refusals import refusal

MODES = ("frozen", "lora")
SHORT = ("SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.IMS_PER_BATCH", "2", "TEST.EVAL_PERIOD", "0", "DATASETS.TEST", "()")


def words(mode: str, weights: object, *options: object) -> tuple[str, ...]:
    """Return settings for a training of this mode from these weights."""
    settings = ("MODEL.BACKBONE.TRAIN", mode, "MODEL.WEIGHTS", weights, *options)
    return (*SHORT, *map(str, settings))


def model_state(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path)["model"]


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "precision"), [("frozen", "fp32"), ("lora", "bf16")])
def test_a_run_resumes_with_its_average(train_in_process, tiny_run: Path, tmp_path: Path, mode: str, precision) -> None:
    """Checkpoints without frozen layers too; these keep the values of MODEL.WEIGHTS."""
    extra = ("SOLVER.EMA.ENABLED", True, "MODEL.BACKBONE.SAVE_TRAINED_ONLY", True, "MODEL.PRECISION", precision)
    options = words(mode, tiny_run / "model_best.pth", *extra)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    runs = [("4", whole, ()), ("2", parts, ()), ("4", parts, ("--resume",))]
    for iterations, folder, flags in runs:
        settings = (*options, "SOLVER.MAX_ITER", iterations, "SOLVER.WARMUP_ITERS", "0", "OUTPUT_DIR", folder)
        settings += ("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.STEPS", "()")  # the same for any length
        code, _, err = train_in_process(*settings, flags=flags)
        assert code == 0, err
    once, resumed = (torch.load(x / "model_final.pth", weights_only=True) for x in (whole, parts))
    assert not differing(once["model"], resumed["model"])
    averages = [x["trainer"]["hooks"]["WeightAverage"] for x in (once, resumed)]
    assert not differing(*averages)
    assert any(map(is_adapter, once["model"])) == (mode == "lora")
    assert not [name for name in once["model"] if ".attn.qkv.weight" in name]
    assert not [name for name in averages[0] if ".attn.qkv.weight" in name]
    trained, start = from_pretrained(whole).state_dict(), model_state(tiny_run / "model_best.pth")
    body = {name for name in start if ".blocks." in name or "downsample" in name or "patch_embed" in name}
    assert len(body) > 20
    assert all(torch.equal(trained[name], start[name]) for name in body)


@pytest.mark.slow
def test_two_processes_train_as_one(train, train_in_process, tiny_run: Path, tmp_path: Path) -> None:
    """Every trained parameter gets a gradient, and those of all processes are averaged."""
    options = words("lora", tiny_run / "model_best.pth", "SOLVER.MAX_ITER", 2, "MODEL.SWIN.DROP_PATH_RATE", 0.0)
    one, two = tmp_path / "one", tmp_path / "two"
    code, _, err = train(*options, "OUTPUT_DIR", two, flags=("--num-gpus", "2", "--dist-url", "auto"))
    assert code == 0, err
    assert train_in_process(*options, "OUTPUT_DIR", one)[0] == 0
    start = model_state(tiny_run / "model_best.pth")
    states = [model_state(folder / "model_final.pth") for folder in (one, two)]
    changed = [{x for x in state if x not in start or not torch.equal(state[x], start[x])} for state in states]
    assert changed[0] == changed[1]
    assert not [name for name in changed[1] if ".blocks." in name and not is_adapter(name)]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_run_is_reported_exported_and_merged(
    train_in_process, tiny_run: Path, tmp_path: Path, mode: str, capsys: pytest.CaptureFixture
) -> None:
    run, folder = tmp_path / "run", tmp_path / "merged"
    options = words(mode, tiny_run / "model_best.pth", "SOLVER.MAX_ITER", 2, "SOLVER.BASE_LR", 0.05, "OUTPUT_DIR", run)
    code, _, err = train_in_process(*options, "DATASETS.TEST", "('toy_scenes_val',)")
    assert code == 0, err
    assert (run / "report.html").is_file()
    assert main(["eval", "--weights", str(run), "DATALOADER.NUM_WORKERS", "0"]) == 0
    file = ["--format", "torch_export", "--size", "64", "64", "--output", str(tmp_path / "model.pt2")]
    assert main(["export", "--weights", str(run), *file]) == 0, capsys.readouterr().err
    assert main(["export", "--weights", str(run), "--format", "folder", "--output", str(folder)]) == 0
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    plain, trained = from_pretrained(folder), from_pretrained(run)
    assert bool(adapted_layers(trained)) == (mode == "lora")
    assert not adapted_layers(plain)
    for value, expected in zip(plain.logits(images), trained.logits(images), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    settings = yaml.safe_load((folder / "config.yaml").read_text())["MODEL"]["BACKBONE"]
    needed = "frozen" if mode == "frozen" else "full"
    assert settings.get("TRAIN", "full") == read_checkpoint(folder)[RECORD]["mode"] == needed
    assert "LORA" not in settings
    assert Predictor(folder)(torch.zeros(3, 64, 64, dtype=torch.uint8)).labels.shape == (64, 64)


@pytest.mark.parametrize("options", [("--size", "64", "64"), ("--batch", "any"), ("--outputs", "scores")])
def test_options_of_graphs_are_refused_for_folders(options, tiny_run: Path, tmp_path: Path, capsys) -> None:
    command = ["export", "--weights", str(tiny_run), "--format", "folder", "--output", str(tmp_path / "x"), *options]
    assert main(command) == 1
    assert "--format folder: leave the options of files out" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_weights_with_adapters_are_not_written_for_other_programs(tmp_path: Path) -> None:
    cfg = get_cfg(TOY_CONFIG, [*TINY, "MODEL.BACKBONE.TRAIN", "lora"])
    save_weights(build_model(cfg), tmp_path / "adapted.safetensors")
    script = load_script("tools/export_weights.py")
    arguments = Namespace(weights=str(tmp_path / "adapted.safetensors"), output=str(tmp_path / "x.safetensors"))
    line = refusal(lambda: script.export_safetensors(arguments))
    assert line == (
        f"{arguments.weights}: its backbone is frozen or has adapters; first write a plain model with semask export "
        "--format folder"
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_backbone_that_would_stay_random_is_refused(train_in_process, tmp_path: Path, mode: str) -> None:
    """Before an earlier run is moved aside, and also if there is nothing to resume."""
    earlier = tmp_path / "run/metrics.json"
    earlier.parent.mkdir()
    earlier.write_text("")
    for folder, flags in (("run", ()), ("new", ("--resume",))):
        code, _, err = train_in_process(*words(mode, "", "OUTPUT_DIR", tmp_path / folder), flags=flags)
        assert code == 1
        line = err.splitlines()[-1]  # importing Detectron2 may warn above it
        assert line.startswith(f"error: MODEL.BACKBONE.TRAIN: {mode} needs a pretrained backbone, but MODEL.WEIGHTS is")
        assert "Traceback" not in err
    assert earlier.is_file()


@pytest.mark.parametrize(
    ("mode", "weights", "message"),
    [
        ("full", "x.pth", "expected False with MODEL.BACKBONE.TRAIN full"),
        ("lora", "", "expected False without MODEL.WEIGHTS"),
        ("frozen", "https://example.org/x.pth", "got https://example.org/x.pth; download it"),
    ],
)
def test_checkpoints_must_be_able_to_name_frozen_layers(mode: str, weights: str, message: str, tmp_path: Path) -> None:
    options = words(mode, weights, "MODEL.BACKBONE.SAVE_TRAINED_ONLY", True, "OUTPUT_DIR", tmp_path)
    cfg = get_cfg(TOY_CONFIG, [*TINY, *options])
    line = refusal(lambda: Trainer(cfg))
    assert line is not None
    assert line.startswith("MODEL.BACKBONE.SAVE_TRAINED_ONLY: ")
    assert message in line
