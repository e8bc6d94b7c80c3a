"""Photographs that the bundled model never saw, enlarged by 2, 3 and 4; and its spectrum.

    python paper_figures/photographs.py [--measure]
    python paper_figures/photographs.py --pictures pictures/test --measure

Draws photographs.png, and photographs_spectrum.png, from the files beside it, and prints the table
of the documentation; --measure makes these files again first, minutes. Pictures are a cat and a cup
of coffee, or those of a folder, see wallpapers.py, which photographs_heldout.nc is of. Coarse
pictures are made by a bicubic kernel, and enlarged from these alone but for the paired results,
which start from the truth.

With `pip install stlpips-pytorch torchsummary ipython` they are compared by ST-LPIPS, too: LPIPS
with an AlexNet that small shifts change less, whose weights come with it (Ghildyal and Liu, ECCV
2022).
"""

from importlib.util import find_spec

import click
import numpy as np
import torch
import xarray as xr
from ising import HERE, save

import skild_physics as sk
from skild_physics.claims import replacing
from skild_physics.fields.clipping import pixels
from skild_physics.plots import Figure, enlargements_figure, save_figure, spectrum_figure
from skild_physics.quality.extras import import_extra
from skild_physics.tables import with_error

SPECTRUM = HERE / "photographs_spectrum.nc"
FACTORS, SIZE, AVERAGED, KERNEL = (2, 3, 4), 96, 8, "bicubic"
METRICS = ("psnr", "ssim", "ms_ssim", "st_lpips")
PICTURED = 4
"""Patches in a figure."""


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


def st_lpips(truth: xr.DataArray, made: dict[str, xr.DataArray]) -> xr.Dataset:
    """ST-LPIPS of every patch of every method, (source, image), with means and errors."""
    # imports torchvision, also where its operators do not load
    import_extra("lpips", "ST-LPIPS")
    from stlpips_pytorch import stlpips

    network = stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False)

    def shown(fields: xr.DataArray) -> torch.Tensor:
        return torch.from_numpy(pixels(fields.values)).float() / 127.5 - 1

    with torch.no_grad():
        found = [network(shown(truth), shown(each)).flatten().numpy() for each in made.values()]
    values = np.stack(found)
    error = values.std(axis=1, ddof=1) / values.shape[1] ** 0.5
    return xr.Dataset(
        {
            "st_lpips": (("source", "image"), values),
            "st_lpips_mean": ("source", values.mean(axis=1)),
            "st_lpips_mean_stderr": ("source", error),
        },
        {"source": list(made)},
    )


def measure(truth: xr.DataArray, model: str, shown: list[int]) -> xr.Dataset:
    skild, rows, pictures = sk.load(model), [], {"truth": truth}
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
        if find_spec("stlpips_pytorch"):
            row = row.merge(st_lpips(truth, made))
        rows.append(row)
        columns = {"coarse": coarse, "bicubic": made["bicubic"], "SKILD": made["SKILD"]}
        pictures |= {f"{name}_{factor}": each for name, each in columns.items()}
    results = xr.concat(rows, "factor").assign_coords(factor=list(FACTORS))
    for name, each in pictures.items():
        N = each.shape[-1]
        results[f"picture_{name}"] = (
            ("patch", "channel", f"y{N}", f"x{N}"),
            pixels(each[shown].values),
        )
    return results.assign_attrs(pictures=len(truth), size=SIZE, averaged=AVERAGED)


def table(results: xr.Dataset) -> list[str]:
    """Rows: factor, method, what was measured, and the error of the coarse pictures."""
    rows = []
    for factor in results["factor"].values:
        for source in results["source"].values:
            at = results.sel(factor=factor, source=source)
            cells = [
                with_error(float(at[f"{name}_mean"]), float(at[f"{name}_mean_stderr"]))
                for name in METRICS
                if f"{name}_mean" in at
            ]
            error = f"{float(at['coarse_error']):.2g}"
            rows.append(f"| {' | '.join([f'{factor}x', source, *cells, error])} |")
    return rows


COMPARED = (
    ("psnr", "PSNR / dB", f"mean of {AVERAGED}", "Lanczos"),
    ("psnr", "PSNR / dB", "SKILD", "bicubic"),
    ("ms_ssim", "MS-SSIM", "SKILD", "bicubic"),
    ("st_lpips", "ST-LPIPS", "SKILD", "bicubic"),
    ("st_lpips", "ST-LPIPS", "SKILD", "Lanczos"),
)


def differences(results: xr.Dataset) -> list[str]:
    """Rows: what is compared, and the mean difference, patch by patch, of every factor."""
    rows = []
    for name, title, method, other in COMPARED:
        if name not in results:
            continue
        away = results[name].sel(source=method) - results[name].sel(source=other)
        each = [
            with_error(float(row.mean()), float(row.std(ddof=1)) / row.size**0.5) for row in away
        ]
        rows.append(f"| {title}, {method} less {other} | {' | '.join(each)} |")
    return rows


def draw(results: xr.Dataset) -> Figure:
    print(*table(results), *differences(results), sep="\n")
    save(spectrum_figure([sk.Spectrum.load(SPECTRUM)]), SPECTRUM.stem)
    return enlargements_figure(results)


@click.command(help="Draw photographs.png from photographs.nc, or that of other pictures.")
@click.option("--measure", "again", is_flag=True, help="Make the file again first.")
@click.option("--pictures", help="Folder of pictures, in place of a cat and a cup of coffee.")
@click.option("--fields", default=36, show_default=True, help="Patches to measure on.")
@click.option("--model", default="bundled-photographs", show_default=True, help="Checkpoint.")
def main(again: bool, pictures: str | None, fields: int, model: str) -> None:
    name = "photographs_heldout" if pictures else "photographs"
    path = HERE / f"{name}.nc"
    if again:
        truth = sk.open(pictures or "photographs-test", size=SIZE, tile=bool(pictures))
        # evenly, so that all photographs are among them
        chosen = np.linspace(0, len(truth) - 1, min(fields, len(truth))).round().astype(int)
        # the cat's eye and whiskers, and the cup
        shown = list(range(2, fields, fields // PICTURED)) if pictures else [5, 8, 26, 31]
        results = measure(truth[chosen].load(), model, shown[:PICTURED])
        if not pictures:
            sk.fit_spectrum("photographs", normalization="isotropic", out=SPECTRUM, overwrite=True)
        with replacing(path) as temporary:
            results.to_netcdf(temporary, engine="h5netcdf")
    with xr.open_dataset(path, engine="h5netcdf") as results:
        # pixels alone: there is nothing in it that vectors would make sharper
        save_figure(draw(results), path.with_suffix(".png"))
    click.echo(path.with_suffix(".png"))


if __name__ == "__main__":
    main()
