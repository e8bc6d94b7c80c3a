"""Tests run against the installed package, and hypothesis the same way every time."""

import sys
from pathlib import Path

from hypothesis import settings

# `python -m pytest` puts the checkout first on the path, where skild_physics lacks the packages
# that installation maps into it (cli and data_gen)
_ROOT = Path(__file__).parents[1]
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != _ROOT]

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
