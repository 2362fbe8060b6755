"""Import of the package: it changes nothing in the process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.helpers.commands import ROOT

# third-party libraries are imported first, because some change the process (OpenCV the environment, SciPy filters)
PROGRAM = """
import importlib, logging, os, random, signal, sys, warnings
import cv2, matplotlib, numpy, PIL.Image, scipy.ndimage, scipy.optimize, scipy.sparse, timm, torch, torchvision

def state():
    return {
        "filters of warnings": list(warnings.filters),
        "display of warnings": warnings.showwarning,
        "raiseExceptions of logging": logging.raiseExceptions,
        "root logger": (list(logging.root.handlers), logging.root.level, logging.root.manager.disable),
        "class of loggers": logging.getLoggerClass(),
        "environment": dict(os.environ),
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "hooks": (sys.excepthook, sys.displayhook, sys.unraisablehook),
        "recursion limit": sys.getrecursionlimit(),
        "path": list(sys.path),
        "folder": os.getcwd(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads(), cv2.getNumThreads()),
        "precision": (torch.get_default_dtype(), torch.get_float32_matmul_precision()),
        "cuDNN": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "generators": (torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()),
        "limits of Pillow": PIL.Image.MAX_IMAGE_PIXELS,
        "backend of matplotlib": matplotlib.rcParams._get("backend"),
    }

before = state()
import semask_d2, semask_d2.__main__
for command in semask_d2.__main__.COMMANDS.values():
    importlib.import_module(f"semask_d2.commands.{command.module}")
after = state()
print(*(f"{name}: {before[name]} is now {after[name]}" for name in before if before[name] != after[name]), sep="\\n")
"""


@pytest.mark.slow
def test_importing_the_package_and_its_commands_changes_nothing() -> None:
    environment = {**os.environ, "SEMASK_D2_BACKEND": "native"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


HEAVY = ("torch", "numpy", "cv2", "detectron2", "yacs")
HELP = f"""
import contextlib, io, sys
from semask_d2.__main__ import COMMANDS, main
shown = io.StringIO()
for words in ([], *([name] for name in COMMANDS)):
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main([*words, "--help"])
with contextlib.redirect_stderr(shown), contextlib.suppress(SystemExit):
    main(["train", "--no-such-option"])
assert shown.getvalue().count("usage: ") == len(COMMANDS) + 2
print([name for name in {HEAVY} if name in sys.modules])
"""


def test_help_and_mistakes_of_every_command_import_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
