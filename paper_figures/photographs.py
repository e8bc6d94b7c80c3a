"""Photographs that the bundled model never saw, enlarged by 2, 3 and 4; and its spectrum.

    python paper_figures/photographs.py [--measure]

Draws photographs.png and photographs_spectrum.png from the files beside it, and prints the README's
table; --measure makes these files again first, minutes. Coarse pictures are made by a bicubic
kernel, and enlarged from these alone but for the paired results, which start from the truth.
"""

import numpy as np
import xarray as xr
from ising import HERE, script

import skild_physics as sk
from skild_physics.fields.clipping import pixels
from skild_physics.plots import Figure, enlargements_figure, save_figure, spectrum_figure
from skild_physics.tables import with_error

SPECTRUM = HERE / "photographs_spectrum.nc"
FACTORS, SIZE, AVERAGED, KERNEL = (2, 3, 4), 96, 8, "bicubic"
METRICS = ("psnr", "ssim", "ms_ssim")
SHOWN = [5, 8, 26, 31]
"""Patches in the figure: the cat's eye and whiskers, and the cup."""


def made_of(
    model: sk.Model, truth: xr.DataArray, coarse: xr.DataArray, factor: int
) -> dict[str, xr.DataArray]:
    """What each method makes of coarse pictures."""
    # noise corrects errors of the estimate, which a deterministic sampler keeps
    how = {"sampler": sk.Stochastic(20), "progress": sk.bar}
    samples = [model.super_resolve(coarse, factor, seed=seed, **how) for seed in range(AVERAGED)]
    return {
        "bicubic": sk.interpolate(coarse, factor=factor),
        "Lanczos": sk.interpolate(coarse, factor=factor, kernel="lanczos"),
        "SKILD": samples[0],
        f"mean of {AVERAGED}": samples[0].copy(data=np.mean(samples, axis=0)),
        "SKILD, paired": model.reconstruct(truth, factor, **how),
    }


def measure(fields: int, model: str) -> xr.Dataset:
    sk.fit_spectrum("photographs", normalization="isotropic", out=SPECTRUM, overwrite=True)
    skild, truth = sk.load(model), sk.open("photographs-test", size=SIZE, samples=fields)
    rows, pictures = [], {"truth": truth}
    for factor in FACTORS:
        coarse = sk.coarse_grain(truth, factor=factor, kernel=KERNEL)
        made = made_of(skild, truth, coarse, factor)
        quality = sk.eval_images({"truth": truth, **made}, progress=sk.bar)
        print(quality)
        again = (sk.coarse_grain(each, factor=factor, kernel=KERNEL) for each in made.values())
        away = [127.5 * float(np.sqrt(((each - coarse) ** 2).mean())) for each in again]
        row = quality.dataset.sel(source=list(made)).assign(coarse_error=("source", away))
        row["coarse_error"].attrs = {
            "units": "1/255 of white",
            "long_name": "root mean square difference of the coarse pictures made of the result",
        }
        rows.append(row)
        shown = {"coarse": coarse, "bicubic": made["bicubic"], "SKILD": made["SKILD"]}
        pictures |= {f"{name}_{factor}": each for name, each in shown.items()}
    results = xr.concat(rows, "factor").assign_coords(factor=list(FACTORS))
    for name, each in pictures.items():
        N = each.shape[-1]
        results[f"picture_{name}"] = (
            ("patch", "channel", f"y{N}", f"x{N}"),
            pixels(each[SHOWN].values),
        )
    return results.assign_attrs(pictures=len(truth), size=SIZE, averaged=AVERAGED)


def table(results: xr.Dataset) -> list[str]:
    """Rows: factor, method, PSNR, SSIM, MS-SSIM and the error of the coarse pictures."""
    rows = []
    for factor in results["factor"].values:
        for source in results["source"].values:
            at = results.sel(factor=factor, source=source)
            cells = [
                with_error(float(at[f"{name}_mean"]), float(at[f"{name}_mean_stderr"]))
                for name in METRICS
            ]
            error = f"{float(at['coarse_error']):.2g}"
            rows.append(f"| {' | '.join([f'{factor}x', source, *cells, error])} |")
    return rows


def draw(results: xr.Dataset) -> Figure:
    print(*table(results), sep="\n")
    save_figure(spectrum_figure([sk.Spectrum.load(SPECTRUM)]), SPECTRUM.with_suffix(".png"))
    return enlargements_figure(results)


if __name__ == "__main__":
    script("photographs", measure, draw, 36, model="bundled-photographs")
