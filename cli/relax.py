"""skild-physics relax."""

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
from skild_physics.data_gen.relaxed import relax


@click.command("relax", cls=Command)
@click.argument("fields", type=click.Path(path_type=Path))
@click.option("--sweeps", type=int, required=True, help="How many, 1 or more.")
@click.option(
    "--factor",
    type=int,
    help="Exchange spins within blocks of this side, 2 or more, which keeps their averages.  "
    "[default: draw single spins]",
)
@click.option(
    "--beta",
    callback=number_or("critical", float, "a number"),
    help="Inverse temperature, J = 1, or critical.  [default: what FIELDS say]",
)
@click.option("--samples", type=int, help="Use the first fields of FIELDS only.")
@seed_option
@workers_option
@array_options("L", "dims", "data_range", "boundary")
@fields_output
@click.option("--overwrite", is_flag=True, help="Replace an existing result.")
def command(fields: Path, out: Path, **how: Any) -> None:
    """Relax made Ising fields by a few Monte Carlo sweeps, which know the Hamiltonian.

    FIELDS are lattices on a torus, of a model or anybody's; those that are not spins are taken by
    their signs, or, with --factor, by their ranks within blocks. What comes out is no model's own
    result any more, and says so. Interrupted, the same command goes on.

    \b
    Example:
      skild-physics relax sr.h5 --factor 4 --sweeps 16 --out relaxed.h5
    """
    made = relax(fields, out=out, progress=progress, **how)
    say(f"{len(made)} fields of {made.shape[-1]} x {made.shape[-1]}: {made.attrs['relaxed']}")
    if speaks:
        click.echo(out)
