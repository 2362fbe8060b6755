#!/usr/bin/env python3
"""Benchmark of scaling: seconds and peak memory by the number of images in a folder, for all that reads folders.

    python benchmarks/folder_growth.py [--images 100 1000 10000 100000] [--steps listing check ...] [--classes 150]
                                       [--workers 2] [--repeats N] [--json FILE]

The images are tiny and the model is a stub that always predicts the same labels, so that only what grows with their
number counts. Each step runs in a separate process. Peak memory is that of this process, without its data-loading
processes and without the imports; the last columns are microseconds and bytes for each image beyond those of the first
row. `report` reads the evaluation that `evaluation` wrote, so they run in this order.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import cv2
import numpy as np
import torch
from timing import Cost, keep, machine, parser, time_of
from torch import nn

from semask_d2 import get_cfg
from semask_d2.d2 import CfgNode
from semask_d2.data import get_dataset_dicts, register_custom
from semask_d2.data.checking import check_data
from semask_d2.data.serialized import SerializedDicts
from semask_d2.engine import Trainer
from semask_d2.engine.run_folder import write_config
from semask_d2.inference.drawing import DrawingJob
from semask_d2.inference.predictor import Predictor
from semask_d2.modeling.meta_arch.segmenter import Segmentation, Segmenter
from semask_d2.report import write_report
from semask_d2.utils.memory import peak_memory

Result = TypeVar("Result")

SIDE = 16
SHOWN = 8  # classes in each label map
WHOLE, SPLIT = "whole.yaml", "split.yaml"  # all images in both splits, or a fifth for validation


class Stub(Segmenter):
    """A model that predicts class 0 everywhere."""

    prior_strides: ClassVar[dict[str, int]] = {}  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def lazy_predictions(self, batched_inputs: list[dict], *, priors: bool = False) -> Iterator[Any]:
        raise NotImplementedError("the stub predicts only labels")

    def predict(
        self, batched_inputs: list[dict], *, scores: bool = False, priors: bool = False, segments: bool = False
    ) -> list[Segmentation]:
        """Return class 0 for all pixels."""
        return [Segmentation(torch.zeros(x["height"], x["width"], dtype=torch.int64)) for x in batched_inputs]


def make_images(folder: Path, count: int, classes: int, size: tuple[int, int] = (SIDE, SIDE)) -> None:
    """Write `count` images of noise with label maps of `SHOWN` classes, and two dataset files: `SPLIT` for a check."""
    numbers = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for index in range(count):
        image = numbers.integers(0, 256, (*size, 3), np.uint8)
        labels = (numbers.integers(0, SHOWN, size) + numbers.integers(classes)) % classes
        for kind, pixels in (("images", image), ("labels", labels.astype(np.uint8))):
            content = cv2.imencode(".png", pixels)[1]
            (folder / kind / f"frame_{index:06d}.png").write_bytes(content.tobytes())
    names = ", ".join(f"class {number}" for number in range(classes))
    pairs = "{images: images, labels: labels}"
    (folder / WHOLE).write_text(f"train: {pairs}\nval: {pairs}\nnames: [{names}]")
    (folder / SPLIT).write_text(f"train: {pairs}\nval: 0.2\nnames: [{names}]")


def listing(cfg: CfgNode, workers: int) -> None:
    """List the training images, and keep them as a loader does."""
    SerializedDicts(get_dataset_dicts(cfg.DATASETS.TRAIN[0]))


def check(cfg: CfgNode, workers: int) -> None:
    """Check all images and label maps, a fifth of them for validation."""
    dataset = register_custom(get_cfg(data=str(Path(cfg.DATASETS.CUSTOM.ROOT, SPLIT))))
    assert dataset is not None
    check_data(dataset, workers=workers)


def evaluation(cfg: CfgNode, workers: int) -> None:
    """Evaluate the stub, and write the result files."""
    Trainer.test(cfg, Stub())


def report(cfg: CfgNode, workers: int) -> None:
    """Write the page about the evaluation, without pictures."""
    write_config(cfg)
    write_report(cfg.OUTPUT_DIR, images=0)


def inputs(cfg: CfgNode, workers: int) -> DrawingJob:
    """Find all images as `semask predict` does, and name their results."""
    images = Path(cfg.DATASETS.CUSTOM.ROOT, "images")
    return DrawingJob([str(images)], output=str(Path(cfg.OUTPUT_DIR, "pictures")))


def prediction(cfg: CfgNode, workers: int) -> None:
    """Draw the stub's prediction for each image."""
    inputs(cfg, workers).run(Predictor.of_model(cfg, Stub()))


