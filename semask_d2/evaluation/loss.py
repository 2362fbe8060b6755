"""The training loss on a validation dataset."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import torch

from semask_d2.d2 import comm
from semask_d2.modeling.meta_arch import Execution, SemanticSegmenter


@torch.no_grad()
def mean_loss(model: SemanticSegmenter, batches: Iterable[list[dict]], execution: Execution) -> float:
    """Return the mean over images of the sum of a model's weighted losses in evaluation mode, on all processes.

    `batches` hold images with `sem_seg` labels. Each image goes through the model alone, and the points that a loss
    samples depend only on its file name, so that the value does not depend on batches, processes or workers.
    """
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    try:
        with torch.random.fork_rng():
            for inputs in (inputs for batch in batches for inputs in batch):
                torch.manual_seed(zlib.crc32(os.fsencode(Path(inputs["file_name"]).name)))
                with execution.autocast(model):
                    losses = model.losses([inputs])
                total += float(sum(losses.values()))
                count += 1
    finally:
        model.train(was_training)
    totals, counts = zip(*comm.all_gather((total, count)), strict=True)
    return sum(totals) / sum(counts) if sum(counts) else float("nan")
