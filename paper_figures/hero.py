"""The figure of the README: a coarse lattice, made fine, the truth, and the residual of kappa4.

    python paper_figures/hero.py

The 16 x 16 block averages of a lattice of 64 x 64 spins, the lattice that SKILD makes of these, the
one that it was, and how far the four-point correlators of such lattices are from the truth's; from
the results of four_point.py. The band is what arXiv 2605.26032 states for SKILD, at most 0.002, at
L = 128, from diffused fields.
"""

import numpy as np
import xarray as xr
from ising import HERE, save

from skild_physics.plots import Figure, draw_field, looks, new_figure
from skild_physics.plots.style import bars, lettered, on_sides, side_by_side, zero_line

PUBLISHED = 0.002
PICTURE, FACTOR, WIDTH = 1, 4, 9.0
MADE = "SKILD, block averages"
METHODS = {
    MADE: "from block averages",
    "SKILD": "from diffused fields",
}
"""Labels of the results' sources."""


def draw(results: xr.Dataset) -> Figure:
    truth = results["picture_truth"][PICTURE].values
    M = len(truth) // FACTOR
    shown = {
        f"coarse, {M} x {M}": truth.reshape(M, FACTOR, M, FACTOR).mean(axis=(1, 3)),
        "made by SKILD": np.where(results[f"picture_{MADE}"][PICTURE].values >= 0, 1, -1),
        "truth": truth,
    }
    sides = results["side"].values
    looked = looks(list(METHODS.values()))
    with new_figure(WIDTH, 2.5) as figure:
        *pictures, right = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.75))
        for ax, (title, field) in zip(pictures, shown.items(), strict=True):
            draw_field(ax, field).set_title(title)
        for shift, (name, label) in zip(side_by_side(len(METHODS)), METHODS.items(), strict=True):
            row = results.sel(source=name)
            value, stderr = row["kappa4_residual"], row["kappa4_residual_stderr"]
            bars(right, sides * shift, value, stderr, label=label, **looked[label])
        shade = {"color": "black", "alpha": 0.12, "linewidth": 0}
        right.axhspan(-PUBLISHED, PUBLISHED, **shade, label="published, L = 128")
        on_sides(zero_line(right), sides)
        right.set(ylabel=r"$\kappa_4(r)$: made - truth", title="four-point correlator")
        right.set_ylim(-4e-3, 9e-3)
        right.legend(loc="upper left")
        lettered((*pictures, right))
    return figure


if __name__ == "__main__":
    with xr.open_dataset(HERE / "four_point.nc", engine="h5netcdf") as results:
        save(draw(results), "hero")
