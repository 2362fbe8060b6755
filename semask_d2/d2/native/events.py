"""Replacement for `detectron2.utils.events`: the scalars and images of a training run, and their writers."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from functools import cached_property
from typing import IO, cast

from fvcore.common.history_buffer import HistoryBuffer
from torch import Tensor

from semask_d2.d2.native.env import PathManager

_open_storages: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """Return the innermost storage whose `with` block is running."""
    assert _open_storages, "get_event_storage() has to be called inside a 'with EventStorage(...)' context!"
    return _open_storages[-1]


class EventStorage:
    """The scalars of a run by iteration; `with storage:` makes it the current storage."""

    def __init__(self, start_iter: int = 0) -> None:
        self.iter = start_iter
        self._histories: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._vis_data: list[tuple[str, Tensor, int]] = []  # third-party writers read the images under this name

    def put_image(self, img_name: str, img_tensor: Tensor) -> None:
        """Store an image (C, H, W), uint8 or floats in [0, 1], until a writer writes it and clears the storage."""
        self._vis_data.append((img_name, img_tensor, self.iter))

    def clear_images(self) -> None:
        """Drop the stored images after they are written."""
        self._vis_data = []

    def put_scalar(self, name: str, value: float, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Record a number; writers show the median of recent values if `smoothing_hint`, else the latest."""
        self._latest[name] = float(value), self.iter if cur_iter is None else cur_iter
        self._histories[name].update(*self._latest[name])
        known_hint = self._smoothing_hints.setdefault(name, smoothing_hint)
        assert known_hint == smoothing_hint, f"Scalar {name} was put with a different smoothing_hint!"

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: float) -> None:
        """Record several numbers, passed as keyword arguments."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def history(self, name: str) -> HistoryBuffer:
        """Return all values of a scalar; raises KeyError if none was recorded."""
        if name not in self._histories:
            raise KeyError(f"No history metric available for {name}!")
        return self._histories[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """Return all values of all scalars."""
        return self._histories

    def latest(self) -> dict[str, tuple[float, int]]:
        """Return the last value of each scalar, with its iteration."""
        return self._latest

    def smoothing_hints(self) -> dict[str, bool]:
        """Return, for each scalar, whether writers show its median."""
        return self._smoothing_hints

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Return `latest`, with medians over the last `window_size` iterations for scalars that are smoothed."""
        smoothed = dict(self._latest)
        for name, (_, iteration) in self._latest.items():
            if self._smoothing_hints[name]:
                median = self._histories[name].median(self.count_samples(name, window_size))
                smoothed[name] = (median, iteration)
        return smoothed

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """Return how many of a scalar's last values lie within `window_size` iterations of its newest."""
        values = self._histories[name].values()
        oldest = values[-1][1] - window_size
        outside = (index for index, (_, iteration) in enumerate(reversed(values)) if iteration <= oldest)
        return next(outside, len(values))

    def __enter__(self) -> EventStorage:
        _open_storages.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        assert _open_storages.pop() is self


class EventWriter:
    """Base class of writers, which write new events of the current storage."""

    def write(self) -> None:
        """Write the new events."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the files; nothing is written afterwards."""


class _ScalarWriter(EventWriter):
    """Base class of writers that write the scalars recorded since their last write."""

    def __init__(self, window_size: int) -> None:
        self._window_size = window_size
        self._last_write = -1

    def _new_scalars(self) -> dict[int, dict[str, float]]:
        """Return {iteration: {name: value}}."""
        new = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                new[iteration][name] = value
        self._last_write = max(new, default=self._last_write)
        return new


class JSONWriter(_ScalarWriter):
    """Appends one line of JSON per iteration with new scalars to a file; the key "iteration" holds its number."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        super().__init__(window_size)
        self._file = cast(IO[str], PathManager.open(json_file, "a"))

    def write(self) -> None:
        for iteration, scalars in self._new_scalars().items():
            self._file.write(json.dumps({**scalars, "iteration": iteration}, sort_keys=True) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(_ScalarWriter):
    """Writes to a TensorBoard folder, created at the first write."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs) -> None:
        super().__init__(window_size)
        self._arguments = {"log_dir": log_dir, **kwargs}

    @cached_property
    def _writer(self):
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only rank 0 needs it

        return SummaryWriter(**self._arguments)

    def write(self) -> None:
        for iteration, scalars in self._new_scalars().items():
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, iteration)
        storage = get_event_storage()
        for name, image, iteration in storage._vis_data:
            self._writer.add_image(name, image, iteration)
        storage.clear_images()

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()
