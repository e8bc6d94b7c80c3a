"""Photographs that a model has not seen, enlarged by 2, 3 and 4, and the quality of the results."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from rich.table import Table

from skild_physics.config import Config, load_config
from skild_physics.diffusion.sampler import Stochastic
from skild_physics.disk import write_netcdf
from skild_physics.fields import batches, open_fields
from skild_physics.fields.clipping import pixels
from skild_physics.fields.downsampling import downsample
from skild_physics.fields.interpolation import KERNELS, Kernel
from skild_physics.fields.photographs import DEFAULT_SIZE, photograph_files
from skild_physics.fields.resampling import coarse_grain, interpolate
from skild_physics.fields.writing import made_from, save
from skild_physics.models.base import Model
from skild_physics.models.checkpoint import BUNDLED_PHOTOGRAPHS, load
from skild_physics.pipeline.stages import Stages, once
from skild_physics.plots import enlargements_figure, save_figure
from skild_physics.progress import Progress
from skild_physics.quality.evaluate import variable
from skild_physics.quality.results import DEFAULT, eval_images
from skild_physics.spectrum import Spectrum, fit_spectrum
from skild_physics.tables import Printed, with_error
from skild_physics.training.train import train

FACTORS = (2, 3, 4)
SIZE = 96
AVERAGED = 8
SPECTRUM = "photographs64-spectrum.nc"
METHODS = {
    "bicubic": "bicubic",
    "Lanczos": "lanczos",
    "SKILD": "observed0",
    f"mean of {AVERAGED}": "mean",
    "SKILD, paired": "paired",
}
"""Names of the files by the titles of the methods."""
MADE = (
    *(SPECTRUM, "spectrum.png", "truth.h5", "photographs.nc", "photographs.png"),
    *(
        f"{name}_{factor}.h5"
        for factor in FACTORS
        for name in (
            *("coarse", "paired", "mean", *KERNELS),
            *(f"observed{seed}" for seed in range(AVERAGED)),
        )
    ),
)
"""Names of the files that the stages make, but for those of training."""
SHOWN = (5, 8, 26, 31)
"""Patches in the figure: the cat's eye and whiskers, and the cup."""


@dataclass(frozen=True, repr=False)
class Enlargements(Printed):
    """Quality by factor and method.

    Attributes:
        dataset: means over patches with errors (factor, source), the error of the coarse pictures,
            and pictures (patch, channel, y, x) for the figure.
    """

    dataset: xr.Dataset

    @property
    def rows(self) -> list[list[str]]:
        """Factor, method, PSNR, SSIM, MS-SSIM and the error of the coarse pictures, as texts."""
        rows = []
        for factor in self.dataset["factor"].values:
            for source in self.dataset["source"].values:
                at = self.dataset.sel(factor=factor, source=source)
                cells = [
                    with_error(float(at[f"{name}_mean"]), float(at[f"{name}_mean_stderr"]))
                    for name in map(variable, DEFAULT)
                ]
                rows.append([f"{factor}x", str(source), *cells, f"{float(at['coarse_error']):.2g}"])
        return rows

    def tables(self) -> list[Table]:
        """A row per factor and method."""
        scales = int(self.dataset["ms_ssim"].attrs["scales"])
        table = Table("", "method", "PSNR / dB", "SSIM", f"MS-SSIM, {scales} scales", "coarse")
        for row in self.rows:
            table.add_row(*row)
        return [table]

    def notes(self) -> list[str]:
        """What the errors are."""
        return [
            f"({int(self.dataset.attrs['pictures'])} patches of {SIZE} x {SIZE} pixels of two "
            "photographs, which are not independent: errors are those of the mean over patches; "
            "coarse: root mean square difference, in grey levels of 255, between the given coarse "
            "pictures and those made of the result)"
        ]


class PhotographsRun(NamedTuple):
    """What the pipeline found, and its figure."""

    spectrum: Spectrum
    quality: Enlargements
    figure: Path


