"""Replacement for `detectron2.engine.hooks`: actions around the iterations of a training run."""

from __future__ import annotations

import datetime
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as _TorchScheduler

from semask_d2.d2.native import comm
from semask_d2.d2.native.events import EventWriter
from semask_d2.utils.nested import flattened

_logger = logging.getLogger("detectron2.engine.hooks")


class HookBase:
    """Base class of hooks, called around a trainer's iterations; registering one sets `trainer` (a weak reference)."""

    trainer: Any = None

    def before_train(self) -> None:
        """Run once, before the first iteration."""

    def after_train(self) -> None:
        """Run once, after the last iteration or after one that failed."""

    def before_step(self) -> None:
        """Run before each iteration."""

    def after_backward(self) -> None:
        """Run between an iteration's backward pass and its optimizer step."""

    def after_step(self) -> None:
        """Run after each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs; a hook with a state also has `load_state_dict`."""
        return {}


class IterationTimer(HookBase):
    """Records "time", the seconds of an iteration up to this hook, from iteration `warmup_iter` on; logs the total."""

    def __init__(self, warmup_iter: int = 3) -> None:
        self._unmeasured = warmup_iter - 1  # iterations at the start
        self._in_steps = 0.0  # seconds
        self.before_train()  # after_train also runs if another hook's before_train failed first
        self.before_step()

    def before_train(self) -> None:
        self._training_began = time.perf_counter()

    def before_step(self) -> None:
        self._step_began = time.perf_counter()

    def after_step(self) -> None:
        seconds = time.perf_counter() - self._step_began
        self._in_steps += seconds
        if self.trainer.iter - self.trainer.start_iter >= self._unmeasured:
            self.trainer.storage.put_scalars(time=seconds)

    def after_train(self) -> None:
        total = time.perf_counter() - self._training_began
        shown = [datetime.timedelta(seconds=int(seconds)) for seconds in (total, total - self._in_steps)]
        _logger.info("Total training time: %s (%s on hooks)", *shown)


class PeriodicWriter(HookBase):
    """Calls the writers every `period` iterations and after the last one, and closes them at the end."""

    def __init__(self, writers: list[EventWriter], period: int = 20) -> None:
        assert all(isinstance(writer, EventWriter) for writer in writers), writers
        self._writers = writers
        self._period = period

    def after_step(self) -> None:
        following = self.trainer.iter + 1
        if following % self._period == 0 or following == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            writer.write()  # events that other hooks recorded in their after_train
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """Saves a checkpoint every period (`model_0000099` after 100 iterations), and `model_final` after the last one."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class LRScheduler(HookBase):
    """Records "lr", the learning rate of the largest parameter group, and steps the torch scheduler.

    Optimizer and scheduler are by default the trainer's.
    """

    def __init__(self, optimizer: Optimizer | None = None, scheduler: _TorchScheduler | None = None) -> None:
        self._optimizer: Any = optimizer
        self._scheduler = scheduler

    @property
    def scheduler(self) -> _TorchScheduler:
        """The scheduler that this hook steps."""
        return self._scheduler or self.trainer.scheduler

    def before_train(self) -> None:
        self._optimizer = self._optimizer or self.trainer.optimizer
        self._shown_group = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: Optimizer) -> int:
        """Return the index of the largest group; if all have one parameter, of the first with the commonest rate."""
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in optimizer.param_groups]
        return rates.index(Counter(rates).most_common(1)[0][0])

    def after_step(self) -> None:
        shown = self._optimizer.param_groups[self._shown_group]
        self.trainer.storage.put_scalar("lr", shown["lr"], smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Calls `eval_function` every `eval_period` iterations (0: never) and after the last one.

    All ranks must have this hook. If the function returns a nested dict of numbers, they are recorded as "task/metric".
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], Any], eval_after_train: bool = True) -> None:
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def _evaluate(self) -> None:
        results = self._func()
        if results:
            assert isinstance(results, dict), f"Eval function must return a dict. Got {results} instead."
            self.trainer.storage.put_scalars(**flattened(results, "/"), smoothing_hint=False)
        comm.synchronize()  # faster ranks wait here rather than inside the next iteration

    def after_step(self) -> None:
        following = self.trainer.iter + 1
        if self._period > 0 and following % self._period == 0 and following != self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._evaluate()
        del self._func  # usually a closure over the trainer, which would keep the trainer alive
