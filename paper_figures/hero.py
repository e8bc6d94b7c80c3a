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
from ising import HERE

from skild_physics.fields.downsampling import downsample
from skild_physics.plots import Figure, save_figure

PUBLISHED = 0.002
PICTURE, FACTOR = 1, 4
# of Okabe and Ito, who chose colours that everybody can tell apart
METHODS = {
    "SKILD": ("SKILD, paired", "#0072b2", "o", -0.06),
    "SKILD, from nothing": ("SKILD, unconditional", "#d55e00", "s", 0.06),
}


def draw(results: xr.Dataset) -> Figure:
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    *pictures, right = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.75))
    truth = results["picture_truth"][PICTURE].values
    left = torch.as_tensor(results["picture_start"][PICTURE].values)
    M = len(truth) // FACTOR
    shown = {
        f"(a) coarse, {M} x {M}": downsample(left, "spectral", M, "periodic").numpy(),
        "(b) made by SKILD": np.where(results["picture_SKILD"][PICTURE].values >= 0, 1, -1),
        "(c) truth": truth,
    }
    for ax, (title, field) in zip(pictures, shown.items(), strict=True):
        ax.imshow(field, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        ax.set_title(title, fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
    sides = results["side"].values
    for name, (label, color, marker, offset) in METHODS.items():
        row = results.sel(source=name)
        right.errorbar(
            sides * 2**offset,
            row["kappa4_residual"].values,
            row["kappa4_residual_stderr"].values,
            fmt=marker,
            markersize=4,
            elinewidth=1,
            capsize=2,
            color=color,
            label=label,
        )
    right.axhline(0, color="black", linewidth=0.8)
    shade = {"color": "black", "alpha": 0.12, "linewidth": 0}
    right.axhspan(-PUBLISHED, PUBLISHED, **shade, label="published, L = 128")
    right.set_xscale("log", base=2)
    right.set_xticks(sides, [str(side) for side in sides])
    right.set_xlabel("side $r$  (lattice spacings)", fontsize=9)
    right.set_ylabel(r"$\kappa_4(r)$: made - truth", fontsize=9)
    right.tick_params(labelsize=8)
    right.set_title("(d) four-point correlator", fontsize=9)
    right.legend(frameon=False, fontsize=7, loc="lower left")
    return figure


if __name__ == "__main__":
    with xr.open_dataset(HERE / "four_point.nc", engine="h5netcdf") as results:
        save_figure(draw(results), HERE / "hero.png")
