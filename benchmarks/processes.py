"""Measuring seconds and peak memory of several variants, each in a separate process, with runs in alternation."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from types import MappingProxyType

import torch
from timing import Columns, Way, show, time_of

from semask_d2.utils.memory import peak_memory

# A function that prepares a variant in the new process. It must be a module-level function (or a `partial` of one), so
# that its module is imported before memory is measured.
Maker = Callable[[], Way]


def serve(make: Maker, pipe: Connection) -> None:
    """Prepare a variant; for each True received, run it and send the seconds; for a False, send its peak MB."""
    torch.manual_seed(0)
    before = peak_memory()
    way = make()
    while pipe.recv():
        pipe.send(time_of(way))
    pipe.send((peak_memory() - before) / 1e6)


def start_method() -> BaseContext:
    """Return how processes start: as forks of one that has only imported the package, or anew where that is missing."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["semask_d2.engine", "semask_d2.export", "semask_d2.inference.predictor"])
    return context


def measure(makers: Mapping[str, Maker], repeats: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the seconds of each variant's runs after one warm-up, and its peak MB beyond the memory after imports."""
    context = start_method()
    pipes, processes = {}, []
    for name, make in makers.items():
        pipes[name], end = context.Pipe()
        processes.append(context.Process(target=serve, args=(make, end), daemon=True))
        processes[-1].start()
        end.close()
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    peaks = {}
    for run in range(repeats + 2):
        for name, pipe in pipes.items():
            try:
                pipe.send(run <= repeats)
                value = pipe.recv()
            except (EOFError, ConnectionError):
                for process in processes:
                    process.terminate()
                sys.exit(f"{name}: its process has ended; the reason is above")
            if run > repeats:
                peaks[name] = value
            elif run:
                seconds[name].append(value)
    return seconds, peaks


def report_processes(
    title: str, makers: Mapping[str, Maker], arguments: argparse.Namespace, columns: Columns = MappingProxyType({})
) -> None:
    """Measure the variants, print the table and write the JSON; `columns` are passed to `show`."""
    seconds, peaks = measure(makers, arguments.repeats)
    show(title, seconds, arguments, peaks, columns)
