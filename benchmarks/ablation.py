#!/usr/bin/env python3
"""Ablation of semantic attention: train variants of a config with paired seeds, and compare them statistically.

    python benchmarks/ablation.py benchmarks/experiments/camvid_lite0_m2f.yaml [...] [--jobs N] [--report]

Only runs that are missing in the results file are trained, with one thread each and at the lowest priority. Each
finished run adds a line to that file, so the script may be killed at any time and started again. At the end it prints a
table; `--report` writes the table and its plot to docs/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ablation_experiment import Experiment, Run, read_experiment
from ablation_report import tables, write_report
from ablation_results import Result, append_result, read_results

from semask_d2.engine.launch import guarded
from semask_d2.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
Train = Callable[[Experiment, Run, Path], Result]


def run_missing(
    experiment: Experiment, requested: list[Run], path: Path, output: Path, *, train: Train, jobs: int, keep: bool
) -> None:
    """Train the `requested` runs that are missing in the results file at `path`, `jobs` at a time, and append each."""
    data = experiment.data_fingerprint()
    done = read_results(path, experiment, data)
    missing = [run for run in requested if run not in done]
    for variant in {run.variant for run in missing}:
        experiment.cfg(variant)  # reports a wrong setting now rather than after hours
    common = {"protocol": experiment.protocol(), "data": data}
    writing = threading.Lock()

    def do(run: Run) -> None:
        folder = output / experiment.name / f"{run.variant}-{run.seed}".replace(" ", "_")
        result = {
            "experiment": experiment.name,
            **run._asdict(),
            "settings": dict(experiment.variants[run.variant]),
            "iterations": experiment.iterations,
            **common,
            "commit": commit(),
            **train(experiment, run, folder),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        with writing:
            append_result(path, result)
            print(f"{experiment.name}: {run.variant}, seed {run.seed}: mIoU {result['mIoU']:.2f}", flush=True)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)

    failures = []
    pool = ThreadPoolExecutor(jobs)
    try:
        for future in [pool.submit(do, run) for run in missing]:
            try:
                future.result()
            except UserError as error:  # such as a loss that is not finite; the other runs continue
                print(f"{experiment.name}: {error}", file=sys.stderr, flush=True)
                failures.append(error)
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        raise UserError(f"{len(failures)} of {len(missing)} runs failed, see above; start again to repeat them")


def train_in_process(experiment: Experiment, run: Run, folder: Path) -> Result:
    """Train a run in a separate process with one thread; raises `UserError` with the end of its log if it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, ROOT / "benchmarks/ablation_run.py", experiment.path, run.variant, run.seed, folder]
    started = subprocess.Popen(
        [str(word) for word in words],
        stdin=subprocess.PIPE,  # closes when this process ends, for whatever reason
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # whose priority the process lowers
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    assert started.stdout is not None
    log = started.stdout.read()
    if started.wait():
        raise UserError(f"{run.variant}, seed {run.seed} failed ({folder}): {log[-2000:]}")
    return json.loads((folder / "result.json").read_text())


def commit() -> str:
    """Return the commit of the code, with "-dirty" if the code is modified; "unknown" outside of a clone."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", "semask_d2", "configs", "benchmarks/*.py")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("-dirty" if changed else "")


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("experiments", nargs="+", type=Path, metavar="FILE", help="experiments as YAML files")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="run only these variants")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="run only these seeds")
    parser.add_argument("--no-runs", action="store_true", help="only report the finished runs")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default 1)")
    parser.add_argument("--report", action="store_true", help="also write the tables and the plot to docs/")
    parser.add_argument(
        "--page", type=Path, default=ROOT / "docs/ablation.md", metavar="FILE", help="page of the report"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results", metavar="DIR")
    parser.add_argument("--output", type=Path, default=ROOT / "output/ablation", metavar="DIR", help="run folders")
    parser.add_argument("--keep", action="store_true", help="keep the run folders")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(arguments: argparse.Namespace, train: Train = train_in_process) -> None:
    """Run and report each experiment."""
    if arguments.jobs < 1:
        raise UserError(f"--jobs: expected at least 1, got {arguments.jobs}")
    for experiment in [read_experiment(path) for path in arguments.experiments]:
        path = arguments.results / f"{experiment.name}.jsonl"
        requested = chosen(experiment, arguments.variants, arguments.seeds)
        if not arguments.no_runs:
            run_missing(
                experiment, requested, path, arguments.output, train=train, jobs=arguments.jobs, keep=arguments.keep
            )
        results = read_results(path, experiment)
        if not results:
            raise UserError(f"{path}: no finished runs there; omit --no-runs")
        print(f"\n{experiment.name}\n\n{tables(experiment, results)}")
        if arguments.report:
            write_report(experiment, results, arguments.page)


def chosen(experiment: Experiment, variants: list[str] | None, seeds: list[int] | None) -> list[Run]:
    """Return an experiment's runs, limited to `variants` and `seeds` if those are given."""
    for option, given, known in (("--variants", variants, experiment.variants), ("--seeds", seeds, experiment.seeds)):
        for value in given or ():
            if value not in known:
                raise UserError(f"{option} {value}: {experiment.path} has {', '.join(map(str, known))}")
    return [
        run
        for run in experiment.runs
        if (variants is None or run.variant in variants) and (seeds is None or run.seed in seeds)
    ]


if __name__ == "__main__":
    options = argument_parser().parse_args()
    sys.exit(guarded(main, options, debug=options.debug))
