"""skild-physics eval-correlators."""

import json
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
import xarray as xr
from rich.table import Table
from skild_physics.cli.console import answers, say, with_error

from skild_physics.fields import load_fields
from skild_physics.files import check_output, replacing
from skild_physics.observables.evaluate import evaluate
from skild_physics.observables.exact import torus_energy
from skild_physics.plots import check_figure, correlator_figure, save_figure

LAST_RUN = Path("runs/ising-L32")
"""Where reproduce leaves its run unless told otherwise."""


def _sources(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> dict[str, Path]:
    sources = {}
    for value in values:
        label, equals, path = value.partition("=")
        if not equals or not label or not path:
            raise click.BadParameter(f"expected LABEL=FILE, got {value!r}")
        if label in sources:
            raise click.BadParameter(f"label {label!r} is given twice")
        sources[label] = Path(path)
    return sources


def _last_run() -> dict[str, Path]:
    sources = {"truth": LAST_RUN / "heldout.h5", "SKILD": LAST_RUN / "super_resolved.h5"}
    if not all(path.exists() for path in sources.values()):
        raise click.UsageError(
            f"give LABEL=FILE, or run 'skild-physics reproduce' first: no run in {LAST_RUN}"
        )
    return sources


def _sides(ctx: click.Context, param: click.Parameter, value: str | None) -> np.ndarray | None:
    if value is None:
        return None
    try:
        return np.array([int(side) for side in value.split(",")])
    except ValueError:
        raise click.BadParameter(f"expected integers separated by commas, got {value!r}") from None


@click.command("eval-correlators")
@click.argument("sources", nargs=-1, metavar="[LABEL=FILE]...", callback=_sources)
@click.option("--sides", callback=_sides, help="Sides r, as 1,2,4.  [default: powers of 2 to L/2]")
@click.option(
    "--binarize",
    type=click.Choice(["sign", "none"]),
    default="sign",
    show_default=True,
    help="What to do with continuous fields.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="NetCDF file.  [default: correlators.nc]"
)
@click.option("--plot", type=click.Path(path_type=Path), help="Figure, .png, .pdf or .svg.")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    sources: dict[str, Path],
    sides: np.ndarray | None,
    binarize: str,
    out: Path | None,
    plot: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    r"""Connected four-point correlators over square corners, with jackknife errors.

    The first LABEL=FILE is the truth; the others are compared with it, field by field where they
    have as many fields. Without any, the last run of reproduce is evaluated.

    \b
    Example:
      skild-physics eval-correlators truth=heldout.h5 skild=sr4.h5 --plot correlators.png
    """
    sources = sources or _last_run()
    out = check_output(out or Path("correlators.nc"), overwrite)
    if plot:
        check_figure(plot, overwrite)
    results, pictures = evaluate_files(sources, sides, binarize == "sign")
    save_results(results, out)
    if plot:
        save_figure(correlator_figure(results, pictures), plot)
    if as_json:
        click.echo(json.dumps(results.to_dict(), default=str))
        return
    show_results(results)
    click.echo(out)


def evaluate_files(
    sources: dict[str, Path], sides: np.ndarray | None = None, binarize: bool = True
) -> tuple[xr.Dataset, dict[str, np.ndarray]]:
    """Evaluate files of fields; also the first field of each, for a figure."""
    with ExitStack() as stack:
        opened = {label: stack.enter_context(load_fields(path)) for label, path in sources.items()}
        results = evaluate(
            opened, sides, binarize, progress=lambda label: say(f"measuring {label}")
        )
        pictures = {label: fields[0].values for label, fields in opened.items()}
        first = next(iter(opened.values()))
        if first.attrs.get("model") == "ising" and first.attrs.get("boundary") == "periodic":
            results.attrs["energy_exact"] = torus_energy(
                int(first.attrs["L"]), float(first.attrs["beta"])
            )
    results.attrs["files"] = [f"{label}={path.name}" for label, path in sources.items()]
    return results, pictures


def save_results(results: xr.Dataset, out: Path) -> None:
    """Write the evaluation as NetCDF, replacing an existing file at once."""
    with replacing(out) as temporary:
        results.to_netcdf(temporary, engine="h5netcdf")


def show_results(results: xr.Dataset) -> None:
    """Print values of every source, and residuals with their significance."""
    answers.print(_table(results))
    say(f"({results.attrs['binarize']} of continuous fields; {results.attrs['stderr']})")


def _table(results: xr.Dataset) -> Table:
    labels = [str(label) for label in results["source"].values]
    truth = labels[0]
    table = Table("observable", truth)
    for label in labels[1:]:
        table.add_column(label)
        table.add_column(f"{label} - {truth}")
        table.add_column("sigma", justify="right")

    rows = [(f"kappa4(r = {r})", "kappa4", {"side": r}) for r in results["side"].values]
    rows += [("energy per spin", "energy", {}), ("|m| per spin", "abs_magnetization", {})]
    for title, name, where in rows:
        at = results.sel(where)
        cells = []
        for label in labels:
            here = at.sel(source=label)
            cells.append(with_error(float(here[name]), float(here[f"{name}_stderr"])))
            if label != truth:
                residual = float(here[f"{name}_residual"])
                stderr = float(here[f"{name}_residual_stderr"])
                cells.append(with_error(residual, stderr))
                cells.append(f"{residual / stderr:+.1f}" if stderr else "")
        table.add_row(title, *cells)
    if "energy_exact" in results.attrs:
        exact = results.attrs["energy_exact"]
        cells = []
        for label in labels:
            here = results.sel(source=label)
            sigma = (float(here["energy"]) - exact) / float(here["energy_stderr"])
            cells += [f"{sigma:+.1f} sigma"] + (["", ""] if label != truth else [])
        table.add_row(f"energy against exact {exact:.6f}", *cells)
    return table
