"""Pictures of fields."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_physics.plots.style import PAGE, Axes, Figure, new_figure, plain


def draw_field(ax: Axes, field: NDArray[np.generic]) -> Axes:
    """One field, from black at -1 to white at 1; the axes that were given, without ticks.

    Args:
        ax: where to draw.
        field: (y, x), or (channel, y, x) of one channel or three.
    """
    values = np.asarray(field, dtype=np.float32)
    if values.ndim == 3 and len(values) == 3:
        values = np.clip((np.moveaxis(values, 0, -1) + 1) / 2, 0, 1)
    else:
        values = values.reshape(values.shape[-2:])
    ax.imshow(values, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    for spine in ax.spines.values():
        spine.set(visible=True, linewidth=0.5)
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def fields_figure(fields: NDArray[np.generic]) -> Figure:
    """A grid of up to four columns of fields (sample, y, x)."""
    columns = min(4, len(fields))
    rows = -(-len(fields) // columns)
    each = PAGE / 4
    with new_figure(each * columns, each * rows) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, field in zip(axes, fields, strict=False):
            draw_field(ax, field)
        for ax in axes[len(fields) :]:
            ax.remove()
    return figure


def samples_figure(rows: Mapping[str, NDArray[np.floating]], title: str) -> Figure:
    """Rows of fields, each of shape (sample, channel, N, N): one channel in grey, three in colour.

    Values from -1 to 1 span the range from black to white.
    """
    count = max(len(fields) for fields in rows.values())
    each = PAGE / max(count, 4)
    with new_figure(each * count + 0.3, each * len(rows) + 0.3) as figure:
        axes = figure.subplots(len(rows), count, squeeze=False)
        for row, (name, fields) in zip(axes, rows.items(), strict=True):
            for ax, field in zip(row, fields, strict=False):
                draw_field(ax, field)
            for ax in row[len(fields) :]:
                ax.set_axis_off()
            row[0].set_ylabel(plain(name))
        figure.suptitle(plain(title))
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
    patches, each = results.sizes["patch"], PAGE / len(columns)
    with new_figure(PAGE, each * patches + 0.25) as figure:
        figure.set_layout_engine("constrained", h_pad=0.02, hspace=0.02)
        axes = figure.subplots(patches, len(columns), squeeze=False)
        for column, (title, pictures) in zip(axes.T, columns.items(), strict=True):
            column[0].set_title(title, fontsize=7)
            for ax, picture in zip(column, pictures.values, strict=True):
                ax.imshow(np.moveaxis(picture, 0, -1), interpolation="nearest")
                ax.set_axis_off()
    return figure
