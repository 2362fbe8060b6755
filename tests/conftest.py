"""What all tests share: a small toy data set, and the command lines of the project run as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in parallel, and threads would fight for the cores

import pytest
import torch

from semask_d2.data.datasets import toy_scenes

ROOT = Path(__file__).resolve().parents[1]
TOY_CONFIG = ROOT / "configs/toy_scenes/semask_swin_mini_msfapn_m2f.yaml"
# a model so small that an iteration takes some tens of milliseconds
TINY = (
    *("MODEL.DEVICE", "cpu", "MODEL.SWIN.DEPTHS", "[1,1,1,1]", "MODEL.SWIN.WINDOW_SIZE", "4"),
    *("MODEL.SWIN.SEM_WINDOW_SIZE", "4", "MODEL.SWIN.EMBED_DIM", "16", "MODEL.SWIN.NUM_HEADS", "[1,1,2,2]"),
    *("MODEL.SWIN.DROP_PATH_RATE", "0.1", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.MASK_DIM", "32"),
    *("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "1", "MODEL.MASK_FORMER.HIDDEN_DIM", "32"),
    *("MODEL.MASK_FORMER.DIM_FEEDFORWARD", "64", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "14"),
    *("MODEL.MASK_FORMER.DEC_LAYERS", "3", "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", "128"),
    *("INPUT.MIN_SIZE_TRAIN", "[64]", "INPUT.MIN_SIZE_TEST", "64", "INPUT.CROP.SIZE", "[64,64]"),
    *("INPUT.SIZE_DIVISIBILITY", "64", "SOLVER.IMS_PER_BATCH", "4", "DATALOADER.NUM_WORKERS", "0"),
)


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a small toy_scenes."""
    root = tmp_path_factory.mktemp("datasets")
    toy_scenes.generate(root / "toy_scenes", {"training": 12, "validation": 5})
    return root


@pytest.fixture
def toy_data(toy_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small toy_scenes as this test's data root."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(toy_root))
    return toy_root


@pytest.fixture(scope="session")
def command(toy_root: Path):
    """A function that starts one of the project's scripts in a process of its own, one thread, on the small data."""

    def start(
        *arguments: object, env: dict[str, str] | None = None, launcher: tuple[str, ...] = ()
    ) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *launcher, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "DETECTRON2_DATASETS": str(toy_root), **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope="session")
def run(command):
    """As `command`, but waits: returns (exit code, standard output, standard error)."""

    def wait(*arguments: object, **kwargs: object) -> tuple[int, str, str]:
        process = command(*arguments, **kwargs)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    return wait


@pytest.fixture(scope="session")
def train(run):
    """Run `train_net.py` with the tiny model on the small toy data: (exit code, standard output, standard error)."""

    def start(*arguments: object, flags: tuple[str, ...] = (), **kwargs: object) -> tuple[int, str, str]:
        return run("train_net.py", "--config-file", TOY_CONFIG, *flags, *TINY, *arguments, **kwargs)

    return start


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
