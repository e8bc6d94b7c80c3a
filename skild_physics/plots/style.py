"""The style of all figures: their widths, one colour and one marker for every method.

matplotlib is imported here and nowhere else, so that a figure is drawn whatever MPLBACKEND says.
"""

import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from string import ascii_lowercase
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray


@contextmanager
def _any_backend() -> Iterator[None]:
    """Let matplotlib be imported even if the backend that MPLBACKEND names is not installed.

    Notebooks hand theirs to the commands they run. Figures here have a canvas of their own; those
    of pyplot keep the backend if it is there.
    """
    backend = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with suppress(ValueError):
            rcParams["backend"] = backend


with _any_backend():
    from matplotlib import rcParams, style
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import FigureCanvasBase
    from matplotlib.figure import Figure as _Figure
    from matplotlib.figure import FigureBase

__all__ = ["Axes", "Figure", "FigureBase", "FigureCanvasBase", "style"]

STYLE = "skild_physics.plots.skild"
COLUMN, PAGE = 3.4, 6.5
"""Widths in inches: of a column of a journal, and of figures of several panels."""

# of Okabe and Ito, who chose colours that everybody can tell apart
BLACK, BLUE, VERMILLION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY = "#CC79A7", "#E69F00", "#56B4E9"

METHODS = {
    "skild": (BLUE, "o"),
    "skild, paired": (BLUE, "o"),
    "skild, unconditional": (VERMILLION, "s"),
    "unconditional": (VERMILLION, "s"),
    "skild, block averages": (GREEN, "^"),
    "from block averages": (GREEN, "^"),
    "sr3": (PURPLE, "D"),
    "sr3, block averages": (PURPLE, "D"),
    "bicubic": (ORANGE, "v"),
    "ddpm": (SKY, "P"),
}
"""Colour and marker of the methods that figures show again and again, by their labels."""

_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, "#666666")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")


class Figure(_Figure):
    """A figure without a window, which notebooks show where it ends a cell."""

    def _repr_png_(self) -> bytes:
        pixels = io.BytesIO()
        with style.context(STYLE):
            self.savefig(pixels, format="png")
        return pixels.getvalue()


def looks(labels: Sequence[str], truth: str | None = None) -> dict[str, dict[str, str]]:
    """Colour and marker of every label: those of its method, or others that no label has yet.

    Args:
        labels: of the sources that a figure shows; seventy of them can be told apart.
        truth: the one that is black.

    >>> looks(["held", "SKILD", "mine"], truth="held")["SKILD"]
    {'color': '#0072B2', 'marker': 'o'}
    """
    known = {label: METHODS[label.lower()] for label in labels if label.lower() in METHODS}
    if truth is not None:
        known[truth] = (BLACK, "s")
    count = len(_COLORS) * len(_MARKERS)
    pairs = [(_COLORS[i % len(_COLORS)], _MARKERS[i % len(_MARKERS)]) for i in range(count)]
    free = (pair for pair in pairs if pair not in known.values())
    found = {label: known[label] if label in known else next(free) for label in labels}
    return {label: {"color": color, "marker": marker} for label, (color, marker) in found.items()}


def side_by_side(number: int, octaves: float = 0.09) -> NDArray[np.float64]:
    """Factors on a logarithmic axis that keep error bars of so many sources apart."""
    step = min(octaves, 0.55 / max(number, 1))
    return np.asarray(2 ** (step * (np.arange(number) - (number - 1) / 2)))


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """A figure in the style of this package, which it keeps after the block.

    Args:
        width: in inches, as the height; :data:`COLUMN` or :data:`PAGE`.
        height: of the whole.
    """
    with style.context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        for ax in figure.axes:
            # ticks that are made later would take the style that there is then; y has that of x
            size, width = rcParams["xtick.labelsize"], rcParams["xtick.major.width"]
            ax.tick_params(which="major", labelsize=size, width=width)
            ax.tick_params(which="minor", width=rcParams["xtick.minor.width"])


def lettered(axes: Iterable[Axes], width: int = 0) -> None:
    """Put (a), (b), ... before the titles of panels, in lines of so many characters."""
    for letter, ax in zip(ascii_lowercase, axes, strict=False):
        title = f"({letter}) {ax.get_title()}".rstrip()
        ax.set_title("")
        ax.set_title(fill(title, width, break_long_words=False) if width else title, loc="left")


def on_sides(ax: Axes, sides: Sequence[int]) -> Axes:
    """Make the horizontal axis that of the side r of squares."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(sides, [str(side) for side in sides])
    ax.set_xlabel("side $r$  (lattice spacings)")
    return ax


def zero_line(ax: Axes, value: float = 0) -> Axes:
    """Draw a thin line where a residual vanishes, behind all else."""
    ax.axhline(value, color=BLACK, linewidth=0.7, zorder=0)
    return ax


def plain(text: str) -> str:
    """Somebody's label: a dollar sign in it begins no formula."""
    return text.replace("$", r"\$")


def bars(ax: Axes, x: Any, y: Any, stderr: Any, **look: Any) -> None:
    """Points with error bars; bars that are unknown are not drawn."""
    ax.errorbar(x, y, np.nan_to_num(stderr), **{"linestyle": "none", "elinewidth": 0.9, **look})
