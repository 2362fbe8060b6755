"""Results files of experiments: one line of JSON per finished run, appended and never rewritten."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ablation_experiment import Experiment, Run

from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import Section

Result = dict[str, Any]
NUMBERS = ("mIoU", "seconds", "cpu_seconds", "peak_mb", "step_cpu_seconds")


def read_results(path: Path, experiment: Experiment, data: str | None = None) -> dict[Run, Result]:
    """Return the finished runs in a results file; an empty dict if the file does not exist.

    An incomplete line, as left by a killed process, is reported and skipped. Raises `UserError` if a line has another
    protocol, other settings of its variant, or other data than the fingerprint `data`.
    """
    results: dict[Run, Result] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    protocol = experiment.protocol() if lines else ""
    for number, line in enumerate(lines, 1):
        source = f"{path}: line {number}"
        try:
            values = json.loads(line)
        except ValueError as error:
            if not line.startswith("{"):
                raise UserError(
                    f"{source}: expected a line of JSON, got {line[:60]!r}: correct or remove it"
                ) from error
            print(f"{source} is incomplete, as after a kill: it is ignored and its run is repeated", file=sys.stderr)
            continue
        result = Section.of(values, source)
        run = Run(result.text("variant"), result.integer("seed"))
        if (result.text("experiment"), result.text("protocol")) != (experiment.name, protocol):
            raise UserError(
                f"{source}: a result of {result.text('experiment')}, protocol {result.text('protocol')}, "
                f"{result.integer('iterations')} iterations; {experiment.path} is {experiment.name}, {protocol}, "
                f"{experiment.iterations} iterations: undo the change, or give the experiment another file name"
            )
        if data is not None and result.text("data") != data:
            raise UserError(
                f"{source}: a result of other data (fingerprint {result.text('data')}) than there is now ({data}): "
                "restore the data, or give the experiment another file name"
            )
        settings = result.section("settings").values
        if run.variant in experiment.variants and settings != experiment.variants[run.variant]:
            raise UserError(
                f"{source}: {run.variant} was run with {settings}, {experiment.path} has "
                f"{dict(experiment.variants[run.variant])}: undo the change, or rename the variant"
            )
        for name in NUMBERS:
            result.number(name)
        results.setdefault(run, values)
    return results


def append_result(path: Path, result: Result) -> None:
    """Append a line to a results file and flush it to the disk; an incomplete line before it is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(result) + "\n").encode()
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
