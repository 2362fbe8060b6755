"""Stands for `detectron2.evaluation`: running a model over a data set, and what becomes of the results."""

from __future__ import annotations

import datetime
import logging
import pprint
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sized
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from semask_d2.d2.native import comm

_WARMUP_BATCHES = 5
_SECONDS_BETWEEN_LINES = 5


class DatasetEvaluator:
    """Takes a model's outputs batch by batch, and turns them into figures."""

    def reset(self) -> None:
        """Start a new round."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take one batch: what went into the model and what came out."""

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Return {task: {metric: value}}, or None on ranks that have nothing to say."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one; their tasks must have different names."""

    def __init__(self, evaluators: list[DatasetEvaluator]) -> None:
        self._evaluators = evaluators

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        results = OrderedDict()
        for evaluator in self._evaluators:
            part = evaluator.evaluate()
            if comm.is_main_process() and part is not None:
                for key, value in part.items():
                    assert key not in results, f"Different evaluators produce results with the same key {key}"
                    results[key] = value
        return results


def inference_on_dataset(
    model: Callable[[Any], Any],
    data_loader: Sized,
    evaluator: DatasetEvaluator | list[DatasetEvaluator] | None,
) -> dict[str, Any]:
    """Run `model` on every batch without gradients and return what the evaluator makes of it ({} for None).

    A module is in eval mode meanwhile. `data_loader` needs a length; time left is logged as it goes.
    """
    logger = logging.getLogger("detectron2.evaluation.evaluator")
    total = len(data_loader)
    logger.info("Start inference on %d batches", total)
    if evaluator is None or isinstance(evaluator, MutableSequence):
        evaluator = DatasetEvaluators(evaluator or [])
    evaluator.reset()

    warmup = min(_WARMUP_BATCHES, total - 1)  # the first batches are slow and would spoil the estimate
    start = time.perf_counter()
    compute_time, next_line = 0.0, start + _SECONDS_BETWEEN_LINES
    with _eval_mode(model) if isinstance(model, nn.Module) else nullcontext(), torch.no_grad():
        for index, inputs in enumerate(data_loader):
            if index == warmup:
                start, compute_time = time.perf_counter(), 0.0
            before = time.perf_counter()
            outputs = model(inputs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            compute_time += time.perf_counter() - before
            evaluator.process(inputs, outputs)

            now = time.perf_counter()
            if index >= warmup and now >= next_line:
                next_line = now + _SECONDS_BETWEEN_LINES
                done = index + 1 - warmup
                eta = datetime.timedelta(seconds=int((now - start) / done * (total - index - 1)))
                logger.info(
                    f"Inference done {index + 1}/{total}. Inference: {compute_time / done:.4f} s/iter. "
                    f"Total: {(now - start) / done:.4f} s/iter. ETA={eta}"
                )
    for what, seconds in (("", time.perf_counter() - start), ("pure compute ", compute_time)):
        logger.info(
            f"Total inference {what}time: {datetime.timedelta(seconds=int(seconds))} "
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
    """Log each task's figures in two comma-separated lines, without the per-class ones (a "-" in the name)."""
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
    """Compare with TEST.EXPECTED_RESULTS, a list of [task, metric, value, tolerance]; a miss ends with exit code 1."""
    logger = logging.getLogger("detectron2.evaluation.testing")
    expected_results = cfg.TEST.EXPECTED_RESULTS
    for task, metric, expected, tolerance in expected_results:
        actual = results[task].get(metric, None)
        if actual is None or not np.isfinite(actual) or abs(actual - expected) > tolerance:
            logger.error("Result verification failed!")
            logger.error("Expected Results: %s", expected_results)
            logger.error("Actual Results: %s", pprint.pformat(results))
            sys.exit(1)
    if expected_results:
        logger.info("Results verification passed.")
    return True


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested results as one dict: r["a"]["b"] becomes "a/b"."""
    flat = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{inner}": v for inner, v in flatten_results_dict(value).items()})
        else:
            flat[key] = value
    return flat
