"""From every effective resolution to the full one, with one set of weights.

    python paper_figures/effective_resolution.py [--measure]

Above, one held-out lattice diffused to R = 32, 16, 8, 4, 2 pixels per side and what is made of it;
below, the residuals of kappa4 and the energy against R, down to unconditional samples. Everything
that R leaves open is drawn, so the fields differ more and more from the truth, and their physics
must not.
"""

import numpy as np
import xarray as xr
from ising import script, signs, truth

import skild_physics as sk
from skild_physics.diffusion.reverse import nothing, sample
from skild_physics.plots import COLORS, Figure

RESOLUTIONS = (32.0, 64 / 3, 16.0, 8.0, 4.0, 2.0)
NOTHING = 0.5
SIDES = (1, 2, 4, 8, 16, 32)


def measure(fields: int, model: str) -> xr.Dataset:
    skild = sk.load(model)
    x = truth(skild.size, fields)
    made = {
        f"{R:g}": skild.reconstruct(x, skild.size / R, progress=sk.bar) for R in RESOLUTIONS
    } | {f"{NOTHING:g}": skild.generate(fields, progress=sk.bar)}
    found = sk.eval_correlators({"truth": x, **made}, binarize="sign", progress=sk.bar)
    print(found)
    starts = [each["start"][0] for each in list(made.values())[:-1]]
    starts.append(sample(skild.prior(skild.size), nothing(1), sk.Multistep(1)).start[0, 0])
    pictures = ("resolution", "y", "x")
    return found.dataset.assign_coords(resolution=[float(R) for R in made]).assign(
        equal_spins=("resolution", [float((signs(f) == x).mean()) for f in made.values()]),
        start=(pictures, np.stack(starts)),
        result=(pictures, np.stack([f[0] for f in made.values()])),
        lattice=(("y", "x"), x[0].values),
    )


def draw(results: xr.Dataset) -> Figure:
    from matplotlib import colormaps

    R = results["resolution"].values
    figure = Figure(figsize=(10, 7), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.2))
    axes = above.subplots(2, len(R) + 1)
    for ax in axes.ravel():
        ax.set_axis_off()

    def show(row: int, column: int, field: xr.DataArray, title: str) -> None:
        axes[row, column].imshow(field, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        axes[row, column].set_title(title, fontsize=8 if row else 9)

    show(0, 0, results["lattice"], "truth")
    for column, value in enumerate(R):
        title = f"R = {value:.3g}" if value > NOTHING else "unconditional"
        show(0, column + 1, results["start"][column], title)
        same = float(results["equal_spins"][column])
        show(1, column + 1, results["result"][column], f"{100 * same:.0f} % equal spins")
    left, right = below.subplots(1, 2)
    rows = results.isel(source=slice(1, None))
    for color, side in zip(colormaps["viridis"](np.linspace(0, 0.9, 6)), SIDES, strict=True):
        at, x = rows.sel(side=side), R * (1 + 0.02 * np.log2(side))
        value, stderr = at["kappa4_residual"], at["kappa4_residual_stderr"]
        left.errorbar(x, value, stderr, fmt="o", ms=3, color=color, label=f"r = {side}")
    percent = 100 / abs(float(results["energy"].sel(source="truth")))
    value, stderr = rows["energy_residual"], rows["energy_residual_stderr"]
    right.errorbar(R, percent * value, percent * stderr, fmt="o", ms=4, color=COLORS[1])
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
    script("effective_resolution", measure, draw, model="bundled")
