"""skild-physics interpolate."""

from pathlib import Path
from typing import Any

import click

from skild_physics.cli.console import say
from skild_physics.cli.help import Command
from skild_physics.cli.inputs import array_options, choose_option, fields_output, size_option
from skild_physics.fields.interpolation import KERNELS
from skild_physics.fields.resampling import interpolate


@click.command("interpolate", cls=Command)
@click.argument("input", type=click.Path(path_type=Path))
@click.option("--factor", type=float, required=True, help="Ratio of the sides, a real number >= 1.")
@click.option(
    "--kernel", type=click.Choice(KERNELS), default="bicubic", show_default=True, help="Which."
)
@click.option("--samples", type=int, help="So many fields, the first ones.")
@choose_option
@size_option
@array_options("L", "dims", "data_range", "basis")
@fields_output
@click.option("--overwrite", is_flag=True, help="Replace an existing result.")
def command(input: Path, out: Path, **how: Any) -> None:
    """Enlarge fields with a bicubic or Lanczos kernel, to compare super-resolution with.

    In a folder of PNG pictures those of files keep their names.

    \b
    Example:
      skild-physics interpolate small --factor 2.5 --out bicubic
    """
    made = interpolate(input, out=out, **how)
    say(f"{len(made)} fields of {made.shape[-1]} x {made.shape[-1]}")
    click.echo(out)
