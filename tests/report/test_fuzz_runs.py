"""Run folders with files damaged by a seeded generator: each gives a report or a one-line error."""

from __future__ import annotations

import json
import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from semask_d2 import Predictor
from semask_d2.report import write_report
from tests.helpers.refusals import refusal
from tests.helpers.strange_values import damage
from tests.report.conftest import DATASET

TRIES = {"metrics.json": 80, "images.json": 40}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIES)
def test_a_changed_evaluation_is_a_report_or_one_line(
    name: str, evaluated_run: Path, tmp_path: Path, toy_data: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated_run, run)
    predictor = Predictor.from_run(run) if name == "images.json" else None
    path = run / "inference" / DATASET / name
    whole, generator = path.read_text(), random.Random(name)
    outcomes = []
    for number in range(TRIES[name]):
        content: Any = json.loads(whole)
        for _ in range(generator.randint(1, 2) if number else 0):
            damage(content, generator)
        path.write_text(json.dumps(content))
        call = partial(write_report, run, images=1 if predictor else 0, predictor=predictor)
        message = refusal(call)
        assert message is None or (message.startswith(f"{path}: not a valid file") and "\n" not in message), message
        outcomes.append(message is None)
    assert outcomes[0]
    assert 0.05 < sum(outcomes) / len(outcomes) < 0.9
