"""Progress goes to standard error (bars on a terminal, lines elsewhere), answers to output."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import inf

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# of the processes that torchrun starts, one speaks
speaks = os.environ.get("RANK", "0") == "0"
# labels and names of files are no markup
console = Console(stderr=True, highlight=False, markup=False, emoji=False, quiet=not speaks)
answers = Console(highlight=False, markup=False, emoji=False)

SECONDS_BETWEEN_LINES = 15.0

ROUNDING, TINY = 1e-12, 1e-300
MOST_DIGITS = 12


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[..., None]]:
    """A callback (done, note) that shows how far a job of ``total`` units is."""
    if console.is_terminal:
        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        ) as bars:
            task = bars.add_task(title, total=total, note="")
            yield lambda done, note="": bars.update(task, completed=done, note=note)
        return

    began = last = time.monotonic()
    before: int | None = None

    def line(done: int, note: str = "") -> None:
        nonlocal last, before
        now = time.monotonic()
        before = done - 1 if before is None else before
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            left = (now - began) / (done - before) * (total - done)
            say(f"{title}: {done} of {total}, {now - began:.0f} s, {left:.0f} s left  {note}")

    yield line


def say(text: str) -> None:
    """One line about the work, on standard error."""
    console.print(text, soft_wrap=True)


def say_skipped(skipped: Mapping[str, str], count: int) -> None:
    """Which of so many files were left out, and why."""
    for file, reason in skipped.items():
        say(f"skipped {file}: {reason}")
    if skipped:
        say(f"{len(skipped)} of {count} files skipped")


def with_error(value: float, stderr: float) -> str:
    """Value and standard error in the form 0.31498(72), 4.3(1.2) or 77(23), as pyerrors writes it.

    The value alone if there is no error: zero, nan, infinite, or that of rounding.
    """
    if not max(abs(value) * ROUNDING, TINY) < stderr < inf:
        return f"{value:.7g}"
    exponent = int(f"{stderr:.1e}".partition("e")[2])
    digits = max(0, 1 - exponent)
    power = int(f"{max(abs(value), stderr):e}".partition("e")[2])
    if digits > MOST_DIGITS and power < 0:
        return f"{with_error(value / 10.0**power, stderr / 10.0**power)}e{power}"
    error = f"{stderr:.{digits}f}"
    return f"{value:.{digits}f}({error.lstrip('0.') if exponent < 0 else error})"
