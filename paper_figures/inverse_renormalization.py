"""Critical lattices doubled again and again with weights trained at 64 x 64 only.

    python paper_figures/inverse_renormalization.py [--measure]

Wolff lattices of 64 x 64 are enlarged to 128, these to 256, and these to 512: at each step the
scales above two lattice spacings of the smaller lattice are kept, by scale invariance of the
spectrum, and the smaller ones are drawn. Beside them, lattices made from nothing at each size. Both
are held against direct Wolff ensembles: nothing but the 64 x 64 training set was ever shown.
"""

import torch
import xarray as xr
from ising import TAU, compared, script, table, truth

from skild_physics.cli.console import progress, say
from skild_physics.diffusion.renormalization import critical_process, enlarge
from skild_physics.diffusion.superresolution import Sampling, generate
from skild_physics.observables.exact import BETA_CRITICAL, torus_energy
from skild_physics.plots import COLORS, Figure
from skild_physics.training.checkpoint import Model

SIZES = (128, 256, 512)
CALLS = 20
LABELS = ("truth", "doubled", "from nothing")
SHOWN = {"eta": r"$\eta$", "binder": "Binder parameter", "energy": "energy per spin"}


def measure(model: Model, sr3: str, fields: int) -> xr.Dataset:
    # independent of the ensemble of 64 x 64 in the other figures
    x = truth(model.process.N, fields, seed=3)
    found = []
    for L in SIZES:
        count = fields if L < 512 else fields // 8
        own = critical_process(model.process, L // 2)
        process, denoise = model.critical(L)
        sampling = Sampling(calls=CALLS, seed=L, batch_size=64 * 64**2 // L**2 or 1)
        with progress(f"{L // 2} -> {L}", count) as show:
            x = enlarge(process, denoise, x[:count], own, L / 4, TAU, sampling, show).result
        x = torch.where(x >= 0, 1, -1).to(torch.int8)
        sources = {"truth": truth(L, 2 * fields), "doubled": x}
        if L < 512:
            with progress(f"{L} from nothing", count) as show:
                sources["from nothing"] = generate(
                    process, denoise, count, sampling, progress=show
                ).result
        results = compared(sources)
        say(f"L = {L}")
        table(results)
        kept = [name for name in results if set(results[name].dims) <= {"source", "side"}]
        found.append(results[kept].drop_attrs(deep=False))
    return xr.concat(found, xr.DataArray(list(SIZES), dims="L", name="L"), join="outer")


def draw(results: xr.Dataset) -> Figure:
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    sizes = results["L"].values
    for number, label in enumerate(LABELS):
        row = results.sel(source=label)
        for ax, (name, title) in zip(axes, SHOWN.items(), strict=False):
            ax.errorbar(
                sizes * (1 + 0.06 * (number - 1)),
                row[name],
                row[f"{name}_stderr"],
                fmt="o",
                ms=4,
                color=COLORS[number],
                label=label if number else "Wolff",
            )
            ax.set_xscale("log", base=2)
            ax.set(title=title, xlabel="side of the lattice")
            ax.set_xticks(sizes, [str(L) for L in sizes])
    exact = {"eta": [0.25] * 3, "binder": [0.61069] * 3}
    exact["energy"] = [torus_energy(int(L), BETA_CRITICAL) for L in sizes]
    for ax, values in zip(axes, exact.values(), strict=False):
        ax.plot(sizes, values, ":", color="black", lw=0.8, label="exact")
    axes[0].legend(frameon=False, fontsize=8)
    for ax, L in zip(axes[3:], sizes, strict=True):
        for number, label in enumerate(LABELS[1:], 1):
            row = results.sel(source=label, L=L)
            ax.errorbar(
                results["side"].values * (1 + 0.06 * (number - 1)),
                row["kappa4_residual"],
                row["kappa4_residual_stderr"],
                fmt="o",
                ms=4,
                color=COLORS[number],
            )
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xscale("log", base=2)
        ax.set(xlabel="side $r$  (lattice spacings)", title=f"L = {L}")
    axes[3].set_ylabel(r"$\Delta\kappa_4(r)$")
    return figure


if __name__ == "__main__":
    script("inverse_renormalization", measure, draw)()
