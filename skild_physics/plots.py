"""Figures."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure, FigureBase
from numpy.typing import NDArray

from skild_physics.files import check_output, replacing
from skild_physics.spectrum import Spectrum
from skild_physics.spectrum.radial import shells

COLORS = ("black", "#c8553d", "#2a6f97", "#588157", "#8338ec")


def spectrum_figure(spectrum: Spectrum) -> Figure:
    """Radial variance spectrum on log-log axes with its fit, and their ratio below."""
    k, _, _ = shells(spectrum.N, spectrum.basis)
    law = spectrum.fit.law
    figure = Figure(figsize=(6, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    # a logarithmic axis has no place for the zero mode: draw it half a shell below the first
    x = np.where(k > 0, k, k[1] / 2)
    top.errorbar(
        x, spectrum.profile, spectrum.profile_stderr, fmt=".", color=COLORS[0], label="measured"
    )
    inside = (k >= spectrum.fit_range[0]) & (k <= spectrum.fit_range[1])
    curve = np.geomspace(x[inside].min(), x[inside].max(), 200)
    top.plot(
        curve,
        law(curve),
        color=COLORS[1],
        label=rf"${law.C:.4g}\,(k^2 + {law.k0_squared:.4g})^{{-{law.alpha:.4f}}}$"
        f"\n({spectrum.fit.method} fit)",
    )
    top.set(xscale="log", yscale="log", ylabel=r"$S_0(k)$", title=spectrum.source)
    top.legend(frameon=False)
    bottom.errorbar(
        x[inside],
        (spectrum.profile / law(k))[inside],
        (spectrum.profile_stderr / law(k))[inside],
        fmt=".",
        color=COLORS[0],
    )
    bottom.axhline(1, color=COLORS[1])
    bottom.set(
        xlabel="wavenumber $k$  (radian / box side; leftmost point: $k = 0$)",
        ylabel="measured / fit",
    )
    return figure


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
        results: from :func:`skild_physics.observables.evaluate.evaluate`.
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
            ax.set_title(title, fontsize=10)
            ax.set_axis_off()
    left, right = below.subplots(1, 2)
    sides = results["side"].values
    for number, label in enumerate(results["source"].values):
        row = results.sel(source=label)
        color = COLORS[number % len(COLORS)]
        left.errorbar(
            sides * 1.04 ** (number - 0.5),
            row["kappa4"],
            row["kappa4_stderr"],
            fmt="o" if number else "s",
            markersize=4 if number else 7,
            markerfacecolor=color if number else "none",
            color=color,
            capsize=2,
            label=label,
        )
        if number:
            right.errorbar(
                sides * 1.04 ** (number - 0.5),
                row["kappa4_residual"],
                row["kappa4_residual_stderr"],
                fmt="o",
                markersize=4,
                color=color,
                capsize=2,
                label=f"{label} - {results.attrs['truth']}",
            )
    right.axhline(0, color=COLORS[0], linewidth=0.8)
    left.set(ylabel=r"$\kappa_4(r)$", title="connected four-point correlator, square corners")
    right.set(ylabel=r"$\Delta\kappa_4(r)$", title="residual, one standard error")
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ax.set_xticks(sides, [str(s) for s in sides])
        ax.set_xlabel("side $r$  (lattice spacings)")
        ax.legend(frameon=False)
    return figure


def check_figure(path: Path, overwrite: bool) -> Path:
    """The path of a figure, if it may be written and its suffix names a format.

    Raises:
        ValueError: see :func:`skild_physics.files.check_output`, or an unknown suffix.
    """
    if path.suffix.lstrip(".") not in FigureCanvasBase.get_supported_filetypes():
        raise ValueError(f"{path}: cannot write figures of type {path.suffix or 'without suffix'}")
    return check_output(path, overwrite)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its suffix, replacing an existing file at once."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip("."), dpi=150)
