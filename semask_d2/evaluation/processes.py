"""Evaluation on a CPU in which several processes predict, and the main process scores."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import Dataset

from semask_d2.data.forks import forked
from semask_d2.data.loader import Batches
from semask_d2.utils.errors import UserError
from semask_d2.utils.memory import out_of_memory

OUTCOME = "semask_d2.outcome"  # the key of an `Outcome` in a sample


class Outcome(NamedTuple):
    """The output of a model for one image, and the seconds of reading the image and of the model."""

    output: Any
    reading: float
    seconds: float


def with_predictions(batches: Any, model: nn.Module) -> Any:
    """Return `batches` of one image with an `Outcome` from several processes in each, where that is faster.

    Otherwise they are returned unchanged: without data-loading processes (DATALOADER.NUM_WORKERS 0), in the cases of
    `forked`, and for loaders of users.
    """
    if not isinstance(batches, Batches) or not batches.loader.num_workers:
        return batches
    dataset: Any = batches.loader.dataset
    training = model.training
    model.eval()
    try:
        loader = forked(model, partial(predict, dataset, model), range(len(dataset)))
    finally:
        model.train(training)
    return batches if loader is None else batches.of(loader)


def predict(dataset: Dataset, model: nn.Module, index: int) -> dict[str, Any] | UserError:
    """Return a sample of the dataset with its `Outcome`, or the error of reading or predicting it."""
    start = time.perf_counter()
    sample = dataset[index]
    if isinstance(sample, UserError):
        return sample
    read = time.perf_counter()
    try:
        with torch.inference_mode():
            (output,) = model([sample])
    except UserError as error:
        return error
    except Exception as error:
        if not out_of_memory(error):
            raise
        return UserError(
            f"{sample.get('file_name')}: out of memory in one of several processes: evaluate in one process with "
            "DATALOADER.NUM_WORKERS 0, or lower INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST"
        )
    return {**sample, OUTCOME: Outcome(output, read - start, time.perf_counter() - read)}
