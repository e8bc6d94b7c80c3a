"""From every effective resolution to the full one, with one set of weights.

    python paper_figures/effective_resolution.py [--measure]

Above, one held-out lattice diffused to R = 32, 16, 8, 4, 2 pixels per side and what is made of it;
below, the residuals of kappa4 and the energy against R, down to unconditional samples. Everything
that R leaves open is drawn, so the fields differ more and more from the truth, and their physics
must not.
"""

import numpy as np
import xarray as xr
from ising import SKILD, script, signs, truth

import skild_physics as sk
from skild_physics.diffusion.reverse import nothing, sample
from skild_physics.plots import Figure, draw_field, looks, new_figure
from skild_physics.plots.style import BLACK, PAGE, bars, lettered, side_by_side, zero_line

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
    R = results["resolution"].values
    rows = results.isel(source=slice(1, None))
    titles = ["truth", *(f"$R$ = {value:.3g}" if value > NOTHING else "none" for value in R)]
    with new_figure(PAGE, 5.4) as figure:
        above, below = figure.subfigures(2, 1, height_ratios=(1, 1.35))
        axes = above.subplots(2, len(R) + 1)
        axes[1, 0].set_axis_off()
        fields = [results["lattice"], *results["start"]]
        for ax, title, field in zip(axes[0], titles, fields, strict=True):
            draw_field(ax, field.values).set_title(title)
        for ax, field, same in zip(
            axes[1, 1:], results["result"], results["equal_spins"], strict=True
        ):
            draw_field(ax, field.values).set_xlabel(f"{100 * float(same):.0f} %")
        axes[1, 0].text(0.5, 0.5, "made, and\nequal spins", ha="center", va="center")
        left, right = below.subplots(1, 2, width_ratios=(1.6, 1))
        looked = looks([str(side) for side in SIDES]).values()
        for side, look, apart in zip(SIDES, looked, side_by_side(len(SIDES)), strict=True):
            at = rows.sel(side=side)
            value, stderr = at["kappa4_residual"], at["kappa4_residual_stderr"]
            bars(left, R * apart, value, stderr, label=f"$r$ = {side}", **look)
        percent = 100 / abs(float(results["energy"].sel(source="truth")))
        value, stderr = rows["energy_residual"], rows["energy_residual_stderr"]
        bars(right, R, percent * value, percent * stderr, color=BLACK, marker="o")
        left.set(ylabel="$\\kappa_4(r)$ minus that of truth")
        below.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=6)
        right.set(ylabel="energy minus truth's  (%)")
        ticks = [f"{value:.3g}" if value > NOTHING else "none" for value in R]
        ticks[1] = ""
        for ax in (left, right):
            zero_line(ax)
            ax.set_xscale("log", base=2)
            ax.set_xticks(R, ticks)
        left.set_xlabel("effective resolution $R$ at the start  (pixels / side)")
        right.set_xlabel("$R$ at the start")
        lettered([axes[0, 0], axes[1, 1], left, right])
    return figure


if __name__ == "__main__":
    script("effective_resolution", measure, draw, model=SKILD)
