"""Connected four-point correlators of 64 x 64 lattices made by factor 4, and by SR3 from the same.

    python paper_figures/four_point.py [--measure]

One set of SKILD weights makes held-out lattices again from their forward marginal at an effective
resolution of 16 x 16 (the paired protocol of arXiv 2605.26032), from their 16 x 16 block averages,
and from nothing. SR3, of the same network, data, optimiser and number of steps, is told the block
averages. Residuals of the first, second and fourth are paired, field by field.
"""

import xarray as xr
from ising import TAU, compared, script, table, truth

from skild_physics.baselines.sr3 import super_resolve_conditional
from skild_physics.cli.console import progress
from skild_physics.diffusion.downsampling import downsample
from skild_physics.diffusion.superresolution import (
    Sampling,
    generate,
    super_resolve_observed,
    super_resolve_paired,
)
from skild_physics.plots import Figure, correlator_figure
from skild_physics.training.checkpoint import Model, load_model

FACTOR, CALLS, SR3_CALLS, PICTURES = 4, 20, 100, 2


def measure(model: Model, sr3: str, fields: int) -> xr.Dataset:
    process, L = model.process, model.process.N
    x = truth(L, fields)
    coarse = downsample(x.float(), "box", L // FACTOR, process.basis)
    denoise, sampling = model.denoiser(), Sampling(calls=CALLS)
    with progress("paired", fields) as show:
        paired = super_resolve_paired(process, denoise, x, FACTOR, TAU, sampling, show)
    with progress("from block averages", fields) as show:
        observed = super_resolve_observed(process, denoise, coarse, "box", TAU, sampling, show)
    with progress("from nothing", fields) as show:
        made = generate(process, denoise, fields, sampling, progress=show)
    with progress("SR3", fields) as show:
        ancestral = Sampling(calls=SR3_CALLS, sampler="ancestral")
        other = load_model(sr3)
        told = super_resolve_conditional(other.process, other.told, coarse, ancestral, show)
    sources = {
        "truth": x,
        "SKILD": paired.result,
        "SKILD, block averages": observed.result,
        "SKILD, from nothing": made.result,
        "SR3, block averages": told.result,
    }
    results = compared(sources)
    for label, field in {"start": paired.start, **sources}.items():
        results[f"picture_{label}"] = (("picture", "y", "x"), field[:PICTURES, 0].float().numpy())
    table(results)
    return results


def draw(results: xr.Dataset) -> Figure:
    titles = {
        "truth": "truth, held out",
        "start": "start: 16 x 16",
        "SKILD": "SKILD, 20 calls",
        "SKILD, block averages": "from block averages",
        "SKILD, from nothing": "from nothing",
        "SR3, block averages": f"SR3, {SR3_CALLS} steps",
    }
    pictures = {title: results[f"picture_{name}"][1].values for name, title in titles.items()}
    return correlator_figure(results, pictures)


if __name__ == "__main__":
    script("four_point", measure, draw)()
