"""skild-physics sample-exact."""

from pathlib import Path
from typing import Any

import click

from skild_physics.cli.console import progress, say, speaks
from skild_physics.cli.help import Command
from skild_physics.cli.inputs import (
    array_options,
    fields_output,
    number_or,
    seed_option,
    workers_option,
)
from skild_physics.data_gen.draws import sample_exact


@click.command("sample-exact", cls=Command)
@click.argument("coarse", type=click.Path(path_type=Path))
@click.option("--factor", type=int, required=True, help="Side of the blocks, 2 or more.")
@click.option("--draws", type=int, default=1, show_default=True, help="Draws of each field.")
@click.option(
    "--beta",
    callback=number_or("critical", float, "a number"),
    help="Inverse temperature, J = 1, or critical.  [default: what COARSE says]",
)
@click.option(
    "--sweeps",
    default="auto",
    show_default=True,
    callback=number_or("auto", int, "an integer"),
    help="Of exchanges, from shuffled spins; auto: twenty times tau_int in a pilot run.",
)
@click.option("--samples", type=int, help="Use the first fields of COARSE only.")
@seed_option
@workers_option
@array_options("L", "dims")
@fields_output
@click.option("--overwrite", is_flag=True, help="Replace an existing result.")
def command(coarse: Path, out: Path, **how: Any) -> None:
    """Draw Ising fields of given block averages from their exact distribution.

    COARSE holds block averages of spins on a torus, as coarse-grain makes them, or anybody's. A
    model of super-resolution from these should give fields such as these, no better and no worse:
    see eval-draws. Interrupted, the same command goes on.

    \b
    Example:
      skild-physics sample-exact coarse.h5 --factor 4 --draws 16 --out exact.h5
    """
    made = sample_exact(coarse, out=out, progress=progress, **how)
    say(f"{len(made)} fields of {made.shape[-1]} x {made.shape[-1]}")
    if speaks:
        click.echo(out)
