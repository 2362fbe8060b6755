"""Native backend and Detectron2: equal results from the same seed, and with each other's run folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import ROOT, TINY, TOY_CONFIG
from tests.helpers.examples import NEEDS_DETECTRON2

pytestmark = [NEEDS_DETECTRON2, pytest.mark.slow]

BACKENDS = ("native", "detectron2")
# prints a run's initial weights, first batch and first losses
FIRST_STEP = """
import hashlib, json, sys
from semask_d2 import get_cfg
from semask_d2.d2 import BACKEND, default_argument_parser
from semask_d2.engine import Trainer
from semask_d2.engine.setup import setup

def digest(tensors):
    return hashlib.sha256(b"".join(x.contiguous().numpy().tobytes() for x in tensors)).hexdigest()

args = default_argument_parser().parse_args(sys.argv[1:])
cfg = get_cfg(args.config_file, args.opts)
setup(cfg, training=True, resume=False)
trainer = Trainer(cfg)
state = trainer.model.state_dict()
weights = digest(state.values())
batch = next(iter(trainer.build_train_loader(cfg)))
trainer.train()
with open(cfg.OUTPUT_DIR + "/metrics.json") as file:
    metrics = json.loads(file.readline())
facts = {
    "backend": BACKEND,
    "names": list(state),
    "weights": weights,
    "batch": digest(x[key] for x in batch for key in ("image", "sem_seg")),
    "files": [x["file_name"] for x in batch],
    "losses": {name: value for name, value in metrics.items() if "loss" in name},
}
print(json.dumps(facts))
"""


def test_the_same_seed_gives_the_same_weights_batch_and_losses(run, tmp_path: Path) -> None:
    script = tmp_path / "first_step.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{FIRST_STEP}")
    facts = {}
    for backend in BACKENDS:
        options = (*TINY, "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()", "OUTPUT_DIR", tmp_path / backend)
        code, out, err = run(script, "--config-file", TOY_CONFIG, *options, env={"SEMASK_D2_BACKEND": backend})
        assert code == 0, err
        facts[backend] = json.loads(out.splitlines()[-1])
        assert facts[backend].pop("backend") == backend
    losses = [facts[backend].pop("losses") for backend in BACKENDS]
    assert facts["native"] == facts["detectron2"]
    assert {"loss_ce", "loss_mask", "loss_dice", "loss_cate", "total_loss"} <= losses[0].keys()
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


ITERATIONS = 4


@pytest.fixture(scope="module")
def runs(train, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Train a short run with two checkpoints on each backend; return its folder and the line with its mIoU."""
    runs = {}
    for backend in BACKENDS:
        folder = tmp_path_factory.mktemp(backend)
        options = ("SOLVER.MAX_ITER", ITERATIONS, "SOLVER.CHECKPOINT_PERIOD", "2", "OUTPUT_DIR", folder)
        code, out, err = train(*options, env={"SEMASK_D2_BACKEND": backend})
        assert code == 0, err
        assert f"semask_d2 on the {backend} backend" in (folder / "log.txt").read_text()
        runs[backend] = folder, out.splitlines()[-1]
    return runs


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "model_final.pth", weights_only=True)


def assert_equal(one: object, other: object, where: str = "checkpoint") -> None:
    """Assert that two checkpoints are equal."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key, value in one.items():
            assert_equal(value, other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (x, y) in enumerate(zip(one, other, strict=True)):
            assert_equal(x, y, f"{where}/{i}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def test_a_short_run_ends_equally_on_both_backends(runs: dict[str, tuple[Path, str]]) -> None:
    native, detectron2 = (runs[backend] for backend in BACKENDS)
    assert native[1] == detectron2[1]
    final = checkpoint(native[0])
    assert final["iteration"] == ITERATIONS - 1
    assert_equal(final, checkpoint(detectron2[0]))
    early = torch.load(native[0] / "model_0000001.pth", weights_only=True)["model"]
    trained = [name for name, x in final["model"].items() if not torch.equal(x, early[name])]
    assert len(trained) > len(early) / 2  # two iterations later


@pytest.mark.parametrize(("made_on", "read_on"), [BACKENDS, BACKENDS[::-1]])
def test_a_run_resumes_on_the_other_backend(
    train, runs: dict[str, tuple[Path, str]], tmp_path: Path, made_on: str, read_on: str
) -> None:
    folder, line = runs[made_on]
    for name in ("model_0000001.pth", "config.yaml"):
        shutil.copy(folder / name, tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    options = ("SOLVER.MAX_ITER", ITERATIONS, "SOLVER.CHECKPOINT_PERIOD", "2", "OUTPUT_DIR", tmp_path)
    code, out, err = train(*options, flags=("--resume",), env={"SEMASK_D2_BACKEND": read_on})
    assert code == 0, err
    log = (tmp_path / "log.txt").read_text()
    assert f"semask_d2 on the {read_on} backend" in log
    assert "Starting training from iteration 2" in log
    assert out.splitlines()[-1] == line
    assert_equal(checkpoint(tmp_path), checkpoint(folder))


@pytest.mark.parametrize(("made_on", "read_on"), [BACKENDS, BACKENDS[::-1]])
def test_a_run_folder_evaluates_equally_on_the_other_backend(
    run, runs: dict[str, tuple[Path, str]], tmp_path: Path, made_on: str, read_on: str
) -> None:
    folder, line = runs[made_on]
    assert line.startswith("toy_scenes_val mIoU ")
    weights = ("MODEL.WEIGHTS", folder / "model_final.pth", "OUTPUT_DIR", tmp_path)
    arguments = ("train_net.py", "--config-file", folder / "config.yaml", "--eval-only", *weights)
    code, out, err = run(*arguments, env={"SEMASK_D2_BACKEND": read_on})
    assert code == 0, err
    assert out.splitlines()[-1] == line
    assert f"semask_d2 on the {read_on} backend" in (tmp_path / "log.txt").read_text()
