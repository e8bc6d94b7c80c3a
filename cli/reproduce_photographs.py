"""skild-physics reproduce photographs: the pipeline on pictures that need no download."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from rich.table import Table

from skild_physics.baselines.interpolation import KERNELS, interpolate
from skild_physics.cli.coarse_grain import coarse_grain
from skild_physics.cli.console import answers, progress, say
from skild_physics.cli.fit_spectrum import show_fit
from skild_physics.cli.inputs import read_fields
from skild_physics.cli.stages import Stages, claim
from skild_physics.cli.super_resolve import run_super_resolution
from skild_physics.cli.train import run_training
from skild_physics.diffusion.downsampling import downsample
from skild_physics.fields import open_source, photographs
from skild_physics.fields.writing import pixels, write_fields
from skild_physics.files import replacing
from skild_physics.plots import enlargements_figure, save_figure, spectrum_figure
from skild_physics.quality.evaluate import evaluate, variable
from skild_physics.quality.summary import summarize
from skild_physics.spectrum import Spectrum, measure_blocks, spectrum_from_blocks
from skild_physics.tables import with_error
from skild_physics.training.checkpoint import BUNDLED_PHOTOGRAPHS
from skild_physics.training.config import load_config

FACTORS = (2, 3, 4)
SIZE = 96
AVERAGED = 8
METRICS = ("psnr", "ssim", "ms-ssim")
METHODS = {
    "bicubic": "bicubic",
    "Lanczos": "lanczos",
    "SKILD": "observed0",
    f"mean of {AVERAGED}": "mean",
    "SKILD, paired": "paired",
}
"""Names of the files by the titles of the methods."""
SHOWN = (5, 8, 26, 31)
"""Patches in the figure: the cat's eye and whiskers, and the cup."""


def reproduce_photographs(
    out: Path, steps: int, retrain: bool, overrides: tuple[str, ...], overwrite: bool
) -> Path:
    """Spectrum, training if asked for, super-resolution and its quality; returns the figure."""
    of_factor = ["coarse", "paired", *(f"observed{seed}" for seed in range(AVERAGED))]
    names = [f"{name}_{factor}.h5" for factor in FACTORS for name in of_factor]
    settings = {"case": "photographs", "steps": steps, "retrain": retrain, "set": list(overrides)}
    fresh = claim(out, settings, ["photographs64-spectrum.nc", "truth.h5", *names], overwrite)
    stages = Stages(4 if retrain else 3)

    with stages.next("variance spectrum S0(k) of the photographs to train on"):
        path = out / "photographs64-spectrum.nc"
        if not path.exists():
            with open_source("photographs") as stream, progress("measure", stream.count) as show:
                blocks = measure_blocks(stream, progress=show)
            spectrum_from_blocks(
                blocks,
                "cosine",
                normalization="isotropic",
                source="photographs",
                channels=stream.channels,
            ).save(path)
        spectrum = Spectrum.load(path)
        save_figure(spectrum_figure([spectrum]), out / "spectrum.png")
        show_fit(spectrum)

    checkpoint = Path(BUNDLED_PHOTOGRAPHS)
    if retrain:
        with stages.next("training SKILD"):
            given = (f"process.spectrum={path}", f"out={out}", *overrides)
            checkpoint = run_training(load_config("photographs64", given), overwrite=fresh)

    with stages.next("super-resolution of photographs that were not trained on"):
        stream = photographs(SIZE, "test")
        if not (out / "truth.h5").exists():
            truth = np.concatenate(list(stream.read(0, stream.count)))
            made = {"basis": "cosine", "channels": ",".join(stream.channels)}
            write_fields(out / "truth.h5", truth, made)
        for factor in FACTORS:
            _make(checkpoint, out, factor, steps)

    with stages.next("quality of the pictures"):
        results = _measure(out)
        with replacing(out / "photographs.nc") as temporary:
            results.to_netcdf(temporary, engine="h5netcdf")
        answers.print(_table(results))
        count = int(results.attrs["pictures"])
        say(
            f"({count} patches of {SIZE} x {SIZE} pixels of two photographs, which are not "
            "independent: errors are those of the mean over patches; coarse: root mean square "
            "difference, in grey levels of 255, between the given coarse pictures and those made "
            "of the result)"
        )
        picture = out / "photographs.png"
        save_figure(enlargements_figure(results), picture)
    return picture


