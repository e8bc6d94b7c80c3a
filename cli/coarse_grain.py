"""skild-physics coarse-grain."""

from pathlib import Path
from typing import Any

import click

from skild_physics.cli.console import say
from skild_physics.cli.help import Command
from skild_physics.cli.inputs import array_options, choose_option, fields_output, size_option
from skild_physics.fields.downsampling import DOWNSAMPLINGS
from skild_physics.fields.resampling import coarse_grain


@click.command("coarse-grain", cls=Command)
@click.argument("input", type=click.Path(path_type=Path))
@click.option("--factor", type=float, required=True, help="Ratio of the sides, a real number >= 1.")
@click.option(
    "--kernel",
    "--downsampling",
    "kernel",
    type=click.Choice(DOWNSAMPLINGS),
    default="box",
    show_default=True,
    help="box: block averages; spectral: the low modes; or a smooth kernel.",
)
@click.option("--samples", type=int, help="So many fields, the first ones.")
@choose_option
@size_option
@array_options("L", "dims", "data_range", "boundary", "basis")
@fields_output
@click.option("--overwrite", is_flag=True, help="Replace an existing result.")
def command(input: Path, out: Path, **how: Any) -> None:
    """Coarse fields of side N/factor from the fields of INPUT, for super-resolve to start from.

    \b
    Example:
      skild-physics coarse-grain heldout.h5 --factor 4 --out coarse.h5
      skild-physics coarse-grain photos --size 96 --factor 2 --kernel bicubic \\
          --out small
    """
    made = coarse_grain(input, out=out, **how)
    say(f"{len(made)} fields of {made.shape[-1]} x {made.shape[-1]}")
    click.echo(out)
