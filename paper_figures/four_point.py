"""Connected four-point correlators of 64 x 64 lattices made by factor 4, and by SR3 from the same.

    python paper_figures/four_point.py [--measure]

One set of SKILD weights makes held-out lattices again from their forward marginal at an effective
resolution of 16 x 16 (the paired protocol of arXiv 2605.26032), from their 16 x 16 block averages,
and without either. SR3, a smaller network of fewer steps, is conditioned on
the block averages. Residuals of the first, second and fourth are paired, field by field.
"""

import xarray as xr
from ising import SR3, WHOLE, script, truth

import skild_physics as sk
from skild_physics.plots import Figure, correlator_figure

FACTOR, N_EVALS, SR3_EVALS, PICTURES = 4, 20, 100, 2
UNCONDITIONAL = "SKILD, from nothing"


def measure(fields: int, model: str, sr3: str) -> xr.Dataset:
    skild, other = sk.load(model), sk.load(sr3)
    x = truth(skild.size, fields)
    coarse = sk.coarse_grain(x, factor=FACTOR)
    how = {"sampler": sk.Multistep(N_EVALS), "progress": sk.bar}
    ancestral = {**how, "sampler": sk.Ancestral(SR3_EVALS, spacing="log-resolution")}
    sources = {
        "truth": x,
        "SKILD": skild.reconstruct(x, FACTOR, **how),
        "SKILD, block averages": skild.super_resolve(coarse, FACTOR, **how),
        UNCONDITIONAL: skild.generate(fields, sampler=WHOLE, progress=sk.bar),
        "SR3, block averages": other.super_resolve(coarse, FACTOR, **ancestral),
    }
    found = sk.eval_correlators(sources, binarize="sign", progress=sk.bar)
    print(found)
    pictures = {"start": sources["SKILD"]["start"], **sources}
    return found.dataset.assign(
        {
            f"picture_{label}": (("picture", "y", "x"), each[:PICTURES].values.astype("float32"))
            for label, each in pictures.items()
        }
    )


def draw(results: xr.Dataset) -> Figure:
    titles = {
        "truth": "truth",
        "start": "start, R = 16",
        "SKILD": "SKILD",
        "SKILD, block averages": "from block averages",
        UNCONDITIONAL: "unconditional",
        "SR3, block averages": "SR3",
    }
    pictures = {title: results[f"picture_{name}"][1].values for name, title in titles.items()}
    labels = [label.replace("from nothing", "unconditional") for label in results["source"].values]
    return correlator_figure(results.assign_coords(source=labels), pictures)


if __name__ == "__main__":
    script("four_point", measure, draw, model="bundled", sr3=SR3)
