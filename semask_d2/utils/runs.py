"""Run folders: which of their checkpoints to use, which run is the newest, and what their metrics file says."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeGuard

from semask_d2.utils.errors import UserError
from semask_d2.utils.files import folder_name, require_regular
from semask_d2.utils.foreign import MAX_INTEGER

MAX_NAME = 1000  # bytes of a last_checkpoint that are looked at
MAX_SCALAR = 1e300
CONFIG_NAME = "config.yaml"
METRICS_NAME = "metrics.json"
FINAL_NAME = "model_final.pth"
WEIGHTS_NAME = "model.safetensors"  # of a model that was saved to be shared
LAST = "last_checkpoint"
PREFERRED = ("model_best.pth", FINAL_NAME, WEIGHTS_NAME)


def run_weights(run: str | os.PathLike) -> Path | None:
    """The checkpoint of a run folder: the best, else the final, else the last one written; None without any.

    Raises `UserError` where `last_checkpoint` is needed and damaged.
    """
    run = Path(run)
    preferred = next((run / name for name in PREFERRED if (run / name).is_file()), None)
    if preferred is not None or not os.path.lexists(run / LAST):
        return preferred
    name = last_checkpoint(run)
    return run / name if name and (run / name).is_file() else None


def last_checkpoint(run: str | os.PathLike) -> str:
    """The file name that a run folder's `last_checkpoint` holds, "" where it is empty.

    Raises `UserError` where it cannot be read, or holds anything but the name of a file in the folder.
    """
    path = Path(run, LAST)
    try:
        name = require_regular(path).read_bytes()[:MAX_NAME].decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as the name of a checkpoint ({error})") from error
    return folder_name(name, str(path)) if name else ""


def require_run(run: str | os.PathLike) -> Path:
    """The checkpoint of a run folder as in `run_weights`; `UserError` without one, or without the run's config."""
    require_config(run)
    weights = run_weights(run)
    if weights is None:
        raise UserError(f"{run}: no checkpoint there ({', '.join(PREFERRED)} or last_checkpoint); train first")
    return weights


def require_config(run: str | os.PathLike) -> Path:
    """The config file of a run folder; `UserError` where there is none."""
    path = Path(run, CONFIG_NAME)
    if not path.is_file():
        raise UserError(f"{run}: no {CONFIG_NAME} there; expected a run folder, as train_net.py writes one")
    return path


def trained_runs(root: str | os.PathLike) -> list[Path]:
    """The run folders anywhere under `root` that hold a checkpoint, the newest checkpoint first.

    Those whose `last_checkpoint` is damaged are left out.
    """
    trained = []
    for run in (path.parent for path in Path(root).rglob(CONFIG_NAME)):
        with suppress(UserError):
            if weights := run_weights(run):
                trained.append((weights.stat().st_mtime, run))
    return [run for _, run in sorted(trained, reverse=True)]


def newest_run(root: str | os.PathLike) -> Path | None:
    """The run folder anywhere under `root` whose checkpoint was written last; None where there is no trained run."""
    return next(iter(trained_runs(root)), None)


def read_metrics(path: str | os.PathLike) -> dict[int, dict[str, float]]:
    """The scalars of a `metrics.json` by iteration, in order; of what a resumed run repeats, the later.

    Lines that no training writes, as a kill or another program leaves them, and values that are no numbers are left
    out. NaN, a metric that could not be measured, stays.
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
    """Return whether a value is a number that computing with floats can take, or NaN."""
    return type(value) in (int, float) and not abs(value) >= MAX_SCALAR  # which is false of NaN