@dataclass(frozen=True)
class PhotographsCase:
    """The options of the case, see :func:`skild_physics.pipeline.reproduce.reproduce`."""

    n_evals: int
    retrain: bool
    overrides: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """What tells runs apart."""
        return {
            "case": "photographs",
            "steps": self.n_evals,
            "retrain": self.retrain,
            "set": list(self.overrides),
        }

    def config(self, out: Path) -> Config:
        """Of the training.

        Args:
            out: folder of the run.
        """
        given = (f"process.spectrum={out / SPECTRUM}", f"out={out}", *self.overrides)
        return load_config("photographs64", given)

    def check(self) -> None:
        """Look for what is wrong with them.

        Raises:
            InputError: options that a stage cannot be run with, or a package is missing.
        """
        Stochastic(self.n_evals)
        photograph_files("test")
        if self.retrain:
            N = DEFAULT_SIZE
            self.config(Path()).check_sizes(N, N)

    def run(self, out: Path, progress: Progress) -> PhotographsRun:
        """All stages, those that are finished already not again.

        Args:
            out: folder of the run.
            progress: shows how far each stage is.
        """
        stages = Stages(4 if self.retrain else 3)

        with stages.next("variance spectrum S0(k) of the photographs to train on"):
            path = out / SPECTRUM
            spectrum = fit_spectrum(
                "photographs", normalization="isotropic", out=path, progress=progress
            )
            save_figure(spectrum.plot(), out / "spectrum.png")

        model = load(BUNDLED_PHOTOGRAPHS)
        if self.retrain:
            with stages.next("training SKILD"):
                model = train(self.config(out), progress=progress)

        with stages.next("super-resolution of photographs that were not trained on"):
            photographs = open_fields("photographs-test", size=SIZE)
            truth = once(out / "truth.h5", lambda to: save(photographs, to))
            enlarged = {
                factor: _enlarged(model, truth, out, factor, self.n_evals, progress)
                for factor in FACTORS
            }

        with stages.next("quality of the pictures"):
            quality = Enlargements(_measured(truth, enlarged, progress))
            write_netcdf(out / "photographs.nc", {None: quality.dataset})
            save_figure(enlargements_figure(quality.dataset), out / "photographs.png")
        return PhotographsRun(spectrum, quality, out / "photographs.png")


def _enlarged(
    model: Model, truth: xr.DataArray, out: Path, factor: int, n_evals: int, progress: Progress
) -> dict[str, xr.DataArray]:
    """Coarse pictures, and what each method makes of them, by the titles of the methods."""
    # noise corrects errors of the estimate, which a deterministic sampler keeps
    how: dict[str, Any] = {"sampler": Stochastic(n_evals), "progress": progress}

    def file(name: str) -> Path:
        return out / f"{name}_{factor}.h5"

    coarse = once(
        file("coarse"), lambda to: coarse_grain(truth, factor=factor, kernel="bicubic", out=to)
    )
    found = {"coarse": coarse}
    found["paired"] = once(
        file("paired"), lambda to: model.reconstruct(truth, factor, out=to, **how)
    )

    def sampled(to: Path, seed: int) -> xr.DataArray:
        return model.super_resolve(coarse, factor, seed=seed, out=to, **how)

    def interpolated(to: Path, kernel: Kernel) -> xr.DataArray:
        return interpolate(coarse, factor=factor, kernel=kernel, out=to)

    samples = [
        once(file(f"observed{seed}"), partial(sampled, seed=seed)) for seed in range(AVERAGED)
    ]
    found["observed0"] = samples[0]
    for kernel in KERNELS:
        found[kernel] = once(file(kernel), partial(interpolated, kernel=kernel))

    def mean(to: Path) -> xr.DataArray:
        average = np.mean([values(each) for each in samples], axis=0)
        return made_from([average], coarse, dict(samples[0].attrs), to)

    found["mean"] = once(file("mean"), mean)
    return found


def values(fields: xr.DataArray) -> NDArray[np.floating]:
    """All fields in memory, (sample, channel, y, x)."""
    return np.concatenate(list(batches(fields)))


def _measured(
    truth: xr.DataArray, enlarged: dict[int, dict[str, xr.DataArray]], progress: Progress
) -> xr.Dataset:
    """Quality by factor and method, and the pictures of the figure."""
    found: list[xr.Dataset] = []
    errors: list[list[float]] = []
    pictures = {"truth": values(truth)}
    for factor, made in enlarged.items():
        sources = {title: made[name] for title, name in METHODS.items()}
        quality = eval_images({"truth": truth, **sources}, progress=progress)
        found.append(quality.dataset.sel(source=list(METHODS)))
        coarse = pictures[f"coarse_{factor}"] = values(made["coarse"])
        errors.append([])
        for title, fields in sources.items():
            fine = values(fields)
            again = downsample(torch.from_numpy(fine), "bicubic", coarse.shape[-1], "cosine")
            errors[-1].append(127.5 * float(np.sqrt(np.mean((again.numpy() - coarse) ** 2))))
            if title in ("bicubic", "SKILD"):
                pictures[f"{title}_{factor}"] = fine
    results = xr.concat(found, "factor").assign_coords(factor=list(enlarged))
    results["coarse_error"] = ("factor", "source"), np.array(errors)
    results["coarse_error"].attrs = {
        "units": "1/255 of white",
        "long_name": "root mean square difference of the coarse pictures made of the result",
    }
    for name, picture in pictures.items():
        N = picture.shape[-1]
        shown = pixels(picture[list(SHOWN)])
        results[f"picture_{name}"] = ("patch", "channel", f"y{N}", f"x{N}"), shown
    return results.assign_attrs(pictures=len(pictures["truth"]), size=SIZE, averaged=AVERAGED)
