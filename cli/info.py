"""skild-physics info."""

from typing import Any

import click

from skild_physics.cli.console import show
from skild_physics.cli.help import Command
from skild_physics.cli.inputs import array_options, size_option
from skild_physics.files import json_text
from skild_physics.inspection import info


@click.command("info", cls=Command)
@click.argument("source")
@size_option
@array_options("L", "dims", "data_range", "basis")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(source: str, as_json: bool, **opening: Any) -> None:
    """What SOURCE holds: kind, size and number of fields, range, basis, slope, and who made it.

    SOURCE is whatever other commands take, of anybody: HDF5, NetCDF, Zarr, .npy, .npz, .pt, text,
    a folder of pictures; or a checkpoint, or a result of this package.

    \b
    Example:
      skild-physics info lattices.npz:spins
      skild-physics info bundled
    """
    found = info(source, **opening)
    if as_json:
        click.echo(json_text(found.to_dict()))
        return
    show(found)
