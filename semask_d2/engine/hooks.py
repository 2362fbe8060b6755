"""Hooks of our training runs, in addition to Detectron2's."""

from __future__ import annotations

import datetime
import logging
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from semask_d2.checkpoint import Checkpointer, read_checkpoint
from semask_d2.d2 import EventWriter, HookBase, comm, get_event_storage, hooks
from semask_d2.engine.averaging import WeightAverage
from semask_d2.engine.optimizer import load_scheduler_state
from semask_d2.engine.step import TrainingStep
from semask_d2.engine.stopping import Stopped
from semask_d2.evaluation.results import AVERAGED
from semask_d2.utils.foreign import Section, entries, integer, number, shown, text
from semask_d2.utils.memory import peak_memory
from semask_d2.utils.nested import flattened
from semask_d2.utils.runs import FINAL_NAME, is_scalar, read_metrics

logger = logging.getLogger(__name__)

BEST_NAME = "model_best"


class LRScheduler(hooks.LRScheduler):  # the same name, since Detectron2's trainers save its state under it
    """Detectron2's hook that steps the schedule; a resumed run takes its rates from the new config."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        load_scheduler_state(self.scheduler, state_dict)


class SmoothingWindow(HookBase):
    """Saves the latest values of each scalar in checkpoints, so that medians continue in a resumed run.

    If a finished run lacks its last line in `metrics_file`, the values are recorded again on resume. The hook comes
    before the one that writes checkpoints, on all processes. Timings are not saved, since they depend on the machine.
    """

    def __init__(self, metrics_file: str, size: int = 20):
        self.metrics_file = metrics_file
        self.size = size
        self.saved: dict[str, dict[str, Any]] = {}

    def before_train(self) -> None:
        done = self.trainer.start_iter
        if done >= self.trainer.max_iter and done - 1 in recorded(self.metrics_file):
            return
        for name, scalar in self.saved.items():
            for value, iteration in scalar["values"]:
                self.trainer.storage.put_scalar(name, value, smoothing_hint=scalar["smooth"], cur_iter=iteration)

    def state_dict(self) -> dict[str, Any]:
        storage, iteration = self.trainer.storage, self.trainer.iter
        hints = storage.smoothing_hints()
        return {
            name: {"smooth": hints[name], "values": [list(pair) for pair in history.values()[-self.size :]]}
            for name, history in storage.histories().items()
            if storage.latest()[name][1] == iteration and not name.endswith(("time", "seconds"))
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, content in Section.of(state_dict, "the checkpoint's latest values of scalars").values.items():
            source = f"the checkpoint's latest values of {shown(name)}"
            scalar = Section.of(content, source)
            values = [entries(pair, source, 2) for pair in scalar.entries("values")]
            self.saved[text(name, source)] = {
                "smooth": scalar.flag("smooth"),
                "values": [(number(value, source), integer(at, source, low=0)) for value, at in values[-self.size :]],
            }


class PeriodicCheckpoint(HookBase):
    """Saves `model_0000099` after the 100th iteration (period 100) and so on, and `model_final` after the last.

    Only the `kept` newest numbered checkpoints are kept; 0 keeps all. If a finished run lacks `model_final`, resuming
    it writes the file.
    """

    def __init__(self, checkpointer: Checkpointer, period: int, kept: int):
        self.checkpointer = checkpointer
        self.period = period
        self.kept = kept

    def before_train(self) -> None:
        done = self.trainer.start_iter
        if done >= self.trainer.max_iter and not Path(self.checkpointer.save_dir, FINAL_NAME).exists():
            self.trainer.iter = done - 1  # the checkpoint records it
            self.checkpointer.save("model_final", iteration=done - 1)

    def after_step(self) -> None:
        iteration = self.trainer.iter
        if (iteration + 1) % self.period == 0:
            self.save(iteration)
        if iteration + 1 >= self.trainer.max_iter:
            self.checkpointer.save("model_final", iteration=iteration)

    def save(self, iteration: int) -> str:
        """Save the numbered checkpoint of an iteration, and return its name."""
        name = f"model_{iteration:07d}"
        self.checkpointer.save(name, iteration=iteration)
        self.checkpointer.remove_all_but(self.kept)
        return name


class StopOnSignal(HookBase):
    """Ends a run after a step in which a process got a stop signal, with a checkpoint and advice on how to resume.

    It comes last, on all processes; `checkpoints` is None except on the main process.
    """

    def __init__(self, step: TrainingStep, checkpoints: PeriodicCheckpoint | None):
        self.step = step
        self.checkpoints = checkpoints

    def after_step(self) -> None:
        if not self.step.must_stop or self.trainer.iter + 1 >= self.trainer.max_iter:
            return
        number = self.step.stop_request.signal or signal.SIGTERM
        message = ""
        if self.checkpoints is not None:
            name = self.checkpoints.save(self.trainer.iter)
            message = (
                f"stopped by {signal.Signals(number).name} after iteration {self.trainer.iter + 1} of "
                f"{self.trainer.max_iter}; {name}.pth is written: to continue, repeat the command with --resume "
                "before its KEY VALUE settings"
            )
        stopped = Stopped(message)
        stopped.exit_code = 128 + number
        raise stopped


class EvaluateUnevaluated(HookBase):
    """Evaluates at the start of a resumed run if its checkpoint was due for evaluation and has no result.

    This way a kill between checkpoint and evaluation cannot lose the best model. The main process's `metrics_file`
    decides.
    """

    def __init__(self, period: int, evaluate: Callable[[], dict], metrics_file: str, metric: str):
        self.period = period
        self.evaluate = evaluate
        self.metrics_file = metrics_file
        self.metric = metric

    def before_train(self) -> None:
        done = self.trainer.start_iter
        due = self.period > 0 and done > 0 and done % self.period == 0 and done < self.trainer.max_iter
        if not due or not comm.all_gather(self.is_missing(done - 1))[0]:
            return
        logger.info("The evaluation after iteration %d has no result: running it now", done)
        results = self.evaluate()
        if results:
            self.trainer.storage.iter = done - 1
            self.trainer.storage.put_scalars(**flattened(results, "/"), smoothing_hint=False)

    def is_missing(self, iteration: int) -> bool:
        """Return whether the metrics file lacks a result of the iteration."""
        records = recorded(self.metrics_file)  # a training's last evaluation is recorded one iteration later
        return all(self.metric not in records.get(at, {}) for at in (iteration, iteration + 1))


def recorded(metrics_file: str) -> dict[int, dict[str, float]]:
    """Return the scalars of a run's metrics file by iteration; {} if there is no such file."""
    return read_metrics(metrics_file) if os.path.lexists(metrics_file) else {}


