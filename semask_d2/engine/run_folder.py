"""Preparing a job's output folder so that nothing in it is lost and nothing is written outside of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from semask_d2.d2 import CfgNode
from semask_d2.evaluation.result_files import FOLDER, result_files
from semask_d2.evaluation.results import AVERAGED
from semask_d2.utils import locking
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import (
    atomic_write,
    move_aside,
    remove_stale,
    require_enclosed,
    require_regular,
    require_writable,
)
from semask_d2.utils.runs import CONFIG_NAME, METRICS_NAME

MODEL_FILE = re.compile(r"model_(\d{7,}|final|best(_of_unknown_value(_\d+)?)?)\.pth")
RUN_FILE = re.compile(
    rf"{MODEL_FILE.pattern}|last_checkpoint|metrics\.json|log\.txt(\.rank\d+)?|report\.html"
    r"|trackers\.json|events\.out\.tfevents\..+|non_finite_batch(_rank\d+)?\.pth"
)
PICTURE = re.compile(r"\d{7,}_.+\.png|curves\.png")
CONFIG_KEYS = ("DATALOADER", "DATASETS", "MODEL", "OUTPUT_DIR", "SOLVER", "TEST", "VERSION")  # in every full config
LOGS = "log.txt*"
EVALUATIONS = (FOLDER, f"{FOLDER}/*", f"{FOLDER}/{AVERAGED}/*")
WRITTEN_BY_TRAINING = (
    *("model_*.pth", "last_checkpoint", CONFIG_NAME, METRICS_NAME, "report.html", "trackers.json"),
    *("events.out.tfevents.*", "non_finite_batch*.pth", "pictures", "pictures/*"),
)


def prepare(folder: str, *, training: bool, resume: bool) -> str:
    """Create the output folder of a job and check that it is writable; only the main process calls this.

    Training locks the folder, and moves an earlier run aside unless it resumes. Returns a line for the log, or "".
    Raises `UserError` if another run is training in the folder, if a link leads out of it, or if one of the user's
    files would be overwritten.
    """
    require_writable(folder, "OUTPUT_DIR")
    line = ""
    if training:
        line = locking.take(folder)
        if not resume:
            set_aside(folder)
        require_run_config(Path(folder, CONFIG_NAME))
    require_enclosed(folder, (LOGS, *EVALUATIONS, *(WRITTEN_BY_TRAINING if training else ())))
    for path in (*Path(folder).glob(LOGS), Path(folder, METRICS_NAME)):  # these are appended to
        require_regular(path)
    remove_stale(folder)
    return line


def set_aside(folder: str) -> None:
    """Move the files of an earlier run in `folder` to `folder/previous_N`, so that a new run overwrites nothing."""
    old = list(run_files(Path(folder)))
    if not any(MODEL_FILE.fullmatch(path.name) for path in old):
        return  # without a checkpoint there is nothing worth keeping
    print(f"{folder} held an earlier run: moved to {move_aside(folder, old)} (use --resume to continue one)")


def run_files(folder: Path) -> Iterator[Path]:
    """Yield the files in `folder` that a run writes, and no others."""
    for path in sorted(folder.iterdir()):
        if path.name == CONFIG_NAME:
            if is_run_config(path):
                yield path
        elif RUN_FILE.fullmatch(path.name) and not path.is_dir():
            yield path
    yield from (path for path in sorted(folder.glob("pictures/*")) if PICTURE.fullmatch(path.name))
    for pattern in EVALUATIONS[1:]:
        for results in sorted(folder.glob(pattern)):
            yield from result_files(results)
            for earlier in sorted(results.glob("previous_*")):
                yield from result_files(earlier)


def write_config(cfg: CfgNode) -> None:
    """Write `config.yaml` to the output folder, which then suffices to evaluate the run and to predict with it."""
    path = Path(cfg.OUTPUT_DIR, CONFIG_NAME)
    require_run_config(path)
    with atomic_write(path) as file:
        file.write(cfg.dump())


def require_run_config(path: Path) -> None:
    """Raise `UserError` if there is a file at `path` that no run wrote."""
    if os.path.lexists(path) and not is_run_config(path):
        raise UserError(
            f"{path}: no run wrote this file, and training would overwrite it; rename it or choose another OUTPUT_DIR"
        )


def is_run_config(path: Path) -> bool:
    """Return whether a file holds a full config, which only runs write."""
    try:
        text = require_regular(path).read_text(encoding="utf-8", errors="replace")
    except (OSError, UserError):
        return False
    return all(re.search(rf"^{key}:", text, re.MULTILINE) for key in CONFIG_KEYS)
