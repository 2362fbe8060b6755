"""Run folders: their preferred checkpoint, their config, their metrics, and finding the newest run."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeGuard

from semask_d2.utils.errors import UserError
from semask_d2.utils.files import folder_name, require_regular
from semask_d2.utils.foreign import MAX_INTEGER

MAX_NAME = 1000  # bytes of last_checkpoint that are read
MAX_SCALAR = 1e300
RUNS = "output"  # the folder of run folders
CONFIG_NAME = "config.yaml"
METRICS_NAME = "metrics.json"
FINAL_NAME = "model_final.pth"
WEIGHTS_NAME = "model.safetensors"  # of a model that was saved to be shared
LAST = "last_checkpoint"
PREFERRED = ("model_best.pth", FINAL_NAME, WEIGHTS_NAME)


def run_weights(run: str | os.PathLike) -> Path | None:
    """Return the checkpoint of a run folder: the best, else the final, else the last one; None if there is none.

    Raises `UserError` if `last_checkpoint` is needed and damaged.
    """
    run = Path(run)
    preferred = next((run / name for name in PREFERRED if (run / name).is_file()), None)
    if preferred is not None or not os.path.lexists(run / LAST):
        return preferred
    name = last_checkpoint(run)
    return run / name if name and (run / name).is_file() else None


def last_checkpoint(run: str | os.PathLike) -> str:
    """Return the file name in a run folder's `last_checkpoint`, or "" if that is empty.

    Raises `UserError` if it cannot be read, or does not hold the name of a file in the folder.
    """
    path = Path(run, LAST)
    try:
        name = require_regular(path).read_bytes()[:MAX_NAME].decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as the name of a checkpoint ({error})") from error
    return folder_name(name, str(path)) if name else ""


def require_run(run: str | os.PathLike) -> Path:
    """Return the checkpoint of a run folder as `run_weights` does; raises `UserError` without checkpoint or config."""
    require_config(run)
    weights = run_weights(run)
    if weights is None:
        raise UserError(f"{run}: no checkpoint there ({', '.join(PREFERRED)} or last_checkpoint); train first")
    return weights


def require_config(run: str | os.PathLike) -> Path:
    """Return the config file of a run folder; raises `UserError` if there is none."""
    path = Path(run, CONFIG_NAME)
    if not path.is_file():
        raise UserError(f"{run}: no {CONFIG_NAME} there; expected a run folder, as written by train_net.py")
    return path


def trained_runs(root: str | os.PathLike) -> list[Path]:
    """Return all run folders under `root` that hold a checkpoint, the one with the newest checkpoint first.

    Runs whose `last_checkpoint` is damaged are skipped.
    """
    trained = []
    for run in (path.parent for path in Path(root).rglob(CONFIG_NAME)):
        with suppress(UserError):
            if weights := run_weights(run):
                trained.append((weights.stat().st_mtime, run))
    return [run for _, run in sorted(trained, reverse=True)]


def newest_run(root: str | os.PathLike) -> Path | None:
    """Return the run folder under `root` with the newest checkpoint; None if there is no trained run."""
    return next(iter(trained_runs(root)), None)


def read_metrics(path: str | os.PathLike) -> dict[int, dict[str, float]]:
    """Return the scalars of a `metrics.json` by iteration, in order; the latest values win where a resumed run repeats.

    Lines that are damaged, for example because the run was killed, and values that are not numbers are skipped. NaN,
    which marks a metric that could not be measured, is kept.
    """
    records: dict[int, dict[str, float]] = {}
    with open(require_regular(path), encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            iteration = record.get("iteration") if isinstance(record, dict) else None
            if type(iteration) is int and 0 <= iteration <= MAX_INTEGER:
                values = {name: value for name, value in record.items() if is_scalar(value)}
                records.setdefault(iteration, {}).update(values)
    return dict(sorted(records.items()))


def is_scalar(value: Any) -> TypeGuard[float]:
    """Return whether a value is a number that is safe in float arithmetic, or NaN."""
    return type(value) in (int, float) and not abs(value) >= MAX_SCALAR  # false for NaN
