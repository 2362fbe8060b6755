"""Fixtures of the tests of weight files: a log that other tests' logging setup does not hide."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Capture everything that `semask_d2.checkpoint` logs at level INFO or above."""
    logger = logging.getLogger("semask_d2.checkpoint")
    logger.addHandler(caplog.handler)
    level, propagate = logger.level, logger.propagate
    logger.propagate = False
    logger.setLevel(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)
    logger.setLevel(level)
    logger.propagate = propagate
