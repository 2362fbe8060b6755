"""Restoring the loggers after a test, because jobs add handlers for files and streams that exist only in the test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from semask_d2.d2 import setup_logger

NAMES = ("fvcore", "detectron2", "semask_d2")


@contextmanager
def restored_loggers() -> Iterator[None]:
    """Restore, after the block, the loggers that `setup_logger` sets up."""
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
    """Reset the loggers as in a new process, whatever a module's fixture or a library has configured."""
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
