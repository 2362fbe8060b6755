"""Early stopping: ending a run whose evaluations no longer improve."""

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
    """Ends the training loop early; not an `Exception`, which would be logged as a failure."""


def evaluations_without_gain(values: Sequence[float], min_delta: float) -> int:
    """Return the number of evaluations since the last one that beat all earlier ones by more than `min_delta`."""
    best, since = -float("inf"), 0
    for value in values:
        since += 1
        if value > best + min_delta:  # false for NaN
            best, since = value, 0
    return since


class EarlyStopping(HookBase):
    """Ends a run after `patience` evaluations without an improvement of the best of `metrics`.

    Register this hook on all processes, after the evaluation, the writers and the hook that saves the best model. The
    main process decides and saves `model_final` with its `checkpointer`. A resumed run takes earlier evaluations from
    its checkpoint and from `metrics_file`, because a checkpoint is written before the evaluation of its iteration.
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
                if iteration < done and (scores := [record[name] for name in self.metrics if name in record]):
                    self.values[iteration] = max(scores)
        if done:
            self.trainer.iter = done - 1  # a checkpoint written now stores this number
            self.end_if_over(done)

    def state_dict(self) -> dict[str, Any]:
        return {"values": dict(self.values)} if self.values else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        values: Any = Section.of(state_dict, "the checkpoint's state of SOLVER.EARLY_STOPPING").section("values").values
        if not all(type(key) is int and is_scalar(value) for key, value in values.items()):
            raise UserError("the checkpoint's state of SOLVER.EARLY_STOPPING holds values that are not numbers")
        self.values = dict(values)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.period and done % self.period == 0 and done < self.trainer.max_iter:
            self.end_if_over(done)

    def end_if_over(self, done: int) -> None:
        """Raise `Finished` on all processes if the evaluation after `done` iterations exhausted the patience."""
        latest = self.trainer.storage.latest()
        if scores := [latest[name] for name in self.metrics if name in latest]:
            self.values[scores[0][1]] = max(value for value, _ in scores)
        values = [self.values[iteration] for iteration in sorted(self.values)]
        since = evaluations_without_gain(values, self.min_delta)
        if not comm.all_gather(since >= self.patience)[0]:
            return
        logger.info(
            "SOLVER.EARLY_STOPPING: %d evaluations without a better %s: the run is finished after iteration %d of %d",
            *(since, self.metrics[0], done, self.trainer.max_iter),
        )
        if self.checkpointer is not None:
            self.checkpointer.save("model_final", iteration=done - 1)
        raise Finished
