"""What a command shows: answers on standard output, progress and remarks on standard error."""

import logging
import os

from rich.console import Console

from skild_physics.progress import bar as progress
from skild_physics.progress import console, logger
from skild_physics.tables import Printed

__all__ = ["answers", "hear", "progress", "say", "show", "speaks"]

# of the processes that torchrun starts, one speaks
speaks = os.environ.get("RANK", "0") == "0"
console.quiet = not speaks
answers = Console(highlight=False, markup=False, emoji=False)


def say(text: str) -> None:
    """One line about the work, on standard error."""
    console.print(text, soft_wrap=True)


def show(result: Printed) -> None:
    """The tables of a result, and its notes on standard error."""
    for table in result.tables():
        answers.print(table)
    for note in result.notes():
        say(note)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def hear() -> None:
    """Say what the library logs."""
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines())
        logger.setLevel(logging.INFO)
