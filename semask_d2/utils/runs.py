"""Run folders: which of their checkpoints to use, which run is the newest, and what their metrics file says."""

from __future__ import annotations

import json
import os
from pathlib import Path

from semask_d2.utils.errors import UserError

CONFIG_NAME = "config.yaml"
METRICS_NAME = "metrics.json"
FINAL_NAME = "model_final.pth"
PREFERRED = ("model_best.pth", FINAL_NAME)


def run_weights(run: str | os.PathLike) -> Path | None:
    """The checkpoint of a run folder: the best, else the final, else the last one written; None without any."""
    run = Path(run)
    names: list[str] = list(PREFERRED)
    last = run / "last_checkpoint"
    if last.is_file():
        names.append(last.read_text(encoding="utf-8").strip())
    return next((run / name for name in names if name and (run / name).is_file()), None)


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
    """The run folders anywhere under `root` that hold a checkpoint, the newest checkpoint first."""
    runs = [path.parent for path in Path(root).rglob(CONFIG_NAME)]
    trained = [(weights.stat().st_mtime, run) for run in runs if (weights := run_weights(run))]
    return [run for _, run in sorted(trained, reverse=True)]


def newest_run(root: str | os.PathLike) -> Path | None:
    """The run folder anywhere under `root` whose checkpoint was written last; None where there is no trained run."""
    return next(iter(trained_runs(root)), None)


def read_metrics(path: str | os.PathLike) -> dict[int, dict[str, float]]:
    """The scalars of a `metrics.json` by iteration, in order; of what a resumed run repeats, the later."""
    records: dict[int, dict[str, float]] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:  # the last line of a run that was killed
                continue
            records.setdefault(record["iteration"], {}).update(record)
    return dict(sorted(records.items()))
