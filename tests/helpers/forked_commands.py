"""Scripts of the project in processes that are forked from one that has imported the package, which saves seconds."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.helpers.commands import ROOT

# what a training imports; the third is imported by torch's optimizers
PRELOADED = ["semask_d2.engine", "semask_d2.commands.train", "torch._dynamo", "tests.helpers.forked_commands"]


def run_script(words: Sequence[str], environment: Mapping[str, str], outputs: tuple[Path, Path]) -> None:
    """Run a script as if by Python's command line, with standard output and error in two files."""
    for number, path in zip((1, 2), outputs, strict=True):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    multiprocessing.set_start_method(None, force=True)  # the system's, not that of this process
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = list(words)
    sys.path.insert(0, str((ROOT / words[0]).parent))
    try:
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which a process of `multiprocessing` omits


class ForkedCommand:
    """A script in a forked process, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.outputs = folder / "stdout", folder / "stderr"
        self._process = context.Process(target=run_script, args=(words, dict(environment), self.outputs))
        self._process.start()

    @staticmethod
    def is_possible() -> bool:
        """Return whether this system can fork."""
        return "forkserver" in multiprocessing.get_all_start_methods()

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, the negative number of the signal that ended the process, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return `returncode`."""
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end and return what was written; raises `subprocess.TimeoutExpired` after `timeout` seconds."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("script", timeout or 0)
        out, err = (path.read_text() for path in self.outputs)
        return out, err

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
