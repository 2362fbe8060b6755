"""Logs that stay as they were: a job adds handlers that write to files and streams of a test that is soon over."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from semask_d2.d2 import setup_logger

NAMES = ("fvcore", "detectron2", "semask_d2")


@contextmanager
def restored_loggers() -> Iterator[None]:
    """Undo, at the end, what happened within it to the loggers that `setup_logger` sets up."""
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(x, x.level, x.propagate, list(x.handlers)) for x in loggers]
    try:
        yield
    finally:
        for logger, level, propagate, handlers in before:
            for handler in set(logger.handlers) - set(handlers):
                handler.close()
            logger.setLevel(level)
            logger.propagate = propagate
            logger.handlers[:] = handlers
        setup_logger.cache_clear()


def reset_loggers() -> None:
    """As in a new process: what a module's fixture or a library that configures logging has left is undone."""
    logging.disable(logging.NOTSET)
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in NAMES:
            logger.disabled = False
    for name in NAMES:
        logger = logging.getLogger(name)
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
        logger.handlers.clear()
    setup_logger.cache_clear()
