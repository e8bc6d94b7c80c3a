"""Results that print themselves: values as 0.31498(72), tables in terminals and in notebooks."""

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import inf

from rich.console import Console
from rich.table import Table

ROUNDING, TINY = 1e-12, 1e-300
MOST_DIGITS = 12
WIDTH = 100


class Printed(ABC):
    """A result that shows itself as tables, with notes below that say how it was made."""

    @abstractmethod
    def tables(self) -> Sequence[Table]:
        """What there is to see."""

    def notes(self) -> Sequence[str]:
        """What must be known about it, in sentences."""
        return ()

    def __repr__(self) -> str:
        return self._printed().export_text().rstrip()

    def _repr_html_(self) -> str:
        return self._printed().export_html(
            inline_styles=True, code_format='<pre style="line-height: 1.2">{code}</pre>'
        )

    def _printed(self) -> Console:
        shown = Console(
            file=io.StringIO(),
            width=WIDTH,
            record=True,
            # in a notebook, too, nothing is shown before it is asked for
            force_jupyter=False,
            highlight=False,
            markup=False,
            emoji=False,
        )
        for table in self.tables():
            shown.print(table)
        for note in self.notes():
            shown.print(note, soft_wrap=True)
        return shown


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