def _make(checkpoint: Path, out: Path, factor: int, steps: int) -> None:
    """Coarse pictures, and what each method makes of them: NAME_FACTOR.h5."""

    def file(name: str) -> Path:
        return out / f"{name}_{factor}.h5"

    # noise corrects errors of the estimate, which a deterministic sampler keeps
    sampling: dict[str, Any] = {"calls": steps, "sampler": "stochastic"}
    truth = out / "truth.h5"
    if not file("coarse").exists():
        coarse_grain(truth, file("coarse"), factor, "bicubic")
    if not file("paired").exists():
        run_super_resolution(checkpoint, truth, file("paired"), factor, sampling)
    samples = [file(f"observed{seed}") for seed in range(AVERAGED)]
    for seed, path in enumerate(samples):
        if not path.exists():
            own = {**sampling, "seed": seed}
            run_super_resolution(checkpoint, file("coarse"), path, factor, own, None, "observed")
    coarse, stream = read_fields(file("coarse"), None)
    made = {"basis": "cosine", "channels": ",".join(stream.channels), "factor": factor}
    for kernel in KERNELS:
        write_fields(file(kernel), interpolate(coarse, SIZE, kernel), made)
    mean = np.mean([read_fields(path, None)[0] for path in samples], axis=0)
    write_fields(file("mean"), mean, made)


def _measure(out: Path) -> xr.Dataset:
    """Quality by factor and method, and the pictures of the figure."""
    found, errors, pictures = [], [], {}
    for factor in FACTORS:
        files = {title: out / f"{name}_{factor}.h5" for title, name in METHODS.items()}
        with ExitStack() as stack:
            streams = {
                title: stack.enter_context(open_source(path))
                for title, path in {"truth": out / "truth.h5", **files}.items()
            }
            values = summarize(evaluate(streams, METRICS), METRICS)
        found.append(values.sel(source=list(METHODS)))
        coarse, _ = read_fields(out / f"coarse_{factor}.h5", None)
        pictures[f"coarse_{factor}"] = coarse
        errors.append([])
        for title, path in files.items():
            fields, _ = read_fields(path, None)
            again = downsample(torch.from_numpy(fields), "bicubic", coarse.shape[-1], "cosine")
            errors[-1].append(127.5 * float(np.sqrt(np.mean((again.numpy() - coarse) ** 2))))
            if title in ("bicubic", "SKILD"):
                pictures[f"{title}_{factor}"] = fields
    results = xr.concat(found, "factor").assign_coords(factor=list(FACTORS))
    results["coarse_error"] = ("factor", "source"), np.array(errors)
    results["coarse_error"].attrs = {
        "units": "1/255 of white",
        "long_name": "root mean square difference of the coarse pictures made of the result",
    }
    pictures["truth"], _ = read_fields(out / "truth.h5", None)
    for name, fields in pictures.items():
        N = fields.shape[-1]
        shown = pixels(fields[list(SHOWN)])
        results[f"picture_{name}"] = ("patch", "channel", f"y{N}", f"x{N}"), shown
    return results.assign_attrs(pictures=len(pictures["truth"]), size=SIZE, averaged=AVERAGED)


def quality_table(results: xr.Dataset) -> list[list[str]]:
    """Rows: factor, method, PSNR, SSIM, MS-SSIM and the error of the coarse pictures."""
    rows = []
    for factor in results["factor"].values:
        for source in results["source"].values:
            at = results.sel(factor=factor, source=source)
            cells = [
                with_error(float(at[f"{name}_mean"]), float(at[f"{name}_mean_stderr"]))
                for name in map(variable, METRICS)
            ]
            rows.append([f"{factor}x", str(source), *cells, f"{float(at['coarse_error']):.2g}"])
    return rows


def _table(results: xr.Dataset) -> Table:
    scales = int(results["ms_ssim"].attrs["scales"])
    table = Table("", "method", "PSNR / dB", "SSIM", f"MS-SSIM, {scales} scales", "coarse")
    for row in quality_table(results):
        table.add_row(*row)
    return table
