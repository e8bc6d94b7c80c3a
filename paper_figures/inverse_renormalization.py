"""Critical lattices doubled again and again with weights trained at 64 x 64 only.

    python paper_figures/inverse_renormalization.py [--measure]

Wolff lattices of 64 x 64 are enlarged to 128, these to 256, and these to 512: at each step the
scales above two lattice spacings of the smaller lattice are kept, by scale invariance of the
spectrum, and the smaller ones are drawn. Beside them, unconditional samples of each size. Both are
held against direct Wolff ensembles: nothing but the 64 x 64 training set was ever shown.
"""

import xarray as xr
from ising import script, signs, truth

import skild_physics as sk
from skild_physics.observables.exact import BETA_CRITICAL, torus_energy
from skild_physics.plots import COLORS, Figure

SIZES = (128, 256, 512)
UNCONDITIONAL = "from nothing"
LABELS = {"truth": "Wolff", "doubled": "doubled", UNCONDITIONAL: "unconditional"}
SHOWN = {"eta": r"$\eta$", "binder": "Binder parameter", "energy": "energy per spin"}


def measure(fields: int, model: str) -> xr.Dataset:
    skild = sk.load(model)
    # independent of the ensemble of 64 x 64 in the other figures
    x = truth(skild.size, fields, seed=3)
    rows = []
    for L in SIZES:
        count = fields if L < 512 else fields // 8
        how = {"seed": L, "batch_size": 64 * 64**2 // L**2 or 1, "progress": sk.bar}
        x = signs(skild.enlarge(x[:count], 2, **how))
        sources = {"truth": truth(L, 2 * fields), "doubled": x}
        if L < 512:
            sources[UNCONDITIONAL] = skild.generate(count, L=L, **how)
        found = sk.eval_correlators(sources, binarize="sign", progress=sk.bar)
        print(f"L = {L}", found, sep="\n")
        results = found.dataset
        kept = [name for name in results if set(results[name].dims) <= {"source", "side"}]
        rows.append(results[kept].drop_attrs(deep=False))
    return xr.concat(rows, xr.DataArray(list(SIZES), dims="L", name="L"), join="outer")


def draw(results: xr.Dataset) -> Figure:
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    sizes = results["L"].values
    exact = {"eta": [0.25] * 3, "binder": [0.61069] * 3}
    exact["energy"] = [torus_energy(int(L), BETA_CRITICAL) for L in sizes]
    for ax, (name, title) in zip(axes, SHOWN.items(), strict=False):
        for number, (label, shown) in enumerate(LABELS.items()):
            row, x = results.sel(source=label), sizes * (1 + 0.06 * (number - 1))
            style = {"fmt": "o", "ms": 4, "color": COLORS[number], "label": shown}
            ax.errorbar(x, row[name], row[f"{name}_stderr"], **style)
        ax.plot(sizes, exact[name], ":", color="black", lw=0.8, label="exact")
        ax.set_xscale("log", base=2)
        ax.set(title=title, xlabel="side of the lattice")
        ax.set_xticks(sizes, [str(L) for L in sizes])
    axes[0].legend(frameon=False, fontsize=8)
    for ax, L in zip(axes[3:], sizes, strict=True):
        for number, label in enumerate(list(LABELS)[1:], 1):
            row, x = results.sel(source=label, L=L), results["side"] * (1 + 0.06 * (number - 1))
            value, stderr = row["kappa4_residual"], row["kappa4_residual_stderr"]
            ax.errorbar(x, value, stderr, fmt="o", ms=4, color=COLORS[number])
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xscale("log", base=2)
        ax.set(xlabel="side $r$  (lattice spacings)", title=f"L = {L}")
    axes[3].set_ylabel(r"$\Delta\kappa_4(r)$")
    return figure


if __name__ == "__main__":
    script("inverse_renormalization", measure, draw, model="bundled")
