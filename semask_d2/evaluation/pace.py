"""Timing of an evaluation: images per second, and seconds for data loading, the model and scoring."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from torch import nn

from semask_d2.d2 import DatasetEvaluator, comm
from semask_d2.utils.memory import peak_memory

logger = logging.getLogger(__name__)


class TimedModel(nn.Module):
    """Wraps `model` and adds up the seconds of its calls; on a GPU it waits for each call, as scoring would.

    It is a wrapper for the evaluation because a hook on the model would slow down the training afterwards.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.training = model.training
        self.seconds = 0.0

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        start = time.perf_counter()
        outputs = self.model(batched_inputs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - start
        return outputs


class TimedEvaluator(DatasetEvaluator):
    """Wraps `evaluator` and logs images per second of all processes, seconds per image, and peak memory at the end.

    `model` is the model that the evaluation calls. Seconds and memory are those of the main process.
    """

    def __init__(self, evaluator: DatasetEvaluator, model: TimedModel, name: str):
        self.evaluator = evaluator
        self.model = model
        self.name = name
        self.reset()

    def reset(self) -> None:
        self.evaluator.reset()
        self.images = 0
        self.scoring_seconds = self.model.seconds = 0.0
        self.start = time.perf_counter()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        start = time.perf_counter()
        self.evaluator.process(inputs, outputs)
        self.scoring_seconds += time.perf_counter() - start
        self.images += len(inputs)

    def evaluate(self) -> Any:
        seconds = time.perf_counter() - self.start
        results = self.evaluator.evaluate()
        images = sum(comm.all_gather(self.images))
        if self.images:
            waiting = max(0.0, seconds - self.model.seconds - self.scoring_seconds)
            parts = {"data": waiting, "model": self.model.seconds, "scoring": self.scoring_seconds}
            shares = ", ".join(f"{part} {value / self.images:.4f}" for part, value in parts.items())
            logger.info(
                "%s: %.2f images per second (seconds per image: %s), peak memory %.0f MB",
                *(self.name, images / seconds, shares, peak_memory() / 2**20),
            )
        return results
