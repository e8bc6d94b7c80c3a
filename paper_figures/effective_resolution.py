"""From every effective resolution to the full one, with one set of weights.

    python paper_figures/effective_resolution.py [--measure]

Above, one held-out lattice diffused to R = 32, 16, 8, 4, 2 pixels per side and what is made of it;
below, the residuals of kappa4 and the energy against R, down to nothing. Everything that R leaves
open is drawn, so the fields differ more and more from the truth, and their physics must not.
"""

import numpy as np
import torch
import xarray as xr
from ising import TAU, compared, script, table, truth

from skild_physics.cli.console import progress
from skild_physics.diffusion.superresolution import Sampling, generate, super_resolve_paired
from skild_physics.plots import COLORS, Figure
from skild_physics.training.checkpoint import Model

RESOLUTIONS = (32.0, 64 / 3, 16.0, 8.0, 4.0, 2.0)
CALLS = 20
NOTHING = 0.5
SIDES = (1, 2, 4, 8, 16, 32)


def measure(model: Model, sr3: str, fields: int) -> xr.Dataset:
    process, L = model.process, model.process.N
    x = truth(L, fields)
    denoise, sampling = model.denoiser(), Sampling(calls=CALLS)
    made, starts = {"truth": x}, {}
    for R in RESOLUTIONS:
        with progress(f"R = {R:g}", fields) as show:
            done = super_resolve_paired(process, denoise, x, L / R, TAU, sampling, show)
        made[f"{R:g}"], starts[f"{R:g}"] = done.result, done.start
    with progress("from nothing", fields) as show:
        done = generate(process, denoise, fields, sampling, progress=show)
    made[f"{NOTHING:g}"], starts[f"{NOTHING:g}"] = done.result, done.start
    results = compared(made)
    overlap = [float((torch.where(made[R] >= 0, 1, -1) == x).float().mean()) for R in starts]
    results["equal_spins"] = ("resolution", overlap)
    results["resolution"] = [float(R) for R in starts]
    results["start"] = (("resolution", "y", "x"), np.stack([s[0, 0] for s in starts.values()]))
    results["result"] = (("resolution", "y", "x"), np.stack([made[R][0, 0] for R in starts]))
    results["lattice"] = (("y", "x"), x[0, 0].numpy())
    table(results)
    return results


def draw(results: xr.Dataset) -> Figure:
    from matplotlib import colormaps

    R = results["resolution"].values
    figure = Figure(figsize=(10, 7), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.2))
    axes = above.subplots(2, len(R) + 1)
    for ax in axes.ravel():
        ax.set_axis_off()
    shown = {"cmap": "gray", "vmin": -1, "vmax": 1, "interpolation": "nearest"}
    axes[0, 0].imshow(results["lattice"], **shown)
    axes[0, 0].set_title("truth", fontsize=9)
    for column, value in enumerate(R):
        axes[0, column + 1].imshow(results["start"][column], **shown)
        title = f"R = {value:.3g}" if value > NOTHING else "nothing"
        axes[0, column + 1].set_title(title, fontsize=9)
        axes[1, column + 1].imshow(results["result"][column], **shown)
        same = float(results["equal_spins"][column])
        axes[1, column + 1].set_title(f"{100 * same:.0f} % equal spins", fontsize=8)
    left, right = below.subplots(1, 2)
    rows = results.isel(source=slice(1, None))
    for color, side in zip(colormaps["viridis"](np.linspace(0, 0.9, 6)), SIDES, strict=True):
        at = rows.sel(side=side)
        left.errorbar(
            R * (1 + 0.02 * np.log2(side)),
            at["kappa4_residual"],
            at["kappa4_residual_stderr"],
            fmt="o",
            ms=3,
            color=color,
            label=f"r = {side}",
        )
    energy = float(results["energy"].sel(source="truth"))
    right.errorbar(
        R,
        100 * rows["energy_residual"] / abs(energy),
        100 * rows["energy_residual_stderr"] / abs(energy),
        fmt="o",
        ms=4,
        color=COLORS[1],
    )
    left.set(ylabel=r"$\Delta\kappa_4(r)$")
    left.legend(frameon=False, fontsize=8, ncols=2)
    right.set(ylabel="energy residual  (%)")
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ax.axhline(0, color=COLORS[0], lw=0.8)
        ax.set_xticks(R, [f"{value:.3g}" if value > NOTHING else "none" for value in R], fontsize=8)
        ax.set_xlabel("effective resolution at the start  (pixels per side)")
    return figure


if __name__ == "__main__":
    script("effective_resolution", measure, draw)()
