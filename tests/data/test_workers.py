"""Data-loading processes: they end with their parent, and an error in shared memory travels."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch

from semask_d2.data import workers
from semask_d2.data.loader import Batches
from semask_d2.engine.failures import explain
from semask_d2.utils.errors import UserError


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_worker_whose_parent_has_ended_ends_too() -> None:
    code = "import os; from semask_d2.data.workers import start_worker"
    code += "; start_worker(0, parent=os.getppid() + {}); print('on')"
    orphan = subprocess.run([sys.executable, "-c", code.format(1)], capture_output=True, text=True, check=False)
    assert (orphan.returncode, orphan.stdout) == (1, "")
    kept = subprocess.run([sys.executable, "-c", code.format(0)], capture_output=True, text=True, check=False)
    assert (kept.returncode, kept.stdout) == (0, "on\n")


@pytest.mark.slow
def test_workers_leave_ctrl_c_to_the_trainer() -> None:
    code = "import os, signal; from semask_d2.data.workers import start_worker; start_worker(0, parent=os.getppid())"
    code += "; os.kill(os.getpid(), signal.SIGINT); print('on')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "on\n")


def test_batches_travel_in_shared_memory() -> None:
    (sample,) = workers.in_shared_memory([{"image": torch.zeros(3, 4, 4), "file_name": "a"}])
    assert sample["image"].is_shared()


def test_an_error_in_shared_memory_reaches_the_training_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    batch = workers.in_shared_memory([{"image": torch.zeros(3, 4, 4)}])
    with pytest.raises(UserError, match="no shared memory for a batch of 1 images") as caught:
        next(iter(Batches([batch])))
    assert "/dev/shm" in explain(caught.value)
    assert "--shm-size" in explain(caught.value)
    assert "--shm-size" in explain(RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."))


def test_one_process_needs_no_shared_memory() -> None:
    settings = {"num_workers": 0, "collate_fn": workers.as_list, "worker_init_fn": None, "pin_memory": False}
    assert workers.worker_settings(0, "cpu") == settings


def test_batches_for_a_gpu_are_in_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert [workers.worker_settings(2, device)["pin_memory"] for device in ("cuda:1", "cpu")] == [there, False]
    assert signal.getsignal(signal.SIGINT) is before
