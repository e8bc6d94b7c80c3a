"""Hypothesis draws the same examples every time, and no test hears what another listened to."""

import logging

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def quiet():
    """The log is for the next test as it was for this one: a command listens to all of it."""
    logger = logging.getLogger("skild_physics")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers
