"""Early stopping: the number of evaluations before it, resuming, and the finished run."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest

from semask_d2 import get_cfg
from semask_d2.d2 import JSONWriter
from semask_d2.engine import Trainer
from semask_d2.engine.early_stopping import EarlyStopping, evaluations_without_gain
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TINY, TOY_CONFIG


@pytest.mark.parametrize(
    ("values", "min_delta", "expected"),
    [
        ([], 0.0, 0),
        ([1.0], 0.0, 0),
        ([1.0, 1.0], 0.0, 1),
        ([3.0, 1.0, 2.0], 0.0, 2),
        ([1.0, 2.0, 3.0], 0.0, 0),
        ([1.0, 1.4, 1.4, 1.6], 0.5, 0),  # small gains add up
        ([1.0, 1.2, 1.4], 0.5, 2),
        ([math.nan, math.nan], 0.0, 2),
    ],
)
def test_counts_evaluations_since_the_best(values: list[float], min_delta: float, expected: int) -> None:
    assert evaluations_without_gain(values, min_delta) == expected


class Scripted(Trainer):
    """A trainer whose evaluations after 1, 2, ... iterations return the numbers of a list."""

    values = (5.0, 9.0, 8.0, 7.0, 10.0, 11.0)

    def evaluate(self):
        self.last_results = self._last_eval_results = {"sem_seg": {"mIoU": self.values[self.iterations_done - 1]}}
        return self.last_results

    def run_step(self):
        self.iterations_done = self.iter + 1
        self._trainer.optimizer.step()  # without gradients; the schedule's step wants one before it

    def build_writers(self):
        Path(self.cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
        return [JSONWriter(str(Path(self.cfg.OUTPUT_DIR, "metrics.json")))]


@pytest.fixture
def trainer(tmp_path: Path, toy_data: Path):
    def build(patience: int) -> Scripted:
        options = {"SOLVER.MAX_ITER": 6, "TEST.EVAL_PERIOD": 1, "SOLVER.EARLY_STOPPING.PATIENCE": patience}
        options |= {"SOLVER.CHECKPOINT_PERIOD": 1, "OUTPUT_DIR": str(tmp_path / "run")}
        return Scripted(get_cfg(TOY_CONFIG, [*TINY, *(str(word) for pair in options.items() for word in pair)]))

    return build


@pytest.mark.slow
def test_a_run_ends_as_a_finished_one_and_goes_on_with_more_patience(trainer, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO)
    assert trainer(2).train() == {"sem_seg": {"mIoU": 7.0}}
    assert "2 evaluations without a better sem_seg/mIoU: the run is finished after iteration 4 of 6" in caplog.text
    assert "Exception during training" not in caplog.text
    run = tmp_path / "run"
    assert (run / "last_checkpoint").read_text() == "model_final.pth"
    assert (run / "model_best.pth").exists()

    again = trainer(2)  # the run is still finished, so it is only evaluated
    again.resume_or_load(resume=True)
    assert again.train() == {"sem_seg": {"mIoU": 7.0}}
    assert again.iterations_done == 4

    patient = trainer(3)
    patient.resume_or_load(resume=True)
    assert patient.train() == {"sem_seg": {"mIoU": 11.0}}
    assert patient.iterations_done == 6


def test_an_invalid_state_is_refused() -> None:
    hook = EarlyStopping(["m"], period=1, patience=1, min_delta=0.0, metrics_file="", checkpointer=None)
    hook.load_state_dict({"values": {3: 1.5}})
    assert hook.state_dict() == {"values": {3: 1.5}}
    with pytest.raises(UserError, match=r"state of SOLVER\.EARLY_STOPPING holds values that are not numbers"):
        hook.load_state_dict({"values": {3: "high"}})


@pytest.mark.slow
def test_without_patience_a_run_goes_to_its_end(trainer) -> None:
    assert trainer(0).train() == {"sem_seg": {"mIoU": 11.0}}