class BestCheckpoint(HookBase):
    """Saves the weights of the best evaluation so far as `model_best.pth`; it comes after the evaluation hooks.

    The best value so far is read from that file, so that a resumed run cannot overwrite a better model. If there is an
    `average` of the weights, the better of the two is saved; the file's `metric` tells which one.
    """

    def __init__(self, checkpointer: Checkpointer, metric: str, average: WeightAverage | None = None):
        self.checkpointer = checkpointer
        self.metric = metric
        self.average = average
        self.seen_iteration = -1
        self.best = -math.inf

    def before_train(self) -> None:
        path = Path(self.checkpointer.save_dir, f"{BEST_NAME}.pth")
        if self.trainer.start_iter > 0 and path.is_file():
            best = read_checkpoint(path).get("best")
            if is_scalar(best) and not math.isnan(best):
                self.best = float(best)
                logger.info("Best %s so far: %.2f", self.metric, self.best)
            else:
                aside = unused_path(path.with_name(f"{BEST_NAME}_of_unknown_value.pth"))
                path.rename(aside)
                logger.warning("%s does not say how good it is: moved to %s", path, aside.name)
        self.after_step()  # an evaluation at a resumed run's start

    def after_step(self) -> None:
        value, iteration = self.trainer.storage.latest().get(self.metric, (math.nan, -1))
        if iteration == self.seen_iteration:
            return
        self.seen_iteration = iteration
        self.keep_if_better(self.checkpointer.model, self.metric, value, iteration)
        if self.average is not None and self.average.model is not None:
            metric = f"{AVERAGED}/{self.metric}"
            value, iteration = self.trainer.storage.latest().get(metric, (math.nan, -1))
            self.keep_if_better(self.average.model, metric, value, iteration)

    def keep_if_better(self, model: nn.Module, metric: str, value: float, iteration: int) -> None:
        """Write `model` if `value` is above the best so far."""
        if value > self.best:
            self.best = value
            logger.info("Best %s so far: %.2f", metric, value)
            iteration = min(iteration, self.trainer.max_iter - 1)  # the last evaluation is recorded one iteration later
            self.checkpointer.write(
                BEST_NAME, model=model, weights_only=True, best=value, metric=metric, iteration=iteration
            )

    after_train = after_step


def unused_path(path: Path) -> Path:
    """Return `path`, or, if it exists, the first numbered variant of it that does not."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_stem(f"{path.stem}_{number}"), number + 1
    return candidate


class ProgressLine(EventWriter):
    """Logs a progress line: iteration, time left, losses of the last layer, seconds, learning rate and peak memory.

    Memory is the largest allocation on a GPU, or the largest resident size of the process on a CPU.
    """

    def __init__(self, max_iter: int, window: int = 20):
        self.max_iter = max_iter
        self.window = window

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter >= self.max_iter:
            return  # called once more after training, when the last line is already logged
        histories = storage.histories()

        def recent(name: str) -> float:
            return histories[name].median(self.window)

        parts = [f"iter {storage.iter + 1}/{self.max_iter}"]
        if "time" in histories:
            seconds = recent("time") * (self.max_iter - storage.iter - 1)
            parts.append(f"eta {datetime.timedelta(seconds=int(seconds))}")
        shown = [name for name in histories if "loss" in name and not name.rsplit("_", 1)[-1].isdigit()]
        parts += [f"{name} {recent(name):.4g}" for name in shown]
        parts += [f"{name} {recent(name):.3f} s" for name in ("time", "data_time") if name in histories]
        if "lr" in histories:
            parts.append(f"lr {histories['lr'].latest():.3g}")
        if memory := peak_memory():
            parts.append(f"memory {memory / 2**20:.0f} MB")
        logger.info("  ".join(parts))
