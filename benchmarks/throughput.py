#!/usr/bin/env python3
"""Benchmark of evaluation on a CPU: images per second of one process of all threads, and of forks of one thread.

    python benchmarks/throughput.py [--config-file FILE] [--size 360 480] [--images 128] [--repeats N] [--json FILE]

The images are noise and the weights random. Each run takes place in a separate process; the variants take turns.
"""

from __future__ import annotations

import logging
import re
import tempfile
from pathlib import Path

import torch
from folder_growth import in_process, make_images, settings
from timing import parser, show

from semask_d2.engine import Trainer
from semask_d2.evaluation import pace

WORKERS = {"one process": 0, "forks": 1}  # DATALOADER.NUM_WORKERS


class Pace(logging.Handler):
    """Keeps the images per second that an evaluation logs."""

    images_per_second = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Read a message."""
        if found := re.search(r"([0-9.]+) images per second", record.getMessage()):
            self.images_per_second = float(found[1])


def seconds_per_image(way: str, folder: Path, config_file: str) -> float:
    """Evaluate a random model in one way, and return the seconds per image."""
    cfg = settings(folder, WORKERS[way], config_file)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    handler = Pace()
    pace.logger.addHandler(handler)
    pace.logger.setLevel(logging.INFO)
    Trainer.test(cfg, model)
    return 1 / handler.images_per_second


def main() -> None:
    command_line = parser(__doc__)
    command_line.add_argument("--config-file", default="camvid/semask_timm_lite0_m2f.yaml")
    command_line.add_argument("--size", type=int, nargs=2, default=[360, 480], metavar=("H", "W"))
    command_line.add_argument("--images", type=int, default=128)
    command_line.set_defaults(repeats=3)
    arguments = command_line.parse_args()
    seconds: dict[str, list[float]] = {way: [] for way in WORKERS}
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), arguments.images, 11, tuple(arguments.size))
        for _ in range(arguments.repeats):
            for way, values in seconds.items():
                values.append(in_process(seconds_per_image, way, Path(folder), arguments.config_file))
    height, width = arguments.size
    show(f"an image of an evaluation, {arguments.config_file}, {height} x {width}", seconds, arguments)


if __name__ == "__main__":
    main()
