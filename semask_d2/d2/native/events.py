"""Stands for `detectron2.utils.events`: the scalars of a training run, and the writers that put them out."""

from __future__ import annotations

import datetime
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch
from fvcore.common.history_buffer import HistoryBuffer
from torch import Tensor

from semask_d2.d2.native.env import PathManager

_open_storages: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """Return the innermost storage whose `with` block is running."""
    assert _open_storages, "get_event_storage() has to be called inside a 'with EventStorage(...)' context!"
    return _open_storages[-1]


class EventStorage:
    """The scalars (and images) of a run with the iteration they belong to; `with storage:` makes it the current one."""

    def __init__(self, start_iter: int = 0) -> None:
        self.iter = start_iter
        self._histories: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._prefix = ""
        self.images: list[tuple[str, Tensor | np.ndarray, int]] = []

    def put_scalar(
        self, name: str, value: float, smoothing_hint: bool = True, cur_iter: int | None = None
    ) -> None:
        """Record a number; a writer shows the median of recent ones if `smoothing_hint`, else the latest."""
        name = self._prefix + name
        value = float(value)
        iteration = self.iter if cur_iter is None else cur_iter
        self._histories[name].update(value, iteration)
        self._latest[name] = (value, iteration)
        known_hint = self._smoothing_hints.setdefault(name, smoothing_hint)
        assert known_hint == smoothing_hint, f"Scalar {name} was put with a different smoothing_hint!"

    def put_scalars(
        self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: float
    ) -> None:
        """Record several numbers by keyword."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: Tensor | np.ndarray) -> None:
        """Hand an RGB image (3, H, W), uint8 or float in 0..1, to tensorboard."""
        self.images.append((img_name, img_tensor, self.iter))

    def clear_images(self) -> None:
        """Forget the images; their writer calls it."""
        self.images = []

    def history(self, name: str) -> HistoryBuffer:
        """Return all values of a scalar; KeyError if it was never put."""
        if name not in self._histories:
            raise KeyError(f"No history metric available for {name}!")
        return self._histories[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """Return the histories of all scalars."""
        return self._histories

    def latest(self) -> dict[str, tuple[float, int]]:
        """Return each scalar's last value and its iteration."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Return `latest`, but the median over the last `window_size` iterations where smoothing is hinted."""
        return {
            name: (self._median(name, window_size) if self._smoothing_hints[name] else value, iteration)
            for name, (value, iteration) in self._latest.items()
        }

    def _median(self, name: str, window_size: int) -> float:
        return self._histories[name].median(self.count_samples(name, window_size))

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """Return how many of a scalar's last values lie within `window_size` iterations of its newest."""
        values = self._histories[name].values()
        newest = values[-1][1]
        count = 0
        for _, iteration in reversed(values):
            if iteration <= newest - window_size:
                break
            count += 1
        return count

    def smoothing_hints(self) -> dict[str, bool]:
        """Return each scalar's hint."""
        return self._smoothing_hints

    def step(self) -> None:
        """Go to the next iteration; a trainer sets `iter` instead."""
        self.iter += 1

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Put `name/` before the names recorded inside the block."""
        outer, self._prefix = self._prefix, name.rstrip("/") + "/"
        yield
        self._prefix = outer

    def __enter__(self) -> EventStorage:
        _open_storages.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        assert _open_storages.pop() is self


class EventWriter:
    """Something that takes the new events from the current storage and puts them out."""

    def write(self) -> None:
        """Put out what is new."""
        raise NotImplementedError

    def close(self) -> None:
        """Release files; nothing is written afterwards."""


class JSONWriter(EventWriter):
    """Appends to a file one JSON object per iteration that has new scalars, with its number as "iteration"."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        self._file = PathManager.open(json_file, "a")
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        by_iteration: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in (
            get_event_storage().latest_with_smoothing_hint(self._window_size).items()
        ):
            if iteration > self._last_write:
                by_iteration[iteration][name] = value
        self._last_write = max(by_iteration, default=self._last_write)
        for iteration, scalars in by_iteration.items():
            self._file.write(json.dumps({**scalars, "iteration": iteration}, sort_keys=True) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars and images to a tensorboard folder, made at the first write."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs) -> None:
        self._window_size = window_size
        self._arguments = {"log_dir": log_dir, **kwargs}
        self._last_write = -1

    @cached_property
    def _writer(self):
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and rank 0 alone needs it

        return SummaryWriter(**self._arguments)

    def write(self) -> None:
        storage = get_event_storage()
        newest = self._last_write
        for name, (value, iteration) in storage.latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                self._writer.add_scalar(name, value, iteration)
                newest = max(newest, iteration)
        self._last_write = newest
        for name, image, iteration in storage.images:
            self._writer.add_image(name, image, iteration)
        storage.clear_images()

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line: time left, iteration, losses, time per iteration and for data, learning rate, GPU memory."""

    def __init__(self, max_iter: int, window_size: int = 20) -> None:
        self._logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # called once more after the last iteration, whose line is out already
        histories = storage.histories()
        window = {name: storage.count_samples(name, self._window_size) for name in histories}
        parts = [f"iter: {storage.iter}"]
        for mark in ("loss", "[metric]"):
            parts += [
                f"{name}: {h.median(window[name]):.4g}" for name, h in histories.items() if mark in name
            ]
        if "time" in histories:
            times = histories["time"]
            seconds_left = times.median(1000) * (self._max_iter - storage.iter - 1)
            storage.put_scalar("eta_seconds", seconds_left, smoothing_hint=False)
            parts.insert(0, f"eta: {datetime.timedelta(seconds=int(seconds_left))}")
            parts += [f"time: {times.global_avg():.4f}", f"last_time: {times.latest():.4f}"]
        if "data_time" in histories:
            data_times = histories["data_time"]
            parts += [
                f"data_time: {data_times.avg(window['data_time']):.4f}",
                f"last_data_time: {data_times.latest():.4f}",
            ]
        parts.append(f"lr: {histories['lr'].latest():.5g}" if "lr" in histories else "lr: N/A")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self._logger.info(" " + "  ".join(parts))
