"""What the figures share: held-out lattices, and one command.

Every script draws its figure from the NetCDF file of its name; with --measure it makes this file
again first, with lattices of fixed seeds and the models that its options name.
"""

from collections.abc import Callable
from pathlib import Path

import click
import xarray as xr

import skild_physics as sk
from skild_physics.claims import replacing
from skild_physics.plots import Figure, save_figure

HERE = Path(__file__).parent
MADE = HERE.parent / "runs" / "figures"
SR3 = str(HERE / "ising64_sr3")
SKILD = str(HERE / "ising64_unconditional")
WHOLE = sk.Multistep(30, order=3)
"""From nothing there are more octaves to make than from coarse fields."""


def truth(L: int, samples: int, seed: int = 2) -> xr.DataArray:
    """Lattices of a critical ensemble; seed 1 is that of the training fields."""
    path = MADE / f"L{L}-seed{seed}.h5"
    # clusters alone, as the lattices behind the figures were made
    return sk.generate_ising(L, samples=samples, seed=seed, sweeps=0, out=path, progress=sk.bar)


def signs(fields: xr.DataArray) -> xr.DataArray:
    """Spins of continuous fields."""
    return xr.where(fields >= 0, 1, -1).astype("int8")


def save(figure: Figure, name: str) -> None:
    """Write a figure as pixels, for pages, and as vectors, for papers; says where."""
    for suffix in (".png", ".pdf"):
        save_figure(figure, HERE / f"{name}{suffix}")
        click.echo(HERE / f"{name}{suffix}")


def script(
    name: str,
    measure: Callable[..., xr.Dataset],
    draw: Callable[[xr.Dataset], Figure],
    fields: int = 1024,
    **options: str,
) -> None:
    """Run the command of a figure, with its own options of measure(fields, **options)."""

    @click.command(help=f"Draw {name}.png and .pdf from {name}.nc.")
    @click.option("--measure", "again", is_flag=True, help="Make the file again first.")
    @click.option("--fields", default=fields, show_default=True, help="Fields to measure on.")
    def command(again: bool, fields: int, **given: str) -> None:
        path = HERE / f"{name}.nc"
        if again:
            results = measure(fields, **given)
            with replacing(path) as temporary:
                results.to_netcdf(temporary, engine="h5netcdf")
        with xr.open_dataset(path, engine="h5netcdf") as results:
            save(draw(results), name)

    for option, default in options.items():
        named = click.option(f"--{option}", default=default, show_default=True, help="Checkpoint.")
        command = named(command)
    command()
