"""Stands for `detectron2.engine.hooks`: what a training run does around its iterations."""

from __future__ import annotations

import datetime
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.timer import Timer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as _TorchScheduler

from semask_d2.d2.native import comm
from semask_d2.d2.native.evaluation import flatten_results_dict
from semask_d2.d2.native.events import EventWriter
from semask_d2.d2.native.train_loop import HookBase

_logger = logging.getLogger("detectron2.engine.hooks")


class IterationTimer(HookBase):
    """Puts "time", the seconds of each iteration without the hooks after it, and logs the run's total.

    The first `warmup_iter` iterations do not count.
    """

    def __init__(self, warmup_iter: int = 3) -> None:
        self._warmup_iter = warmup_iter
        self._step_timer = Timer()
        self._total_timer = Timer()
        self._start_time = time.perf_counter()

    def before_train(self) -> None:
        self._restart()
        self._total_timer.pause()

    def before_step(self) -> None:
        self._step_timer.reset()
        self._total_timer.resume()

    def after_step(self) -> None:
        done = self.trainer.storage.iter - self.trainer.start_iter + 1
        if done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step_timer.seconds())
        else:
            self._restart()
        self._total_timer.pause()

    def after_train(self) -> None:
        wall_time = time.perf_counter() - self._start_time
        step_time = self._total_timer.seconds()
        iterations = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter
        if iterations > 0 and step_time > 0:
            _logger.info(
                f"Overall training speed: {iterations} iterations in {datetime.timedelta(seconds=int(step_time))} "
                f"({step_time / iterations:.4f} s / it)"
            )
        _logger.info(
            f"Total training time: {datetime.timedelta(seconds=int(wall_time))} "
            f"({datetime.timedelta(seconds=int(wall_time - step_time))} on hooks)"
        )

    def _restart(self) -> None:
        self._start_time = time.perf_counter()
        self._total_timer.reset()


class PeriodicWriter(HookBase):
    """Lets the writers write every `period` iterations and after the last one, and closes them at the end."""

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
            writer.write()  # what other hooks put in their after_train
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """Saves `model_0000099` after the 100th iteration and so on by the period, and `model_final` after the last."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class LRScheduler(HookBase):
    """Puts "lr", the rate that the iteration used in the largest parameter group, and steps the torch scheduler.

    Optimiser and scheduler are the trainer's where not given.
    """

    def __init__(self, optimizer: Optimizer | None = None, scheduler: _TorchScheduler | None = None) -> None:
        self._optimizer = optimizer
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
        """Return the first largest group; if none has two parameters, the first of the commonest learning rate."""
        groups = optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in groups]
        return rates.index(Counter(rates).most_common(1)[0][0])

    def after_step(self) -> None:
        rate = self._optimizer.param_groups[self._shown_group]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        _logger.info("Loading scheduler from state_dict ...")
        self.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Calls `eval_function` every `eval_period` iterations (0: never) and after the last one, on all ranks.

    It returns nested dicts of numbers, which are put as "task/metric", or nothing. After a failed training it
    is not called.
    """

    def __init__(
        self, eval_period: int, eval_function: Callable[[], Any], eval_after_train: bool = True
    ) -> None:
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def _evaluate(self) -> None:
        results = self._func()
        if results:
            assert isinstance(results, dict), f"Eval function must return a dict. Got {results} instead."
            scalars = flatten_results_dict(results)
            for name, value in scalars.items():
                try:
                    float(value)
                except (TypeError, ValueError) as error:
                    raise ValueError(
                        f"[EvalHook] eval_function should return a nested dict of float. Got '{name}: {value}'."
                    ) from error
            self.trainer.storage.put_scalars(**scalars, smoothing_hint=False)
        comm.synchronize()  # ranks that were faster wait here rather than inside the next iteration

    def after_step(self) -> None:
        following = self.trainer.iter + 1
        if self._period > 0 and following % self._period == 0 and following != self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._evaluate()
        del self._func  # usually a closure over the trainer, which it would keep alive
