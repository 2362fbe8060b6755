"""Fixtures for all tests: a small toy dataset, and the project's command lines run as a user would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in parallel, so more threads would compete for the cores

import pytest
import torch
from huggingface_hub import constants

from semask_d2.data.datasets import toy_scenes
from semask_d2.data.forks import usable_cores
from tests.helpers.commands import ROOT, TINY, TOY_CONFIG, load_script, write_tiny_run
from tests.helpers.forked_commands import ForkedCommand
from tests.helpers.hub_server import Hub, serve_hub
from tests.helpers.loggers import reset_loggers, restored_loggers


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return one process more than there are cores, because some tests wait."""
    return usable_cores() + 1


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate a small toy_scenes and return its dataset root."""
    root = tmp_path_factory.mktemp("datasets")
    toy_scenes.generate(root / "toy_scenes", {"training": 12, "validation": 5})
    return root


@pytest.fixture
def toy_data(toy_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the dataset root of this test to the small toy_scenes."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(toy_root))
    return toy_root


@pytest.fixture(scope="session")
def command(toy_root: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return a function that starts a script of the project in a separate process on the small dataset.

    It is a fork of a process that has imported the package, which saves seconds, unless a `launcher` starts it or `env`
    is given: what the package reads when it is imported may depend on that.
    """

    def start(
        *arguments: object, env: dict[str, str] | None = None, launcher: tuple[str, ...] = ()
    ) -> subprocess.Popen | ForkedCommand:
        words = [str(word) for word in arguments]
        environment = {**os.environ, "DETECTRON2_DATASETS": str(toy_root), **(env or {})}
        if not env and not launcher and ForkedCommand.is_possible():
            return ForkedCommand(words, environment, tmp_path_factory.mktemp("command"))
        return subprocess.Popen(
            [sys.executable, *launcher, *words],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope="session")
def run(command):
    """Return a function like `command` that waits and returns (exit code, standard output, standard error)."""

    def wait(*arguments: object, **kwargs: object) -> tuple[int, str, str]:
        process = command(*arguments, **kwargs)
        out, err = process.communicate(timeout=600)
        return process.returncode, out, err

    return wait


@pytest.fixture(scope="session")
def train(run):
    """Return a function that runs `train_net.py` with the tiny model on the small dataset; results as of `run`."""

    def start(*arguments: object, flags: tuple[str, ...] = (), **kwargs: object) -> tuple[int, str, str]:
        return run("train_net.py", "--config-file", TOY_CONFIG, *flags, *TINY, *arguments, **kwargs)

    return start


@pytest.fixture
def in_process(toy_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Return a function like `run` that calls the script's command line in this process.

    This is faster, and a test can patch what the script uses.
    """

    def call(script: str, *arguments: object, env: dict[str, str] | None = None) -> tuple[int, str, str]:
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        module = load_script(script)
        capsys.readouterr()
        with restored_loggers():
            code = module.command_line([str(word) for word in arguments])
        return code, *capsys.readouterr()

    monkeypatch.setattr(sys, "path", list(sys.path))  # the demo puts the project's folder there
    return call


@pytest.fixture
def train_in_process(in_process):
    """Return a function like `train` that runs in this process, which saves seconds."""

    def start(*arguments: object, flags: tuple[str, ...] = (), **kwargs: object) -> tuple[int, str, str]:
        return in_process("train_net.py", "--config-file", TOY_CONFIG, *flags, *TINY, *arguments, **kwargs)

    return start


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder with the tiny model as `model_best.pth`; its random weights are the same in every session."""
    return write_tiny_run(tmp_path_factory.mktemp("runs") / "run", TOY_CONFIG)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve an empty Hugging Face hub on loopback, which `huggingface_hub` uses with a new cache, in a new folder."""
    with serve_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_token")
        monkeypatch.chdir(tmp_path)
        yield hub


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    reset_loggers()
    with restored_loggers():
        yield
