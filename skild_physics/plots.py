"""Figures. Scripts import matplotlib's Figure from here, and need not care for MPLBACKEND."""

import gzip
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_physics.files import InputError
from skild_physics.requests import check_derived, derived


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
    from matplotlib import rc_context, rcParams
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import FigureCanvasBase
    from matplotlib.figure import Figure, FigureBase

COLORS = ("black", "#c8553d", "#2a6f97", "#588157", "#8338ec")


CHANNEL_COLORS = {"red": "#c8553d", "green": "#588157", "blue": "#2a6f97"}


def spectrum_figure(spectra: Sequence[Any]) -> Figure:
    """Radial variance spectra on log-log axes with their fits, and their ratios below.

    One spectrum is drawn channel by channel, as in figure 2 of arXiv 2605.26032; several are
    overlaid as means over channels. Each fit is a full line within its range, dotted outside; with
    one spectrum the range is shaded.

    Args:
        spectra: of :class:`skild_physics.spectrum.Spectrum`, which draws itself here.
    """
    figure = Figure(figsize=(6.5, 6.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    alone = len(spectra) == 1
    ratios = []
    for number, spectrum in enumerate(spectra):
        k, law = spectrum.k, spectrum.fit.law
        # a logarithmic axis has no place for the zero mode: draw it half a shell below the first
        x = np.where(k > 0, k, k[1] / 2)
        inside = (k >= spectrum.fit_range[0]) & (k <= spectrum.fit_range[1])
        color = COLORS[number % len(COLORS)]
        # thousands of shells would hide each other: show their averages where they crowd
        groups = _logarithmic_groups(k)
        source = _plain(spectrum.source)
        rows = [(source, color, spectrum.profile, spectrum.profile_stderr)]
        if alone and len(spectrum.channels) > 1:
            rows = [
                (_plain(name), CHANNEL_COLORS.get(name, COLORS[i % len(COLORS)]), S, stderr)
                for i, (name, S, stderr) in enumerate(
                    zip(spectrum.channels, spectrum.S, spectrum.S_stderr, strict=True)
                )
            ]
        for label, shade, S, stderr in rows:
            ratio = S / law(k)
            for ax, values, errors in (
                (top, S, stderr),
                (bottom, ratio, stderr / law(k)),
            ):
                ax.errorbar(
                    _grouped(x, groups),
                    _grouped(values, groups),
                    _grouped(np.nan_to_num(errors), groups),
                    fmt=".",
                    markersize=4,
                    elinewidth=0.8,
                    color=shade,
                    label=label if len(rows) > 1 else None,
                )
            ratios.append(_grouped(ratio, groups)[inside[groups]])
        line = "#c8553d" if alone and len(rows) == 1 else "black" if alone else color
        everywhere = np.geomspace(x[0], x[-1], 400)
        fitted = np.geomspace(x[inside][0], x[inside][-1], 400)
        top.plot(everywhere, law(everywhere), ":", color=line, linewidth=1)
        top.plot(
            fitted,
            law(fitted),
            color=line,
            linewidth=1.2,
            label=("" if alone else f"{source}: ") + _formula(spectrum),
        )
        if alone:
            for ax in (top, bottom):
                ax.axvspan(fitted[0], fitted[-1], color="black", alpha=0.05, linewidth=0)
    bottom.axhline(1, color=COLORS[0], linewidth=0.8)
    furthest = max(0.02, 1.3 * float(np.abs(np.log(np.concatenate(ratios))).max()))
    bottom.set_ylim(np.exp(-furthest), np.exp(furthest))
    if furthest > 1:
        bottom.set_yscale("log")
    one = spectra[0]
    top.set(xscale="log", yscale="log", ylabel=f"$S_0(k)$  ({one.normalization} normalisation)")
    if alone:
        top.set_title(_plain(one.source))
    top.legend(frameon=False, fontsize=8)
    zero = "; leftmost point: $k = 0$" if any(s.k[0] == 0 for s in spectra) else ""
    what = "lattice momentum" if one.momentum == "lattice" else "wavenumber $k$"
    bottom.set(xlabel=f"{what}  (radian / box side{zero})", ylabel="measured / fit")
    return figure


def _plain(text: str) -> str:
    """Somebody's label: a dollar sign in it begins no formula."""
    return text.replace("$", r"\$")


def _formula(spectrum: Any) -> str:
    C, k0_squared, alpha = (
        re.sub(r"e\+?(-?)0*(\d+)", r"\\times10^{\1\2}", f"{value:.4g}")
        for value in (spectrum.fit.law.C, spectrum.fit.law.k0_squared, spectrum.fit.law.alpha)
    )
    return rf"${C}\,(k^2 + {k0_squared})^{{-{alpha}}}$  ({spectrum.fit.method})"


def _logarithmic_groups(k: NDArray[np.float64], per_decade: int = 60) -> NDArray[np.int64]:
    """The first shell of each group of shells; groups are equal in log k, shells where sparse."""
    step = np.floor(per_decade * np.log10(np.maximum(k, k[1] / 2))).astype(np.int64)
    return np.flatnonzero(np.diff(step, prepend=step[0] - 1))


def _grouped(values: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean over each group; of errors, an upper limit, since shells fluctuate together."""
    counts = np.diff(groups, append=len(values))
    mean: NDArray[np.float64] = np.add.reduceat(values, groups) / counts
    return mean


def fields_figure(fields: NDArray[np.generic]) -> Figure:
    """A grid of up to four columns of fields (sample, y, x)."""
    columns = min(4, len(fields))
    rows = -(-len(fields) // columns)
    figure = Figure(figsize=(2 * columns, 2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, field in zip(axes, fields, strict=False):
        _draw(ax, field)
    return figure


def _draw(ax: Axes, field: NDArray[np.generic]) -> None:
    ax.imshow(field, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")


def correlator_figure(
    results: xr.Dataset, pictures: Mapping[str, NDArray[np.generic]] | None = None
) -> Figure:
    """Four-point correlators and their residuals, over a row of one field per source.

    Args:
        results: of :func:`skild_physics.observables.evaluate.eval_correlators`.
        pictures: title to a field (y, x), drawn above.
    """
    pictures = pictures or {}
    figure = Figure(figsize=(9, 7 if pictures else 4), layout="constrained")
    below: FigureBase = figure
    if pictures:
        above, below = np.asarray(figure.subfigures(2, 1, height_ratios=(1, 1.25)))
        axes = above.subplots(1, len(pictures), squeeze=False)[0]
        for ax, (title, field) in zip(axes, pictures.items(), strict=True):
            _draw(ax, field)
            ax.set_title(_plain(title), fontsize=10)
            ax.set_axis_off()
    left, right = below.subplots(1, 2)
    draw_correlators(left, results, "kappa4")
    draw_correlators(right, results, "kappa4_residual")
    left.set_title("connected four-point correlator, square corners")
    right.set_title("residual; bands: one standard error")
    return figure


def draw_correlators(ax: Axes, results: xr.Dataset, name: str) -> None:
    """Four-point correlators of all sources, or their residuals from the truth, against the side.

    Args:
        ax: where to draw.
        results: of :func:`skild_physics.observables.evaluate.eval_correlators`.
        name: "kappa4" or "kappa4_residual".
    """
    sides, truth = results["side"].values, results.attrs["truth"]
    residual = name == "kappa4_residual"
    for number, label in enumerate(results["source"].values):
        if residual and not number:
            continue
        row = results.sel(source=label)
        value, stderr = row[name].values, row[f"{name}_stderr"].values
        color, title = COLORS[number % len(COLORS)], f"{label} - {truth}" if residual else label
        ax.fill_between(sides, value - stderr, value + stderr, color=color, alpha=0.25, lw=0)
        marker = "o" if number else "s-"
        ax.plot(sides, value, marker, ms=4, lw=1, color=color, label=_plain(str(title)))
    if residual:
        ax.axhline(0, color=COLORS[0], linewidth=0.8)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sides, [str(s) for s in sides])
    ax.set_xlabel("side $r$  (lattice spacings)")
    ax.set_ylabel(r"$\Delta\kappa_4(r)$" if residual else r"$\kappa_4(r)$")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)


def samples_figure(rows: Mapping[str, NDArray[np.floating]], title: str) -> Figure:
    """Rows of fields, each of shape (sample, channel, N, N): one channel in grey, three in colour.

    Values from -1 to 1 span the range from black to white.
    """
    count = max(len(fields) for fields in rows.values())
    figure = Figure(figsize=(1.1 * count + 0.6, 1.15 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for row, (name, fields) in zip(axes, rows.items(), strict=True):
        for ax in row:
            ax.set_xticks([])
            ax.set_yticks([])
        for ax, field in zip(row, fields, strict=False):
            picture = np.clip((np.moveaxis(field, 0, -1) + 1) / 2, 0, 1)
            ax.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        row[0].set_ylabel(name)
    figure.suptitle(_plain(title))
    return figure


def enlargements_figure(results: xr.Dataset) -> Figure:
    """Rows of pictures: the truth; for each factor what was given, and two enlargements of it.

    Args:
        results: uint8 variables picture_truth and, for every coordinate factor, picture_coarse_F,
            picture_bicubic_F and picture_SKILD_F, each (patch, channel, y, x).
    """
    columns = {"truth": results["picture_truth"]}
    for factor in results["factor"].values:
        for name in ("coarse", "bicubic", "SKILD"):
            columns[f"{name} {factor}x"] = results[f"picture_{name}_{factor}"]
    patches = results.sizes["patch"]
    size = (1.15 * len(columns), 1.15 * patches + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(patches, len(columns), squeeze=False)
    for column, (title, pictures) in zip(axes.T, columns.items(), strict=True):
        column[0].set_title(title, fontsize=9)
        for ax, picture in zip(column, pictures.values, strict=True):
            ax.imshow(np.moveaxis(picture, 0, -1), interpolation="nearest")
            ax.set_axis_off()
    return figure


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
    if _format(path) not in FigureCanvasBase.get_supported_filetypes():
        raise InputError(f"{path}: cannot write figures of type {path.suffix or 'without suffix'}")
    return check_derived(path, overwrite, *of)


def save_figure(figure: Figure, path: Path, overwrite: bool = True) -> None:
    """Write a figure in the format of its suffix, replacing an existing file at once.

    The same figure is the same bytes.

    Args:
        figure: what is drawn.
        path: of the file.
        overwrite: replace another figure, or whatever is there.

    Raises:
        InputError: there is one, which is not to be replaced.
    """
    kind = _format(path)
    undated: Any = {"metadata": {_DATES[kind]: None}} if kind in _DATES else {}
    with derived(path, overwrite) as temporary, rc_context({"svg.hashsalt": "skild_physics"}):
        figure.savefig(temporary, format=kind, dpi=150, **undated)
        if kind in ("ps", "eps"):
            drawn = re.sub(rb"%%CreationDate: .*\n", b"", temporary.read_bytes(), count=1)
            temporary.write_bytes(drawn)
        elif kind == "svgz":
            temporary.write_bytes(gzip.compress(gzip.decompress(temporary.read_bytes()), mtime=0))
