"""A process that is stopped forever: the others name it after the time limit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import torch.distributed as dist

from semask_d2.engine import roll_call
from semask_d2.engine.failures import explain
from tests.helpers.commands import ROOT

SCRIPT = """
import datetime, os, signal, sys
import torch
from semask_d2.d2 import comm, launch
from semask_d2.engine import roll_call
from semask_d2.engine.launch import guarded

def exchange(victim):
    for step in range(100):
        if step == 3 and comm.get_rank() == victim:
            print(os.getpid(), flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        torch.distributed.all_reduce(torch.ones(4))

def main(victim):
    roll_call.ANSWER_SECONDS = 3.0
    sys.exit(guarded(exchange, victim, debug=False))

if __name__ == "__main__":
    launch(main, 3, 1, 0, "auto", args=(int(sys.argv[1]),), timeout=datetime.timedelta(seconds=5))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system stops no processes")
@pytest.mark.parametrize("victim", [1, 0])  # rank 0 hosts the store to which the others write
def test_a_stopped_rank_is_named_by_one_line(tmp_path: Path, victim: int) -> None:
    script = tmp_path / "exchange.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, script, str(victim)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    stopped = int(process.stdout.readline())
    lines = []
    for line in process.stderr:
        if line.startswith("error: "):
            lines.append(line)
            with suppress(ProcessLookupError):
                os.kill(stopped, signal.SIGKILL)  # a launcher would do this after about a minute
    assert process.wait(60) != 0
    (line,) = lines
    assert re.search(rf"^error: process {victim} of this run did not answer within 5 s: stopped, hung", line)


def answers(size: int, present: set[int], monkeypatch: pytest.MonkeyPatch) -> dict[int, list[int]]:
    """Return the ranks that each of the `present` ranks reports missing."""
    monkeypatch.setattr(roll_call, "ANSWER_SECONDS", 0.3)
    store, missing = dist.HashStore(), {}
    threads = [
        threading.Thread(target=lambda rank=rank: missing.update({rank: roll_call.missing(store, rank, size)}))
        for rank in present
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return missing


def test_all_that_are_there_agree_on_who_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answers(4, {0, 3}, monkeypatch) == {0: [1, 2], 3: [1, 2]}
    assert answers(3, {1, 2}, monkeypatch) == {1: [0], 2: [0]}
    assert answers(2, {0, 1}, monkeypatch) == {0: [], 1: []}


def test_a_store_that_is_silent_is_rank_0s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roll_call, "ANSWER_SECONDS", 0.1)
    end = threading.Event()

    class Silent:
        def set(self, *_: str) -> None:
            end.wait(60)

    class Gone:
        def set(self, *_: str) -> None:
            raise RuntimeError("connection closed")

    assert roll_call.missing(Silent(), 1, 3) == [0]
    assert roll_call.missing(Gone(), 2, 3) == [0]
    end.set()


def test_only_an_exchange_that_ran_out_of_time_is_one() -> None:
    error = RuntimeError("[x/unbound_buffer.cc:78] Timed out waiting 1800000ms for recv operation to complete")
    assert roll_call.waited_in_vain(error) == 1800
    assert explain(error) == "another process of this run did not answer"
    for other in (RuntimeError("Timed out"), ValueError(str(error)), RuntimeError("size mismatch")):
        assert roll_call.waited_in_vain(other) is None
    assert "another process of this run did not answer within 1800 s" in roll_call.describe(error)  # without a group
