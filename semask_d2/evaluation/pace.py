"""Timing of an evaluation: images per second, and seconds for data loading, the model and scoring."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from torch import nn

from semask_d2.d2 import DatasetEvaluator, comm
from semask_d2.evaluation.processes import OUTCOME
from semask_d2.utils.memory import peak_memory

logger = logging.getLogger(__name__)


class TimedModel(nn.Module):
    """Wraps `model` and adds up the seconds of its calls; on a GPU it waits for each call, as scoring would.

    For inputs that other processes have predicted, it returns their outputs, and adds up their seconds for the model
    and for `reading` the images.

    It is a wrapper for the evaluation because a hook on the model would slow down the training afterwards.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.training = model.training
        self.reset()

    def reset(self) -> None:
        """Discard the seconds."""
        self.seconds = self.reading = 0.0

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        outcomes = [x.pop(OUTCOME) for x in batched_inputs if OUTCOME in x]
        if outcomes:
            self.seconds += sum(outcome.seconds for outcome in outcomes)
            self.reading += sum(outcome.reading for outcome in outcomes)
            return [outcome.output for outcome in outcomes]
        start = time.perf_counter()
        outputs = self.model(batched_inputs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - start
        return outputs


class TimedEvaluator(DatasetEvaluator):
    """Wraps `evaluator` and logs images per second of all processes, seconds per image, and peak memory at the end.

    `model` is the model that the evaluation calls. Seconds per image are those of the main process and of the processes
    that predict for it; memory is that of the main process.
    """

    def __init__(self, evaluator: DatasetEvaluator, model: TimedModel, name: str):
        self.evaluator = evaluator
        self.model = model
        self.name = name
        self.reset()

    def reset(self) -> None:
        self.evaluator.reset()
        self.images, self.scoring_seconds = 0, 0.0
        self.model.reset()
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
            reading = self.model.reading or max(0.0, seconds - self.model.seconds - self.scoring_seconds)
            parts = {"data": reading, "model": self.model.seconds, "scoring": self.scoring_seconds}
            shares = ", ".join(f"{part} {value / self.images:.4f}" for part, value in parts.items())
            logger.info(
                "%s: %d images in %.1f s, %.2f images per second (seconds per image: %s), peak memory %.0f MB",
                *(self.name, images, seconds, images / seconds, shares, peak_memory() / 2**20),
            )
        return results
