"""Critical lattices doubled again and again with weights trained at 64 x 64 only.

    python paper_figures/inverse_renormalization.py [--measure]

Wolff lattices of 64 x 64 are enlarged to 128, these to 256, and these to 512: at each step the
scales above two lattice spacings of the smaller lattice are kept, by scale invariance of the
spectrum, and the smaller ones are drawn. Beside them, unconditional samples of each size. Both are
held against direct Wolff ensembles: nothing but the 64 x 64 training set was ever shown.
"""

import xarray as xr
from ising import WHOLE, script, signs, truth

import skild_physics as sk
from skild_physics.observables.exact import BETA_CRITICAL, torus_energy
from skild_physics.plots import Figure, looks, new_figure
from skild_physics.plots.style import (
    BLACK,
    PAGE,
    bars,
    lettered,
    on_sides,
    side_by_side,
    zero_line,
)

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
            sources[UNCONDITIONAL] = skild.generate(count, L=L, sampler=WHOLE, **how)
        found = sk.eval_correlators(sources, binarize="sign", progress=sk.bar)
        print(f"L = {L}", found, sep="\n")
        results = found.dataset
        kept = [name for name in results if set(results[name].dims) <= {"source", "side"}]
        rows.append(results[kept].drop_attrs(deep=False))
    return xr.concat(rows, xr.DataArray(list(SIZES), dims="L", name="L"), join="outer")


def draw(results: xr.Dataset) -> Figure:
    sizes = results["L"].values
    exact = {"eta": [0.25] * 3, "binder": [0.61069] * 3}
    exact["energy"] = [torus_energy(int(L), BETA_CRITICAL) for L in sizes]
    looked, apart = looks(list(LABELS.values()), "Wolff"), side_by_side(len(LABELS), 0.2)
    with new_figure(PAGE, 5) as figure:
        axes = figure.subplots(2, 3).ravel()
        for ax, (name, title) in zip(axes, SHOWN.items(), strict=False):
            for (label, shown), factor in zip(LABELS.items(), apart, strict=True):
                row = results.sel(source=label)
                value, stderr = row[name], row[f"{name}_stderr"]
                bars(ax, sizes * factor, value, stderr, label=shown, **looked[shown])
            ax.plot(sizes, exact[name], ":", color=BLACK, label="exact")
            ax.set_xscale("log", base=2)
            ax.set(title=title, xlabel="side of the lattice $L$", xlim=(95, 690))
            ax.set_xticks(sizes, [str(L) for L in sizes])
        for ax, L in zip(axes[3:], sizes, strict=True):
            for (label, shown), factor in zip(list(LABELS.items())[1:], apart[1:], strict=True):
                row = results.sel(source=label, L=L).dropna("side", subset=["kappa4_residual"])
                value, stderr = row["kappa4_residual"], row["kappa4_residual_stderr"]
                bars(ax, row["side"] * factor, value, stderr, **looked[shown])
            zero_line(ax)
            on_sides(ax, [4**n for n in range(5) if 4**n <= L / 2])
            ax.set(title=f"$L$ = {L}")
        axes[3].set_ylabel("$\\kappa_4(r)$ minus Wolff's")
        lettered(axes)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


if __name__ == "__main__":
    script("inverse_renormalization", measure, draw, model="bundled")
