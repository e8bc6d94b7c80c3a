"""skild-physics import-fields."""

from pathlib import Path
from typing import Any

import click

from skild_physics.cli.console import say
from skild_physics.cli.help import Command
from skild_physics.cli.inputs import array_options, choose_option, fields_output, size_option
from skild_physics.fields.importing import import_fields


@click.command("import-fields", cls=Command)
@click.argument("source")
@click.option("--samples", type=int, help="So many fields, the first ones.")
@choose_option
@size_option
@array_options()
@click.option("--model", type=click.Choice(["ising"]), help="ising: nearest neighbours, J = 1.")
@fields_output
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def command(source: str, out: Path, **how: Any) -> None:
    """Make a file of this package, which says all that is known of its fields, of anybody's SOURCE.

    SOURCE is HDF5, NetCDF, Zarr, .npy, .npz, .pt, or a text of numbers, plain or compressed by
    gzip. Of several arrays in it one is named: file.h5:group/name. Dimensions in any order, spins
    of any two values, flattened fields and packed bits are recognised; what cannot be is asked for.

    \b
    Example:
      skild-physics import-fields spins.txt.gz --L 64 --beta 0.44 --model ising \\
          --out spins.h5
      skild-physics import-fields run.nc:phi --boundary periodic --out phi.h5
    """
    made = import_fields(source, out=out, **how)
    what = "spins" if made.dtype == "int8" else "fields"
    say(f"{len(made)} {what} of {made.shape[-1]} x {made.shape[-1]}, {made.basis} basis")
    click.echo(out)
