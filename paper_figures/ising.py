"""What the figures of the Ising model share: held-out lattices, models, evaluation, one command.

Every script draws its figure from the NetCDF file of its name; with --measure it makes this file
again first, with lattices of fixed seeds and the models named by --model and --sr3.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch
import xarray as xr
from torch import Tensor

from skild_physics.cli.console import progress, say
from skild_physics.data_gen import IsingParameters, generate
from skild_physics.fields import open_ensemble
from skild_physics.files import replacing
from skild_physics.observables.evaluate import evaluate
from skild_physics.observables.exact import BETA_CRITICAL
from skild_physics.observables.measure import Plan
from skild_physics.plots import Figure, save_figure
from skild_physics.tables import with_error
from skild_physics.training.checkpoint import BUNDLED, Model, load_model

HERE = Path(__file__).parent
LATTICES = HERE.parent / "runs" / "figures"
SR3 = HERE / "ising64_sr3"
TAU = 0.1


def truth(L: int, count: int, seed: int = 2) -> Tensor:
    """Spins (count, 1, L, L) of a critical ensemble; seed 1 is that of the training fields."""
    path = LATTICES / f"L{L}-seed{seed}.h5"
    with progress(f"{L} x {L} lattices", count) as show:
        parameters = IsingParameters.planned(L, seed=seed)
        generate(path, parameters, count, workers=os.cpu_count() or 1, progress=show)
    with open_ensemble(path) as ensemble:
        return torch.from_numpy(ensemble["spins"][:count].values)[:, None]


def compared(sources: Mapping[str, Tensor], rounds: int = 0) -> xr.Dataset:
    """Observables of the signs of fields (sample, 1, L, L), the first being the truth."""
    spins = {
        label: xr.DataArray(
            torch.where(x >= 0, 1, -1).to(torch.int8)[:, 0].numpy(),
            dims=("sample", "y", "x"),
            attrs={"model": "ising", "beta": BETA_CRITICAL},
        )
        for label, x in sources.items()
    }
    return evaluate(spins, Plan(rounds=rounds))[0]


def table(results: xr.Dataset) -> None:
    """Residuals of every source, as value(error in the last digits)."""
    names = ["energy", "abs_magnetization", "binder", "eta"]
    for label in results["source"].values[1:]:
        row = results.sel(source=label)
        kappa4 = " ".join(
            with_error(float(a), float(b))
            for a, b in zip(row["kappa4_residual"], row["kappa4_residual_stderr"], strict=True)
        )
        others = " ".join(
            f"{name} "
            + with_error(float(row[f"{name}_residual"]), float(row[f"{name}_residual_stderr"]))
            for name in names
        )
        say(f"{label:32s} kappa4 {kappa4}  {others}")


def script(
    name: str, measure: Callable[[Model, str, int], xr.Dataset], draw: Callable[[Any], Figure]
) -> click.Command:
    """The command of a figure."""

    @click.command(help=f"Draw {name}.png from {name}.nc.")
    @click.option("--measure", "again", is_flag=True, help="Make the file again first; minutes.")
    @click.option("--model", default=BUNDLED, show_default=True, help="SKILD checkpoint.")
    @click.option("--sr3", default=str(SR3), show_default=True, help="SR3 checkpoint.")
    @click.option("--fields", default=1024, show_default=True, help="Fields to measure on.")
    def command(again: bool, model: str, sr3: str, fields: int) -> None:
        path = HERE / f"{name}.nc"
        if again:
            results = measure(load_model(model), sr3, fields)
            with replacing(path) as temporary:
                results.to_netcdf(temporary, engine="h5netcdf")
        with xr.open_dataset(path, engine="h5netcdf") as results:
            save_figure(draw(results), path.with_suffix(".png"))
        click.echo(path.with_suffix(".png"))

    return command
