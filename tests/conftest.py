"""Hypothesis draws the same examples every time, and no test hears what another listened to."""

import logging

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items):
    """What is known to take long may: see `timeout` in pyproject.toml."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(2 * 3600))


@pytest.fixture(autouse=True)
def quiet():
    """The log is for the next test as it was for this one: a command listens to all of it."""
    logger = logging.getLogger("skild_physics")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers
