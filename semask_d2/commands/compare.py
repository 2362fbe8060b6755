"""`semask compare`: evaluate several checkpoints on their test sets and print one table."""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from semask_d2.commands.evaluate import evaluate
from semask_d2.config.checks import check_evaluation
from semask_d2.d2 import CfgNode
from semask_d2.data.datasets.custom import register_custom
from semask_d2.engine.setup import setup
from semask_d2.evaluation import main_metric
from semask_d2.evaluation.result_files import is_nan, write_json
from semask_d2.evaluation.results import TASKS
from semask_d2.inference.media import distinct_names
from semask_d2.inference.sources import choose_config
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write


class Row(NamedTuple):
    """Metrics of one model on one dataset, in percent."""

    model: str
    checkpoint: str
    dataset: str
    metrics: dict[str, float]


def run(args: argparse.Namespace) -> None:
    """Evaluate each model, print the table, and write `compare.csv` and `compare.json`."""
    sources = [(source, "") for source in args.sources] + [(source, "--weights") for source in args.weights]
    if not sources:
        raise UserError(
            "nothing to compare: name run folders or checkpoints, for example semask compare output/a output/b"
        )
    names = distinct_names([Path(os.path.abspath(source)) for source, _ in sources])
    configs = []
    for name, (source, option) in zip(names, sources, strict=True):
        cfg = choose_config(args.config_file, source, args.opts, data=args.data, option=option)
        cfg.OUTPUT_DIR = os.path.join(args.output, name)
        check_evaluation(cfg)
        configs.append(cfg)
    rows: list[Row] = []
    for name, cfg in zip(names, configs, strict=True):  # only now: a wrong config shows before the first evaluation
        rows += evaluate_model(name, cfg)
    print(summary_table(rows))
    if args.per_class:
        print(f"\n{class_table(rows)}")
    write(rows, Path(args.output))


def evaluate_model(name: str, cfg: CfgNode) -> list[Row]:
    """Evaluate one model and return its rows, one per test set."""
    register_custom(cfg)
    setup(cfg, training=False, resume=False)
    results = evaluate(cfg, resume=False)
    return [
        Row(name, cfg.MODEL.WEIGHTS, dataset, results.get(dataset, results)[main_metric(dataset)[0]])
        for dataset in cfg.DATASETS.TEST
    ]


def summary_table(rows: Sequence[Row]) -> str:
    """Return a table of every model's metrics, without those of single classes."""
    names = [name for name in metric_names(rows) if "-" not in name]
    lines = [(row.model, row.dataset, *(row.metrics.get(name) for name in names)) for row in rows]
    return tabulate(lines, headers=["model", "dataset", *names], floatfmt=".2f", tablefmt="github")


def class_table(rows: Sequence[Row]) -> str:
    """Return a table for each task: the metric of each class, with one column per model."""
    tables = []
    for task in TASKS.values():
        prefix = f"{task.class_metric}-"
        names = [name for name in metric_names(rows) if name.startswith(prefix)]
        task_rows = [row for row in rows if task.metric in row.metrics]
        lines = [(name.removeprefix(prefix), *(row.metrics.get(name) for row in task_rows)) for name in names]
        headers = [task.class_metric, *(row.model for row in task_rows)]
        if task_rows:
            tables.append(tabulate(lines, headers=headers, floatfmt=".2f", tablefmt="github"))
    return "\n\n".join(tables)


def metric_names(rows: Sequence[Row]) -> list[str]:
    """Return the names of all metrics that occur in `rows`, in order."""
    return list(dict.fromkeys(name for row in rows for name in row.metrics))


def write(rows: Sequence[Row], folder: Path) -> None:
    """Write all metrics to `compare.csv` and `compare.json`."""
    names = metric_names(rows)
    fields = ["model", "checkpoint", "dataset"]
    with atomic_write(folder / "compare.csv") as file:
        writer = csv.DictWriter(file, [*fields, *names], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            values: dict[str, Any] = row._asdict() | row.metrics
            del values["metrics"]
            writer.writerow({name: "" if is_nan(value) else value for name, value in values.items()})
    write_json(folder / "compare.json", [row._asdict() for row in rows])
