"""Four-point correlators with their error bars."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_physics.observables.sources import shown_labels
from skild_physics.plots.pictures import draw_field
from skild_physics.plots.style import (
    PAGE,
    Axes,
    Figure,
    FigureBase,
    bars,
    lettered,
    looks,
    new_figure,
    on_sides,
    plain,
    side_by_side,
    zero_line,
)

IN_A_ROW = 6


def correlator_figure(
    results: xr.Dataset, pictures: Mapping[str, NDArray[np.generic]] | None = None
) -> Figure:
    """Four-point correlators, and large their residuals, below rows of one field per source.

    Args:
        results: of :func:`skild_physics.observables.evaluate.eval_correlators`.
        pictures: title to a field (y, x), drawn above.
    """
    pictures = pictures or {}
    columns = min(IN_A_ROW, len(pictures))
    rows = -(-len(pictures) // IN_A_ROW)
    each = PAGE / max(columns, 4)
    above = rows * (each + 0.35)
    with new_figure(PAGE, above + 2.9) as figure:
        below: FigureBase = figure
        axes: list[Axes] = []
        if pictures:
            top, below = np.asarray(figure.subfigures(2, 1, height_ratios=(above, 2.9)))
            grid = top.subplots(rows, columns, squeeze=False).ravel()
            axes = list(grid[: len(pictures)])
            for ax in grid[len(pictures) :]:
                ax.remove()
            for ax, (title, field) in zip(axes, pictures.items(), strict=True):
                draw_field(ax, field).set_title(plain(title))
        left, right = below.subplots(1, 2, width_ratios=(1, 1.6))
        draw_correlators(left, results, "kappa4", legend=False)
        draw_correlators(right, results, "kappa4_residual", legend=False)
        handles, labels = left.get_legend_handles_labels()
        below.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3))
        lettered([*axes, left, right], int(15 * each))
    return figure


def draw_correlators(
    ax: Axes,
    results: xr.Dataset,
    name: Literal["kappa4", "kappa4_residual"],
    legend: bool = True,
) -> Axes:
    """Four-point correlators, or their residuals from the truth, against the side; the axes.

    Bars are one standard error. Sources stand beside each other at every side, in the colours that
    their methods have in all figures; continuous fields that were taken by their signs, too, are
    shown by these alone.

    Args:
        ax: where to draw.
        results: of :func:`skild_physics.observables.evaluate.eval_correlators`.
        name: which of the two.
        legend: of the sources.
    """
    labels, sides = shown_labels(results), results["side"].values
    truth = labels[0]
    residual = name == "kappa4_residual"
    looked = looks(labels, truth)
    for label, apart in zip(labels, side_by_side(len(labels)), strict=True):
        if residual and label == truth:
            continue
        row, line = results.sel(source=label), "-" if label == truth else "none"
        how = {"label": plain(label), "linestyle": line, "linewidth": 0.7, **looked[label]}
        bars(ax, sides * apart, row[name].values, row[f"{name}_stderr"].values, **how)
    if residual:
        zero_line(ax)
    ax.set_ylabel(f"$\\kappa_4(r)$ minus that of {plain(truth)}" if residual else "$\\kappa_4(r)$")
    if legend and ax.get_legend_handles_labels()[0]:
        ax.legend()
    return on_sides(ax, sides.tolist())
