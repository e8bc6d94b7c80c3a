"""The figure of the README: a coarse lattice, made fine, the truth, and the residual of kappa4.

    python paper_figures/hero.py

A lattice of 64 x 64 spins of which diffusion has left an effective resolution of 16 x 16, the one
that SKILD makes of it, the one that it was, and how far the four-point correlator of 1,024 such
lattices is from the truth's; from the results of four_point.py. The band is what arXiv 2605.26032
states for SKILD, at most 0.002, at L = 128.
"""

import numpy as np
import torch
import xarray as xr
from ising import HERE, save

from skild_physics.fields.downsampling import downsample
from skild_physics.plots import Figure, draw_field, looks, new_figure
from skild_physics.plots.style import bars, lettered, on_sides, side_by_side, zero_line

PUBLISHED = 0.002
PICTURE, FACTOR, WIDTH = 1, 4, 9.0
METHODS = {"SKILD": "SKILD, paired", "SKILD, from nothing": "SKILD, unconditional"}
"""Labels of the results' sources."""


def draw(results: xr.Dataset) -> Figure:
    truth = results["picture_truth"][PICTURE].values
    left = torch.as_tensor(results["picture_start"][PICTURE].values)
    M = len(truth) // FACTOR
    shown = {
        f"coarse, {M} x {M}": downsample(left, "spectral", M, "periodic").numpy(),
        "made by SKILD": np.where(results["picture_SKILD"][PICTURE].values >= 0, 1, -1),
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
        right.legend(loc="lower left")
        lettered((*pictures, right))
    return figure


if __name__ == "__main__":
    with xr.open_dataset(HERE / "four_point.nc", engine="h5netcdf") as results:
        save(draw(results), "hero")
