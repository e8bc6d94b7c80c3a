"""skild-physics eval-draws."""

from pathlib import Path
from typing import Any

import click

from skild_physics.cli.console import show
from skild_physics.cli.help import Command
from skild_physics.cli.inputs import array_options, labelled
from skild_physics.files import json_text
from skild_physics.observables.draws import eval_draws


def _sources(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    return labelled(values, "FILE")


@click.command("eval-draws", cls=Command)
@click.argument("sources", nargs=-1, required=True, metavar="[LABEL=]FILE...", callback=_sources)
@click.option("--factor", type=int, help="Side of the blocks.  [default: what exact draws say]")
@array_options("L", "dims")
@click.option("--out", type=click.Path(path_type=Path), help="NetCDF file.  [default: draws.nc]")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    sources: dict[str, str], out: Path | None, overwrite: bool, as_json: bool, **how: Any
) -> None:
    """How far super-resolved fields are from exact draws of the same block averages.

    The first FILE is the truth, the second holds exact draws of its fields, of sample-exact; the
    others are judged: overlap with the truth, energies inside and between blocks, and whether
    truth, exact draws and fields can be told apart by their ranks.

    \b
    Example:
      skild-physics eval-draws truth=heldout.h5 exact=exact.h5 skild=fine.h5
    """
    out = out or Path("draws.nc")
    result = eval_draws(sources, out=out, overwrite=overwrite, **how)
    if as_json:
        click.echo(json_text(result.dataset.to_dict()))
        return
    show(result)
    click.echo(out)
