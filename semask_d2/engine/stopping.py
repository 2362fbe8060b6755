"""Stopping a run by a signal: Ctrl-C, or what a scheduler or a closed terminal sends, keeps the work that is done.

A process of a training only notes the signal; the trainer looks after each step, and all ranks stop after the same one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from semask_d2.utils.errors import UserError

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(UserError):
    """A run that was ended by a signal, after its checkpoint was written."""

    exit_code = 130


class StopRequest:
    """Whether this process was asked to stop. A second Ctrl-C does not wait for the step's end."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def note(self, number: int, _: FrameType | None) -> None:
        """Handle a signal."""
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            print("stopping after this step; Ctrl-C again ends at once", file=sys.stderr, flush=True)
        self.signal = number

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it signals are noted; afterwards their handlers are what they were. Only the main thread can."""
        try:
            before = {number: signal.signal(number, self.note) for number in SIGNALS}
        except ValueError:  # threads cannot handle signals
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def passing_signals_on() -> Iterator[None]:
    """Within it, a launcher hands signals to the processes it started, and goes on waiting for them."""

    def pass_on(number: int, _: FrameType | None) -> None:
        for child in multiprocessing.active_children():
            if child.pid:
                os.kill(child.pid, signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
