"""Data-loading processes end with their parent, and report errors of shared memory."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from semask_d2 import get_cfg
from semask_d2.d2 import Boxes, Instances
from semask_d2.data import get_dataset_dicts, workers
from semask_d2.data.loader import Batches
from semask_d2.data.mappers import build_mapper
from semask_d2.data.parallel import Mapped
from semask_d2.engine.failures import explain
from semask_d2.modeling.losses.targets import Segments
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TINY


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


def threads_of(number: int) -> int:
    """Return the number of torch's threads in this process."""
    return torch.get_num_threads()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_start_by_any_method(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot start processes by {method}")
    settings = workers.worker_settings(1, "cpu")
    loader = DataLoader(Mapped(threads_of, range(2)), batch_size=1, multiprocessing_context=method, **settings)
    assert list(loader) == [[1], [1]]


@dataclass
class Holder:
    """An object that a user's mapper returns."""

    tensors: dict[str, list[torch.Tensor]]
    array: np.ndarray


def test_batches_travel_in_shared_memory_however_deep_their_tensors_are() -> None:
    segments = Segments(torch.ones(2, 4, 4, dtype=torch.uint8), torch.tensor([1, 2]))
    instances = Instances((4, 4), gt_masks=torch.ones(2, 4, 4), gt_boxes=Boxes(torch.zeros(2, 4)))
    holder = Holder({"a": [torch.ones(3)]}, np.arange(3))
    sample = {"image": torch.zeros(3, 4, 4), "file_name": "a", "segments": segments, "instances": instances}
    sample["holder"] = holder
    (shared,) = workers.in_shared_memory([sample])
    assert shared is sample
    tensors = (sample["image"], *segments, instances.gt_masks, instances.gt_boxes.tensor, holder.tensors["a"][0])
    assert all(tensor.is_shared() for tensor in tensors)
    assert holder.array.tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["panoptic", "instance"])
def test_segments_that_a_mapper_makes_travel_so(toy_data: Path, kind: str) -> None:
    cfg = get_cfg(f"toy_scenes_{kind}/semask_swin_mini_msfapn_m2f.yaml", list(TINY))
    sample = build_mapper(cfg, is_train=True)(get_dataset_dicts(f"toy_scenes_{kind}_train")[0])
    (shared,) = workers.in_shared_memory([sample])
    assert all(tensor.is_shared() for tensor in (shared["image"], shared["sem_seg"], *shared["segments"]))


def test_what_cannot_travel_is_an_error_of_the_worker() -> None:
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        workers.in_shared_memory([{"image": torch.zeros(1), "function": lambda: 0}])


def test_an_error_in_shared_memory_reaches_the_training_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    nested = Segments(torch.zeros(4, 4), torch.zeros(1))
    batch = workers.in_shared_memory([{"segments": nested}])
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
