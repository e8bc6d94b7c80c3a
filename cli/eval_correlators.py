"""skild-physics eval-correlators."""

from pathlib import Path
from typing import Any

import click
import xarray as xr

from skild_physics import plots
from skild_physics.cli.console import progress, say, show
from skild_physics.cli.help import Command
from skild_physics.cli.inputs import array_options, labelled
from skild_physics.data_gen import generate_ising
from skild_physics.fields.lattice import ENSEMBLE_SCHEMA, schema_of
from skild_physics.files import check_apart, json_text
from skild_physics.observables.evaluate import eval_correlators
from skild_physics.requests import check_result

LAST_RUN = Path("runs/ising")
"""Where reproduce leaves its run by default."""


def _sources(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    return labelled(values, "FILE")


def _sides(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(side) for side in value.split(","))
    except ValueError:
        raise click.BadParameter(f"expected integers separated by commas, got {value!r}") from None


@click.command("eval-correlators", cls=Command)
@click.argument("sources", nargs=-1, metavar="[[LABEL=]FILE]...", callback=_sources)
@click.option("--sides", callback=_sides, help="Sides r, as 1,2,4.  [default: powers of 2 to L/2]")
@click.option(
    "--binarize",
    type=click.Choice(["both", "sign", "none"]),
    default="both",
    show_default=True,
    help="Take the sign of continuous fields, leave them as they are, or measure both.",
)
@click.option(
    "--boundary",
    type=click.Choice(["periodic", "open"]),
    help="Open: fields are patches, nothing goes around.  [default: what they say, or periodic]",
)
@click.option(
    "--block-spins",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The same after up to so many rounds of majority block spins of 2 x 2.",
)
@click.option("--clusters", is_flag=True, help="Clusters of equal spins, too; slower.")
@click.option(
    "--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers see the files and measure."
)
@click.option(
    "--beta", type=float, help="Inverse temperature of sources that do not say theirs, in 1/J."
)
@array_options("L", "dims", "data_range")
@click.option(
    "--out", type=click.Path(path_type=Path), help="NetCDF file.  [default: correlators.nc]"
)
@click.option("--plot", type=click.Path(path_type=Path), help="Figure, .png, .pdf or .svg.")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    sources: dict[str, str],
    out: Path | None,
    plot: Path | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Four-point correlators over square corners and other observables, with jackknife errors.

    The first FILE is the truth; the others are compared with it, field by field where they have as
    many fields or were made from given ones of them. Without any, what was made last is evaluated:
    the newest ensemble of generate-ising in this folder, or the run of reproduce; or else a small
    ensemble made for the purpose, against exact values. A label is the name of the file unless it
    is given.

    \b
    Example:
      skild-physics eval-correlators truth=held.h5 skild=fine.h5 --plot fine.png
    """
    out = check_result(out or Path("correlators.nc"), overwrite)
    if plot:
        plots.check_figure(plot, overwrite, out)
    check_apart({"out": out, "plot": plot}, *sources.values())
    result = eval_correlators(
        sources or _made_last() or _small_ensemble(),
        out=out,
        overwrite=overwrite,
        progress=progress,
        **options,
    )
    if plot:
        plots.save_figure(result.plot(), plot, overwrite)
    if as_json:
        click.echo(json_text([each.to_dict() for each in result.datasets]))
        return
    show(result)
    click.echo(out)


def _made_last() -> dict[str, str]:
    """The run of reproduce, or the newest ensemble of this folder, whichever is newer."""
    run = {"truth": LAST_RUN / "heldout.h5", "SKILD": LAST_RUN / "super_resolved.h5"}
    times: dict[Path, float] = {}
    if all(path.exists() for path in run.values()):
        times[LAST_RUN] = run["SKILD"].stat().st_mtime
    times |= {path: path.stat().st_mtime for path in Path().iterdir() if _is_ensemble(path)}
    if not times:
        return {}
    newest = max(times, key=lambda path: times[path])
    if newest == LAST_RUN:
        say(f"{LAST_RUN}: what was made last here, a run of reproduce")
        return {label: str(path) for label, path in run.items()}
    say(f"{newest}: what was made last here, an ensemble of generate-ising")
    return {newest.stem: str(newest)}


def _is_ensemble(path: Path) -> bool:
    return path.suffix.lower() == ".h5" and schema_of(path) == ENSEMBLE_SCHEMA


def _small_ensemble() -> dict[str, xr.DataArray]:
    L, samples = 32, 8192
    say(
        f"no ensemble here, no run in {LAST_RUN}: making {samples} critical {L} x {L} fields to "
        "show exact values"
    )
    return {"Wolff": generate_ising(L, samples=samples, progress=progress)}