STEPS: dict[str, Callable[[CfgNode, int], object]] = {
    "listing": listing,
    "check": check,
    "evaluation": evaluation,
    "report": report,
    "inputs": inputs,
    "prediction": prediction,
}


def settings(folder: Path, workers: int, config_file: str = "toy_scenes/semask_swin_mini_m2f.yaml") -> CfgNode:
    """Return the config of the dataset in `folder`, whose results go there too, and register it."""
    options = ["DATALOADER.NUM_WORKERS", str(workers), "OUTPUT_DIR", str(folder / "run"), "MODEL.DEVICE", "cpu"]
    cfg = get_cfg(config_file, options, data=str(folder / WHOLE))
    register_custom(cfg)
    return cfg


def in_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a separate process, a fork of this one where there are any, and return its result."""
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        return pool.submit(function, *arguments).result()


def measure(step: str, folder: Path, workers: int) -> tuple[float, float]:
    """Run a step in this process, and return its seconds and the peak MB beyond the memory before it."""
    logging.disable()
    for stream in (1, 2):  # `semask predict` prints a line for each image
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    cfg = settings(folder, workers)
    before = peak_memory()
    seconds = time_of(partial(STEPS[step], cfg, workers))
    return seconds, (peak_memory() - before) / 1e6


def cost(step: str, folder: Path, arguments: argparse.Namespace) -> Cost:
    """Measure a step in separate processes."""
    runs = []
    for _ in range(arguments.repeats):
        runs.append(in_process(measure, step, folder, arguments.workers))
    seconds, peaks = zip(*runs, strict=True)
    return Cost(list(seconds), statistics.median(peaks))


def main() -> None:
    command_line = parser(__doc__)
    command_line.add_argument("--images", type=int, nargs="+", default=[100, 1_000, 10_000, 100_000], metavar="N")
    text = "default: all but prediction, which takes minutes for thousands of images"
    command_line.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS)[:-1], help=text)
    command_line.add_argument("--classes", type=int, default=150)
    command_line.add_argument("--workers", type=int, default=2, help="data-loading processes")
    command_line.set_defaults(repeats=1)
    arguments = command_line.parse_args()
    costs: dict[str, dict[int, Cost]] = {step: {} for step in arguments.steps}
    print(f"growth by images in a folder, {arguments.classes} classes ({machine()})\n")
    print("| step | images | seconds | peak MB | microseconds per further image | bytes per further image |")
    print("|---|---|---|---|---|---|")
    for count in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            make_images(Path(folder), count, arguments.classes)
            for step in arguments.steps:
                at = costs[step][count] = cost(step, Path(folder), arguments)
                least, base = next(iter(costs[step].items()))
                further = count - least
                growth = " | |"
                if further:
                    each = (at.median - base.median) / further, (at.peak - base.peak) / further
                    growth = f" {1e6 * each[0]:.0f} | {1e6 * each[1]:.0f} |"
                print(f"| {step} | {count} | {at.median:.2f} | {at.peak:.0f} |{growth}", flush=True)
    for step, points in costs.items():
        figures = {count: at._asdict() for count, at in points.items()}
        keep(f"growth of {step} by images in a folder", {"machine": machine(), "costs": figures}, arguments.json)


if __name__ == "__main__":
    main()
