"""Ending a training whose evaluations have ceased to get better."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from semask_d2.checkpoint import Checkpointer
from semask_d2.d2 import HookBase, comm
from semask_d2.engine.hooks import recorded
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import Section
from semask_d2.utils.runs import is_scalar

logger = logging.getLogger(__name__)


class Finished(BaseException):
    """Ends the loop of a training that is over early; no `Exception`, which would be logged as a failure."""


def evaluations_without_gain(values: Sequence[float], min_delta: float) -> int:
    """How many evaluations there are after the last that was better than all before it, by more than `min_delta`."""
    best, since = -float("inf"), 0
    for value in values:
        since += 1
        if value > best + min_delta:  # false of NaN
            best, since = value, 0
    return since


class EarlyStopping(HookBase):
    """Ends a run after `patience` evaluations without a better value of `metrics`, of which the best counts.

    It stands after the evaluation, the writers and what saves the best model, on all processes; the main one decides
    and, with its `checkpointer`, saves `model_final`. Evaluations before a resumed run's start are those of its
    checkpoint and, as that is written before the evaluation of its iteration, of `metrics_file`.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        *,
        period: int,
        patience: int,
        min_delta: float,
        metrics_file: str,
        checkpointer: Checkpointer | None,
    ):
        self.metrics = metrics
        self.period = period
        self.patience = patience
        self.min_delta = min_delta
        self.metrics_file = metrics_file
        self.checkpointer = checkpointer
        self.values: dict[int, float] = {}

    def before_train(self) -> None:
        done = self.trainer.start_iter
        if done and comm.is_main_process():
            for iteration, record in recorded(self.metrics_file).items():
                if iteration < done and (found := [record[name] for name in self.metrics if name in record]):
                    self.values[iteration] = max(found)
        if done:
            self.trainer.iter = done - 1  # which a checkpoint written now holds
            self.end_if_over(done)

    def state_dict(self) -> dict[str, Any]:
        return {"values": dict(self.values)} if self.values else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        values: Any = Section.of(state_dict, "the checkpoint's state of SOLVER.EARLY_STOPPING").section("values").values
        if not all(type(key) is int and is_scalar(value) for key, value in values.items()):
            raise UserError("the checkpoint's state of SOLVER.EARLY_STOPPING holds what is no number")
        self.values = dict(values)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.period and done % self.period == 0 and done < self.trainer.max_iter:
            self.end_if_over(done)

    def end_if_over(self, done: int) -> None:
        """Raise `Finished` on all processes if the evaluation after `done` iterations was one too many."""
        latest = self.trainer.storage.latest()
        if found := [latest[name] for name in self.metrics if name in latest]:
            self.values[found[0][1]] = max(value for value, _ in found)
        values = [self.values[iteration] for iteration in sorted(self.values)]
        since = evaluations_without_gain(values, self.min_delta)
        if not comm.all_gather(since >= self.patience)[0]:
            return
        logger.info(
            "SOLVER.EARLY_STOPPING: %d evaluations brought no better %s: the run is finished after iteration %d of %d",
            *(since, self.metrics[0], done, self.trainer.max_iter),
        )
        if self.checkpointer is not None:
            self.checkpointer.save("model_final", iteration=done - 1)
        raise Finished
