"""Replacement for `detectron2.evaluation`: running a model over a dataset, and logging and verifying the results."""

from __future__ import annotations

import datetime
import logging
import pprint
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence, Sized
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from semask_d2.d2.native import comm

_WARMUP_BATCHES = 5
_SECONDS_BETWEEN_LINES = 5


class DatasetEvaluator:
    """Collects a model's outputs batch by batch and computes metrics from them."""

    def reset(self) -> None:
        """Start a new evaluation."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Collect one batch: the model's inputs and outputs."""

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Return {task: {metric: value}}, or None on ranks without results."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators combined into one; their tasks must have different names."""

    def __init__(self, evaluators: list[DatasetEvaluator]) -> None:
        self._evaluators = evaluators

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        results = {}
        for part in [evaluator.evaluate() for evaluator in self._evaluators]:
            if comm.is_main_process() and part is not None:
                assert not results.keys() & part.keys(), f"Different evaluators produce one key: {list(part)}"
                results.update(part)
        return results


class _Batches(Sized, Iterable[list[dict]], Protocol):
    """Type of a data loader: batches with a known number of them."""


def inference_on_dataset(
    model: Callable, data_loader: _Batches, evaluator: DatasetEvaluator | list[DatasetEvaluator] | None
) -> dict[str, Any]:
    """Run `model` on every batch without gradients and return the evaluator's results ({} for None).

    A module is in eval mode during the run. `data_loader` needs a length; the remaining time is logged.
    """
    logger = logging.getLogger("detectron2.evaluation.evaluator")
    total = len(data_loader)
    logger.info("Start inference on %d batches", total)
    if evaluator is None or isinstance(evaluator, MutableSequence):
        evaluator = DatasetEvaluators(evaluator or [])
    evaluator.reset()

    warmup = min(_WARMUP_BATCHES, total - 1)  # the first batches are slow and would spoil the estimate
    start = last_line = time.perf_counter()
    with _eval_mode(model) if isinstance(model, nn.Module) else nullcontext(), torch.no_grad():
        for index, inputs in enumerate(data_loader):
            if index == warmup:
                start = time.perf_counter()
            evaluator.process(inputs, model(inputs))
            now = time.perf_counter()
            if index >= warmup and now - last_line >= _SECONDS_BETWEEN_LINES:
                last_line = now
                per_batch = (now - start) / (index + 1 - warmup)
                eta = datetime.timedelta(seconds=int(per_batch * (total - index - 1)))
                logger.info(f"Inference done {index + 1}/{total}. Total: {per_batch:.4f} s/iter. ETA={eta}")
    seconds = time.perf_counter() - start
    logger.info(
        f"Total inference time: {datetime.timedelta(seconds=int(seconds))} "
        f"({seconds / max(total - warmup, 1):.6f} s / iter per device, on {comm.get_world_size()} devices)"
    )
    results = evaluator.evaluate()
    return {} if results is None else results


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log each task's metrics in two comma-separated lines, without per-class metrics (those with a "-")."""
    logger = logging.getLogger("detectron2.evaluation.testing")
    for task, figures in results.items():
        if not isinstance(figures, Mapping):
            logger.info(f"copypaste: {task}={figures}")
            continue
        main = {name: value for name, value in figures.items() if "-" not in name}
        logger.info(f"copypaste: Task: {task}")
        logger.info("copypaste: " + ",".join(main))
        logger.info("copypaste: " + ",".join(f"{value:.4f}" for value in main.values()))


def verify_results(cfg, results: Mapping[str, Mapping[str, float]]) -> bool:
    """Compare with TEST.EXPECTED_RESULTS, a list of [task, metric, value, tolerance]; exit with code 1 on mismatch."""
    logger = logging.getLogger("detectron2.evaluation.testing")
    for task, metric, expected, tolerance in cfg.TEST.EXPECTED_RESULTS:
        actual = results[task].get(metric, np.nan)
        if not abs(actual - expected) <= tolerance:  # also true of NaN
            logger.error("Result verification failed!\nExpected: %s", cfg.TEST.EXPECTED_RESULTS)
            logger.error("Actual: %s", pprint.pformat(results))
            sys.exit(1)
    return True
