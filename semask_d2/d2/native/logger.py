"""Replacement for `detectron2.utils.logger`: a logger to the console of rank 0 and to one file per rank."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
from typing import IO, cast

from termcolor import colored

from semask_d2.d2.native.env import PathManager

_DATE_FORMAT = "%m/%d %H:%M:%S"


class _Formatter(logging.Formatter):
    """Escapes characters that a stream cannot encode, such as those of a file name that is not valid text."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).encode(errors="backslashreplace").decode()


class _ConsoleFormatter(_Formatter):
    """Colors the time and the level, and shortens the name of the root logger."""

    def __init__(self, root_name: str, short_name: str) -> None:
        super().__init__(colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s", datefmt=_DATE_FORMAT)
        self._shorten = (root_name + ".", short_name + "." if short_name else "")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.name = record.name.replace(*self._shorten)
        line = super().formatMessage(record)
        if record.levelno < logging.WARNING:
            return line
        return f"{colored(record.levelname, 'red', attrs=['bold'])} {line}"


@functools.lru_cache  # a second call with the same arguments must not print every line twice
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Set up and return the logger `name`, and with it all loggers below it, at level DEBUG.

    `output` is a folder, in which `log.txt` is written, or a file ending in .txt or .log. Ranks above 0 append `.rankN`
    to the file name and print nothing. `abbrev_name` replaces the name on the console ("d2" for "detectron2").
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    plain = _Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt=_DATE_FORMAT)
    if configure_stdout and distributed_rank == 0:
        if abbrev_name is None:
            abbrev_name = "d2" if name == "detectron2" else name
        console = logging.StreamHandler(stream=sys.stdout)
        console.setFormatter(_ConsoleFormatter(name, abbrev_name) if color else plain)
        logger.addHandler(console)
    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        if distributed_rank > 0:
            path += f".rank{distributed_rank}"
        PathManager.mkdirs(os.path.dirname(path))
        file = logging.StreamHandler(_log_stream(path))
        file.setFormatter(plain)
        logger.addHandler(file)
    return logger


@functools.cache  # several loggers append to one file through one stream
def _log_stream(path: str) -> IO[str]:
    stream = cast(IO[str], PathManager.open(path, "a"))
    atexit.register(stream.close)
    return stream
