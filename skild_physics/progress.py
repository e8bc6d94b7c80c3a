"""How far a job is: bars on a terminal, a line now and then elsewhere, on standard error.

Library functions take an argument ``progress``: a function (title, total) whose result is a context
manager that gives a callback (done, note). By default they show nothing; :func:`bar` is what the
command line and notebooks use. What there is to say in words goes to the logger "skild_physics".
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
"""(title, total) -> a context manager of a callback (done, note="")."""

logger = logging.getLogger("skild_physics")
# labels and names of files are no markup
console = Console(stderr=True, highlight=False, markup=False, emoji=False)

SECONDS_BETWEEN_LINES = 15.0
SECONDS_BETWEEN_DRAWINGS = 0.2


class _InCell(Bars):
    """Bars below a cell of a notebook, drawn again in their place and saved as they are last.

    What rich shows there itself needs ipywidgets, and is lost with the process of the notebook.
    """

    def start(self) -> None:
        from IPython.display import display

        self._shown, self._drawn = display(self, display_id=True), time.monotonic()

    def update(self, *args: Any, **fields: Any) -> None:
        super().update(*args, **fields)
        if time.monotonic() - self._drawn >= SECONDS_BETWEEN_DRAWINGS:
            self._draw()

    def stop(self) -> None:
        self._draw()

    def _draw(self) -> None:
        self._shown.update(self)
        self._drawn = time.monotonic()


@contextmanager
def silent(title: str, total: int) -> Iterator[Callable[..., None]]:
    """Show nothing."""
    yield lambda done, note="": None


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[..., None]]:
    """A bar on a terminal or in a notebook, and lines elsewhere.

    >>> import skild_physics as sk
    >>> sk.generate_ising(L=8, samples=16, progress=sk.bar).shape
    (16, 8, 8)
    """
    # FORCE_COLOR, which notebooks give to commands, makes no terminal of a pipe
    if console.is_jupyter or (console.is_terminal and console.file.isatty()):
        with (_InCell if console.is_jupyter else Bars)(
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
    first: tuple[float, int] | None = None

    def line(done: int, note: str = "") -> None:
        nonlocal last, first
        now = time.monotonic()
        # what was there before is said at once, or is what was made until now
        first = first or (now, done)
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            text = f"{title}: {done} of {total}, {now - began:.0f} s"
            if done > first[1]:
                text += f", {(now - first[0]) / (done - first[1]) * (total - done):.0f} s left"
            console.print(f"{text}  {note}".rstrip(), soft_wrap=True)

    yield line
