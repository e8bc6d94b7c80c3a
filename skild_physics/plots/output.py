"""Files of figures. matplotlib is imported only where one is asked for."""

import gzip
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skild_physics.files import InputError
from skild_physics.requests import check_derived, derived

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DATES = {"pdf": "CreationDate", "svg": "Date", "svgz": "Date"}


def _format(path: Path) -> str:
    return path.suffix.lower().lstrip(".")


def check_figure(path: Path, overwrite: bool, *of: Path) -> Path:
    """The path of a figure, if it may be written and its suffix names a format.

    Args:
        path: of the figure.
        overwrite: replace an existing one.
        of: the results that it shows, see :func:`skild_physics.requests.check_derived`.

    Raises:
        InputError: it may not, or an unknown suffix.
    """
    from skild_physics.plots.style import FigureCanvasBase

    if _format(path) not in FigureCanvasBase.get_supported_filetypes():
        raise InputError(f"{path}: cannot write figures of type {path.suffix or 'without suffix'}")
    return check_derived(path, overwrite, *of)


def save_figure(figure: "Figure", path: Path, overwrite: bool = True) -> None:
    """Write a figure in the format of its suffix, replacing an existing file at once.

    The same figure is the same bytes.

    Args:
        figure: what is drawn.
        path: of the file.
        overwrite: replace another figure, or whatever is there.

    Raises:
        InputError: there is one, which is not to be replaced.
    """
    from skild_physics.plots.style import STYLE, style

    kind = _format(path)
    undated: Any = {"metadata": {_DATES[kind]: None}} if kind in _DATES else {}
    with derived(path, overwrite) as temporary, style.context(STYLE):
        figure.savefig(temporary, format=kind, **undated)
        if kind in ("ps", "eps"):
            drawn = re.sub(rb"%%CreationDate: .*\n", b"", temporary.read_bytes(), count=1)
            temporary.write_bytes(drawn)
        elif kind == "svgz":
            temporary.write_bytes(gzip.compress(gzip.decompress(temporary.read_bytes()), mtime=0))
