"""Naming the processes of a job that no longer answer after an exchange has timed out.

If a process is stopped, or its machine is gone, the others wait for the process group's time limit, 30 minutes by
default. Each of them then writes to the group's store, and one of them reports which ranks did not.
"""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress
from typing import Any

import torch.distributed as dist

ANSWER_SECONDS = 10.0
TIMED_OUT = re.compile(r"Timed out waiting (\d+)ms for \w+ operation")  # gloo's message
PRESENT, SAID = "semask_d2/present", "semask_d2/said"


def waited_in_vain(error: BaseException) -> float | None:
    """Return the seconds after which an exchange between processes timed out; None if `error` is not a timeout."""
    match = TIMED_OUT.search(str(error)) if isinstance(error, RuntimeError) else None
    return int(match[1]) / 1000 if match else None


def describe(error: BaseException) -> str:
    """Return, on one answering process, a line that names the processes that do not answer; "" on all others."""
    seconds = waited_in_vain(error) or 0
    absent: list[int] = []
    with suppress(RuntimeError, ValueError, AttributeError):  # there is no group, or its store is gone
        store, rank, size = dist.distributed_c10d._get_default_store(), dist.get_rank(), dist.get_world_size()
        absent = missing(store, rank, size)
        if rank != min(set(range(size)) - set(absent)):
            if 0 not in absent:  # a launcher ends all processes once the first has ended
                _within(ANSWER_SECONDS, lambda: store.wait([SAID]))
                time.sleep(ANSWER_SECONDS / 20)
            return ""
        if 0 not in absent:
            _within(1, lambda: store.set(SAID, "1"))
    who = f"process{'es' if len(absent) > 1 else ''} {', '.join(map(str, absent))}" if absent else "another process"
    return (
        f"{who} of this run did not answer within {seconds:.0f} s: stopped, hung, or its machine is gone; end its "
        "remaining processes, and continue with --resume"
    )


def missing(store: Any, rank: int, size: int) -> list[int]:
    """Return the ranks that do not write to `store` within ANSWER_SECONDS; every reachable rank calls this.

    Rank 0 hosts the store, so it is missing if the store itself does not answer.
    """
    answers = [False] * size
    end = time.monotonic() + ANSWER_SECONDS

    def call() -> None:
        store.set(f"{PRESENT}/{rank}", "1")
        while not all(answers) and time.monotonic() < end:
            for other in range(size):
                answers[other] = answers[other] or store.check([f"{PRESENT}/{other}"])
            time.sleep(ANSWER_SECONDS / 100)

    _within(ANSWER_SECONDS, call)
    return [other for other in range(size) if not answers[other]] if answers[rank] else [0]


def _within(seconds: float, function: Any) -> None:
    """Call `function` and wait at most `seconds`; after that its daemon thread continues and its errors are ignored."""

    def guarded() -> None:
        with suppress(RuntimeError):
            function()

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(seconds)
