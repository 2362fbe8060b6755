"""Locks of output folders: their owner, and when a lock is stale."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from semask_d2.utils import locking
from semask_d2.utils.errors import UserError
from semask_d2.utils.locking import LOCK_NAME, STALE_SECONDS, release, take, this_process

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _given_back(tmp_path: Path):
    yield
    release(tmp_path)


def lock(folder: Path, *, silent: float = 0, **changes: object) -> Path:
    """Write the lock of another process, untouched for `silent` seconds; the default content is this process's."""
    path = folder / LOCK_NAME
    path.write_text(json.dumps(asdict(replace(this_process(), **changes))))
    os.utime(path, 2 * (time.time() - silent,))
    return path


@pytest.fixture
def holder(tmp_path: Path):
    """A process that holds the lock on the folder."""
    ready = FORK.Event()

    def hold() -> None:
        take(tmp_path)
        ready.set()
        time.sleep(600)

    process = FORK.Process(target=hold)
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_folder_is_held_until_it_is_given_back(tmp_path: Path) -> None:
    assert take(tmp_path) == ""
    assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()
    assert take(tmp_path) == ""  # this process already holds it
    release(tmp_path)
    assert os.listdir(tmp_path) == []
    release(tmp_path)


def test_a_second_process_is_refused_with_host_number_and_time(tmp_path: Path, holder: multiprocessing.Process) -> None:
    owner = json.loads((tmp_path / LOCK_NAME).read_text())
    os.utime(tmp_path / LOCK_NAME, (0, 0))  # on the same machine the process counts, not the time
    with pytest.raises(UserError) as caught:
        take(tmp_path)
    assert f"(process {holder.pid} on {owner['host']}, since {owner['time']})" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert json.loads((tmp_path / LOCK_NAME).read_text()) == owner


@pytest.mark.parametrize("reaped", [False, True])  # a zombie also counts as ended
def test_the_lock_of_a_killed_process_is_taken_over(
    tmp_path: Path, holder: multiprocessing.Process, reaped: bool
) -> None:
    holder.kill()
    if reaped:
        holder.join()
    else:
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    assert f"its training run has ended (process {holder.pid} on " in take(tmp_path)
    assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="when a process started is read from Linux's /proc")
def test_another_program_under_the_same_number_does_not_count(tmp_path: Path) -> None:
    lock(tmp_path, pid=os.getppid(), start="of another time")
    assert "taken over" in take(tmp_path)
    release(tmp_path)
    lock(tmp_path, pid=os.getppid(), start=locking.start_of(os.getppid()))
    with pytest.raises(UserError, match="a training run is active there"):
        take(tmp_path)


def test_another_machine_counts_until_it_is_silent(tmp_path: Path) -> None:
    path = lock(tmp_path, host="far", machine="far 1", pid=7)
    with pytest.raises(UserError, match=rf"process 7 on far, .* last seen \d+ s ago\); .* delete {path} or wait"):
        take(tmp_path)
    lock(tmp_path, host="far", machine="far 1", pid=7, silent=STALE_SECONDS + 10)
    assert "(process 7 on far, since" in take(tmp_path)


def test_containers_with_one_host_name_are_distinguished(tmp_path: Path) -> None:
    lock(tmp_path, machine=f"{this_process().host} pid:[1]", pid=2**22 + 1)  # an id that no process here has
    with pytest.raises(UserError, match="a training run is active there"):
        take(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "\0\xff", '{"host": 3}', "[" * 5000, '{"pid": -1, "host": "a"}'])
def test_a_damaged_lock_counts_until_it_is_silent(tmp_path: Path, content: str) -> None:
    path = tmp_path / LOCK_NAME
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"active there \(an unknown process"):
        take(tmp_path)
    os.utime(path, (0, 0))
    assert "taken over" in take(tmp_path)


def test_a_lock_that_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    (tmp_path / LOCK_NAME).symlink_to("precious")
    with pytest.raises(UserError, match=f"{LOCK_NAME}: cannot be opened"):
        take(tmp_path)
    (tmp_path / LOCK_NAME).unlink()
    os.mkfifo(tmp_path / LOCK_NAME)
    with pytest.raises(UserError, match="not a regular file"):
        take(tmp_path)
    assert (tmp_path / "precious").read_text() == "x"


def test_a_lock_that_was_taken_over_is_not_given_back(tmp_path: Path) -> None:
    take(tmp_path)
    path = lock(tmp_path, pid=1)
    release(tmp_path)
    assert path.exists()


def test_a_training_shows_that_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "REFRESH_SECONDS", 0.01)
    take(tmp_path)
    path = tmp_path / LOCK_NAME
    os.utime(path, (0, 0))
    for _ in range(1000):
        if path.stat().st_mtime > 0:
            break
        time.sleep(0.01)
    assert path.stat().st_mtime > 0


def test_of_many_at_once_one_takes_a_stale_lock(tmp_path: Path) -> None:
    lock(tmp_path, host="far", machine="far 1", silent=STALE_SECONDS + 10)
    answers, end = FORK.Queue(), FORK.Event()

    def hold() -> None:
        try:
            answers.put(take(tmp_path) != "")
        except UserError:
            answers.put(False)
        end.wait()
        release(tmp_path)

    processes = [FORK.Process(target=hold) for _ in range(6)]
    for process in processes:
        process.start()
    assert sorted(answers.get(timeout=60) for _ in processes) == [False] * 5 + [True]
    end.set()
    for process in processes:
        process.join()
    assert not (tmp_path / LOCK_NAME).exists()
