"""Stopping a run by a signal (Ctrl-C, a scheduler, a closed terminal) without losing finished work.

A training process only records the signal. The trainer checks for it after each step, and all ranks stop after the
same step.
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
    """Error for a run that a signal ended, raised after its checkpoint was written."""

    exit_code = 130


class StopRequest:
    """The request to stop this process, if one has arrived. A second Ctrl-C ends it without finishing the step."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def note(self, number: int, _: FrameType | None) -> None:
        """Handle a signal by recording it."""
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            print("stopping after this step; Ctrl-C again ends at once", file=sys.stderr, flush=True)
        self.signal = number

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record signals within the block, then restore their handlers. Has an effect only in the main thread."""
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
    """Pass signals on to the processes that this launcher started, which keeps waiting for them."""

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
