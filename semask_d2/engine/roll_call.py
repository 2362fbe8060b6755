"""Naming the processes of a job that no longer answer, once an exchange has run out of time.

A process that is stopped, or whose machine is gone, is waited for until the process group's time limit, 30 minutes by
default. The others then leave a word in the group's store, and one of them says whose is missing.
"""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress
from typing import Any

import torch.distributed as dist

ANSWER_SECONDS = 10.0
TIMED_OUT = re.compile(r"Timed out waiting (\d+)ms for \w+ operation")  # as gloo says it
PRESENT, SAID = "semask_d2/present", "semask_d2/said"


def waited_in_vain(error: BaseException) -> float | None:
    """Return after how many seconds an exchange between processes was given up, if `error` is that."""
    match = TIMED_OUT.search(str(error)) if isinstance(error, RuntimeError) else None
    return int(match[1]) / 1000 if match else None


def describe(error: BaseException) -> str:
    """Return a line that names the processes which do not answer, on one of the others; "" on the rest of them."""
    seconds = waited_in_vain(error) or 0
    absent: list[int] = []
    with suppress(RuntimeError, ValueError, AttributeError):  # there is no group, or its store has gone
        store, rank, size = dist.distributed_c10d._get_default_store(), dist.get_rank(), dist.get_world_size()
        absent = missing(store, rank, size)
        if rank != min(set(range(size)) - set(absent)):
            if 0 not in absent:  # a launcher ends all once the first has ended
                _within(ANSWER_SECONDS, lambda: store.wait([SAID]))
                time.sleep(ANSWER_SECONDS / 20)
            return ""
        if 0 not in absent:
            _within(1, lambda: store.set(SAID, "1"))
    who = f"process{'es' if len(absent) > 1 else ''} {', '.join(map(str, absent))}" if absent else "another process"
    return (
        f"{who} of this run did not answer within {seconds:.0f} s: stopped, hung, or its machine is gone; end what is "
        "left of it, and continue with --resume"
    )


def missing(store: Any, rank: int, size: int) -> list[int]:
    """Return the ranks that leave no word in `store` within ANSWER_SECONDS; all of them call it, as far as they can.

    Rank 0, which keeps the store, is missing where the store itself does not answer.
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
    """Call `function` for no longer than so; it goes on in a thread that nothing waits for, and its errors are lost."""

    def guarded() -> None:
        with suppress(RuntimeError):
            function()

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(seconds)
