"""Runs that are stopped, killed, or resumed with other settings: no result is lost and no process is left."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import ROOT, TINY, TOY_CONFIG

pytestmark = pytest.mark.slow
LONG = ("SOLVER.MAX_ITER", "2000", "SOLVER.CHECKPOINT_PERIOD", "2000", "DATASETS.TEST", "()")


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def wait_for(condition, process: subprocess.Popen) -> None:
    """Wait until `condition()` holds while the process runs."""
    for _ in range(6000):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    pytest.fail("timed out")


def is_training(folder: Path) -> bool:
    """Return whether a run is past its first twenty iterations."""
    return (folder / "metrics.json").exists() and (folder / "metrics.json").stat().st_size > 0


def child_processes(pid: int) -> list[int]:
    """Return the child processes of a process, on Linux."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def training_processes(process: subprocess.Popen) -> list[int]:
    """Return the training processes of a launcher."""
    return [pid for pid in child_processes(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.fixture
def start(command):
    return lambda folder, *options, flags=(): command(
        "train_net.py", "--config-file", TOY_CONFIG, *flags, *TINY, *options, "OUTPUT_DIR", folder
    )


@pytest.fixture
def train(train_in_process):
    """Return a function that trains in this process: these runs are neither killed nor stopped."""
    return train_in_process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_stops_after_a_checkpoint_from_which_the_run_resumes(start, train, tmp_path: Path, number) -> None:
    process = start(tmp_path, *LONG)
    wait_for(lambda: is_training(tmp_path), process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err
    line = rf"^stopped by {number.name} after iteration (\d+) of 2000; (model_\d+\.pth) is written"
    stopped = re.search(line, err, re.M)
    assert stopped, err
    done = int(stopped[1])
    assert torch.load(tmp_path / stopped[2], weights_only=True)["iteration"] == done - 1
    code, out, err = train(*LONG, "SOLVER.MAX_ITER", str(done + 1), "OUTPUT_DIR", tmp_path, flags=("--resume",))
    assert code == 0, err
    assert f"Starting training from iteration {done}" in out


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no process groups")
def test_a_signal_to_the_whole_job_reaches_no_data_loading_process(toy_root: Path, tmp_path: Path) -> None:
    """Send the signal to the process group, as `timeout` and job schedulers do."""
    words = ("train_net.py", "--config-file", TOY_CONFIG, *TINY, *LONG, "DATALOADER.NUM_WORKERS", "2")
    process = subprocess.Popen(
        [sys.executable, *map(str, words), "OUTPUT_DIR", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "DETECTRON2_DATASETS": str(toy_root)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: is_training(tmp_path), process)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "stopped by SIGTERM" in err
    assert "error" not in err


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="child processes are found in Linux's /proc")
def test_ctrl_c_at_the_launcher_alone_stops_all_ranks(start, tmp_path: Path) -> None:
    process = start(tmp_path, *LONG, flags=("--num-gpus", "2", "--dist-url", "auto"))
    wait_for(lambda: is_training(tmp_path), process)
    ranks = training_processes(process)
    assert len(ranks) == 2
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert err.count("stopped by") == 1
    assert (tmp_path / "last_checkpoint").exists()
    assert not any(map(alive, ranks))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="child processes are found in Linux's /proc")
def test_a_killed_rank_is_named_with_its_signal(start, tmp_path: Path) -> None:
    process = start(tmp_path, *LONG, flags=("--num-gpus", "2", "--dist-url", "auto"))
    wait_for(lambda: is_training(tmp_path), process)
    ranks = training_processes(process)
    subprocess.run(["kill", "-9", str(ranks[-1])], check=True)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(r"error: process \d of this machine was ended by SIGKILL, usually .* memory", err), err


def test_a_missed_evaluation_is_run_on_resume(train, tmp_path: Path) -> None:
    options = ("SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "2")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(*options, "OUTPUT_DIR", whole)[0] == 0
    killed.mkdir()  # as if killed after the checkpoint and before the end of the evaluation
    shutil.copy(whole / "model_0000001.pth", killed)
    (killed / "last_checkpoint").write_text("model_0000001.pth")
    code, _, err = train(*options, "OUTPUT_DIR", killed, flags=("--resume",))
    assert code == 0, err

    def results(folder: Path) -> dict[int, float]:
        return {r["iteration"]: r["sem_seg/mIoU"] for r in records(folder) if "sem_seg/mIoU" in r}

    assert results(killed) == results(whole)
    best = [torch.load(folder / "model_best.pth", weights_only=True)["best"] for folder in (whole, killed)]
    assert best[0] == best[1]
    # nothing is evaluated twice
    code, out, err = train(*options, "SOLVER.MAX_ITER", "6", "OUTPUT_DIR", whole, flags=("--resume",))
    assert code == 0, err
    assert "has no result" not in out


def test_a_second_training_in_a_folder_is_refused_until_the_first_has_ended(start, train, tmp_path: Path) -> None:
    process = start(tmp_path, *LONG)
    wait_for(lambda: is_training(tmp_path), process)
    for flags in ((), ("--resume",)):
        code, out, err = train(*LONG, "OUTPUT_DIR", tmp_path, flags=flags)
        assert code == 1, out
        (line,) = err.splitlines()
        assert re.search(
            rf"^error: OUTPUT_DIR .*a training run is active there \(process {process.pid} on .*, since 20", line
        )
    process.kill()
    process.communicate()
    code, out, err = train(*LONG, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", tmp_path)
    assert code == 0, err
    assert re.search(rf"its training run has ended \(process {process.pid} on .*\); taken over", out)
    assert not (tmp_path / "training.lock").exists()


def test_resuming_a_finished_run_repeats_only_the_evaluation(train, tmp_path: Path) -> None:
    options = ("SOLVER.MAX_ITER", "2", "OUTPUT_DIR", tmp_path)
    assert train(*options)[0] == 0
    before = weights(tmp_path / "model_final.pth")
    code, out, err = train(*options, flags=("--resume",))
    assert code == 0, err
    assert "The run has finished all 2 iterations" in out
    assert out.splitlines()[-1].startswith("toy_scenes_val mIoU")
    assert all(torch.equal(before[name], value) for name, value in weights(tmp_path / "model_final.pth").items())


def test_a_resumed_run_uses_the_current_config(train, tmp_path: Path) -> None:
    options = ("SOLVER.CHECKPOINT_PERIOD", "2", "DATASETS.TEST", "()", "OUTPUT_DIR", tmp_path)
    assert train(*options, "SOLVER.MAX_ITER", "2", "SOLVER.BASE_LR", "0.001")[0] == 0
    code, _, err = train(*options, "SOLVER.MAX_ITER", "4", "SOLVER.BASE_LR", "0.0", flags=("--resume",))
    assert code == 0, err
    assert records(tmp_path)[-1]["lr"] == 0.0
    a, b = weights(tmp_path / "model_0000001.pth"), weights(tmp_path / "model_final.pth")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_resume_with_another_optimizer_is_refused_in_one_line(train, tmp_path: Path) -> None:
    options = ("DATASETS.TEST", "()", "OUTPUT_DIR", tmp_path)
    assert train(*options, "SOLVER.MAX_ITER", "1", "SOLVER.OPTIMIZER", "SGD")[0] == 0
    code, _, err = train(*options, "SOLVER.MAX_ITER", "2", flags=("--resume",))
    assert code == 1
    (line,) = [line for line in err.splitlines() if "error" in line]
    assert "optimizer state does not fit" in line


def test_a_repeatedly_killed_run_ends_with_the_same_weights(start, train, tmp_path: Path) -> None:
    options = ("SOLVER.MAX_ITER", "9", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "2")
    assert train(*options, "OUTPUT_DIR", tmp_path / "whole")[0] == 0
    killed, rng = tmp_path / "killed", random.Random(0)
    for kill in range(4):
        process = start(killed, *options, flags=("--resume",) if kill else ())
        before = sorted(killed.glob("model_*.pth"))
        wait_for(lambda before=before: sorted(killed.glob("model_*.pth")) != before, process)
        time.sleep(rng.random() / 5)  # anywhere in a step, a checkpoint or an evaluation
        process.kill()
        process.communicate()
    code, _, err = train(*options, "OUTPUT_DIR", killed, flags=("--resume",))
    assert code == 0, err
    whole, resumed = (weights(folder / "model_final.pth") for folder in (tmp_path / "whole", killed))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    best = [torch.load(folder / "model_best.pth", weights_only=True)["best"] for folder in (tmp_path / "whole", killed)]
    assert best[0] == best[1]
