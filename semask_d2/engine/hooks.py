"""What our training runs do around their iterations, beside Detectron2's own hooks."""

from __future__ import annotations

import datetime
import logging
import math
import os

import torch

from semask_d2.checkpoint import read_checkpoint
from semask_d2.checkpoint.checkpointer import Checkpointer
from semask_d2.d2 import EventWriter, HookBase, get_event_storage

logger = logging.getLogger(__name__)

BEST_NAME = "model_best"


class BestCheckpoint(HookBase):
    """Keeps the model of the best evaluation so far as `model_best.pth`; it stands after the evaluation hook.

    The best value so far is read from that file, so a resumed run cannot overwrite a better model.
    """

    def __init__(self, checkpointer: Checkpointer, metric: str):
        self.checkpointer = checkpointer
        self.metric = metric
        self.seen_iteration = -1
        self.best = -math.inf

    def before_train(self) -> None:
        path = os.path.join(self.checkpointer.save_dir, f"{BEST_NAME}.pth")
        if self.trainer.start_iter > 0 and os.path.isfile(path):
            self.best = read_checkpoint(path)["best"]
            logger.info("Best %s so far: %.4f", self.metric, self.best)

    def after_step(self) -> None:
        value, iteration = self.trainer.storage.latest().get(self.metric, (math.nan, -1))
        if iteration == self.seen_iteration:
            return
        self.seen_iteration = iteration
        if value > self.best:
            self.best = value
            logger.info("Best %s so far: %.4f", self.metric, value)
            self.checkpointer.write(BEST_NAME, best=value, metric=self.metric, iteration=self.trainer.iter)

    after_train = after_step


class ProgressLine(EventWriter):
    """Logs a line: iteration, time left, the last layer's losses, seconds, learning rate and peak memory.

    Memory is the GPU's largest allocation, or on a CPU the process's largest resident size.
    """

    def __init__(self, max_iter: int, window: int = 20):
        self.max_iter = max_iter
        self.window = window

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter >= self.max_iter:
            return  # the call after the end of training, whose last line is out
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
        parts.append(f"memory {peak_memory() / 2**20:.0f} MB")
        logger.info("  ".join(parts))


def peak_memory() -> int:
    """The largest memory so far, in bytes: allocated on the GPU if there is one, else resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource  # not on Windows, which has no use for it without a GPU either

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
