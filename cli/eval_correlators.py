"""skild-physics eval-correlators."""

import os
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
import numpy as np
import xarray as xr
from rich.table import Table

from skild_physics.cli.console import answers, progress, say
from skild_physics.cli.inputs import labelled
from skild_physics.cluster import dask_client
from skild_physics.data_gen import IsingParameters, generate
from skild_physics.fields import load_fields
from skild_physics.files import check_output, json_text, replacing
from skild_physics.observables.compare import Comparison, compare_with_exact
from skild_physics.observables.evaluate import Binarize, evaluate
from skild_physics.observables.measure import Boundary, Plan, measure, measure_on
from skild_physics.plots import check_figure, correlator_figure, save_figure
from skild_physics.tables import with_error

LAST_RUN = Path("runs/ising")
"""Where reproduce leaves its run unless told otherwise."""

SHOWN = (
    ("energy", "energy per spin"),
    ("abs_magnetization", "|m| per spin"),
    ("susceptibility", "susceptibility"),
    ("specific_heat", "specific heat"),
    ("binder", "Binder parameter"),
    ("correlation_length", "correlation length"),
    ("eta", "eta of G(r)"),
    ("near_zero", "sites near zero"),
    ("clusters", "clusters per site"),
    ("largest_cluster", "largest cluster"),
)


def _sources(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> dict[str, Path]:
    return {label: Path(path) for label, path in labelled(values, "FILE").items()}


def _sides(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(side) for side in value.split(","))
    except ValueError:
        raise click.BadParameter(f"expected integers separated by commas, got {value!r}") from None


@click.command("eval-correlators")
@click.argument("sources", nargs=-1, metavar="[LABEL=FILE]...", callback=_sources)
@click.option("--sides", callback=_sides, help="Sides r, as 1,2,4.  [default: powers of 2 to L/2]")
@click.option(
    "--binarize",
    type=click.Choice(["both", "sign", "none"]),
    default="both",
    show_default=True,
    help="Take the sign of continuous fields, leave them as they are, or show both.",
)
@click.option(
    "--boundary",
    type=click.Choice(["periodic", "open"]),
    default="periodic",
    show_default=True,
    help="Open: fields are patches, nothing goes around.",
)
@click.option(
    "--block-spins",
    "rounds",
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
    "--out", type=click.Path(path_type=Path), help="NetCDF file.  [default: correlators.nc]"
)
@click.option("--plot", type=click.Path(path_type=Path), help="Figure, .png, .pdf or .svg.")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    sources: dict[str, Path],
    sides: tuple[int, ...] | None,
    binarize: Binarize,
    boundary: Boundary,
    rounds: int,
    clusters: bool,
    scheduler: str | None,
    out: Path | None,
    plot: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Four-point correlators over square corners and other observables, with jackknife errors.

    The first LABEL=FILE is the truth; the others are compared with it, field by field where they
    have as many fields. Without any, the last run of reproduce is evaluated or, if there is none, a
    small ensemble made for the purpose, against exact values.

    \b
    Example:
      skild-physics eval-correlators truth=heldout.h5 skild=sr4.h5 --plot correlators.png
    """
    out = check_output(out or Path("correlators.nc"), overwrite)
    if plot:
        check_figure(plot, overwrite)
    plan = Plan(sides, boundary, rounds=rounds, clusters=clusters)
    with ExitStack() as stack:
        if not sources:
            sources = _last_run() or _small_ensemble(Path(stack.enter_context(_scratch())))
        results, pictures = evaluate_files(sources, plan, binarize, scheduler)
    save_results(results, out)
    if plot:
        save_figure(correlator_figure(results[0], pictures), plot)
    if as_json:
        click.echo(json_text([each.to_dict() for each in results]))
        return
    show_results(results)
    click.echo(out)


def _last_run() -> dict[str, Path]:
    sources = {"truth": LAST_RUN / "heldout.h5", "SKILD": LAST_RUN / "super_resolved.h5"}
    return sources if all(path.exists() for path in sources.values()) else {}


def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="skild-physics-")


def _small_ensemble(folder: Path) -> dict[str, Path]:
    L, samples = 32, 8192
    say(f"no run in {LAST_RUN}: making {samples} critical {L} x {L} fields to show exact values")
    with progress("generate", samples) as show:
        workers = os.cpu_count() or 1
        parameters = IsingParameters.planned(L, seed=0)
        generate(folder / "wolff.h5", parameters, samples, workers=workers, progress=show)
    return {"Wolff": folder / "wolff.h5"}


def evaluate_files(
    sources: dict[str, Path],
    plan: Plan | None = None,
    binarize: Binarize = "both",
    scheduler: str | None = None,
) -> tuple[list[xr.Dataset], dict[str, np.ndarray]]:
    """Evaluate files of fields; also the first field of each, for a figure."""
    with ExitStack() as stack:
        opened = {label: stack.enter_context(load_fields(path)) for label, path in sources.items()}
        if scheduler is None:

            def shown(fields: xr.DataArray, plan: Plan, n_blocks: int) -> list:  # type: ignore[type-arg]
                with progress("measure", len(fields)) as show:
                    return measure(fields, plan, n_blocks, progress=show)

            measurement = shown
        else:
            measurement = partial(measure_on, stack.enter_context(dask_client(scheduler)))
        results = evaluate(
            opened,
            plan,
            binarize,
            measurement=measurement,
            progress=lambda label: say(f"measuring {label}"),
        )
        pictures = {label: fields[0].values for label, fields in opened.items()}
        is_ising = next(iter(opened.values())).attrs.get("model") == "ising"
    for each in results:
        each.attrs["files"] = [f"{label}={path.name}" for label, path in sources.items()]
        each.attrs["model"] = "ising" if is_ising else ""
    return results, pictures


def save_results(results: list[xr.Dataset], out: Path) -> None:
    """Write the evaluation as NetCDF, rounds of block spins as groups, replacing a file at once."""
    with replacing(out) as temporary:
        for k, each in enumerate(results):
            group = f"block_spins_{k}" if k else None
            each.to_netcdf(temporary, engine="h5netcdf", mode="a" if k else "w", group=group)


def show_results(results: list[xr.Dataset]) -> None:
    """Print values of every source, residuals with their significance, and exact values."""
    for each in results:
        truth, *others = map(str, each["source"].values)
        for label in others or [None]:
            answers.print(_table(each, truth, label))
    first = results[0]
    if first.attrs["model"]:
        sources = [str(s) for s in first["source"].values if not str(s).endswith("(raw)")]
        # two to a table, which a terminal of 80 columns holds
        for start in range(0, len(sources), 2):
            answers.print(_exact_table(first, sources[start : start + 2]))
        say("(sigma in brackets: away from the infinite lattice, which this one differs from)")
    blocks = ", ".join(
        f"{label}: {int(n):,} fields in {int(b)} blocks, tau_int {float(tau):.2f}"
        for label, n, b, tau in zip(
            first["source"].values,
            first["n_samples"],
            first["n_blocks"],
            first["tau_int"],
            strict=True,
        )
    )
    say(f"({first.attrs['stderr']}; {blocks})")


def _table(results: xr.Dataset, truth: str, label: str | None) -> Table:
    """The truth alone, or a source beside it."""
    k = results.attrs["block_spin_rounds"]
    table = Table(f"block spins, round {k}" if k else "observable", truth)
    if label is not None:
        table.add_column(label)
        table.add_column("difference")
        table.add_column("sigma", justify="right")
    rows = [(f"kappa4(r = {r})", "kappa4", {"side": r}) for r in results["side"].values]
    rows += [(title, name, {}) for name, title in SHOWN if name in results]
    for title, name, where in rows:
        at = results.sel(where)
        cells = [_cell(at.sel(source=truth), name)]
        if label is not None:
            here = at.sel(source=label)
            residual = float(here[f"{name}_residual"])
            stderr = float(here[f"{name}_residual_stderr"])
            cells += [_cell(here, name), _cell(here, f"{name}_residual")]
            cells.append(f"{residual / stderr:+.1f}" if stderr > 0 else "")
        if any(cells):
            table.add_row(title, *cells)
    if label is not None:
        here = results.sel(source=label)
        chi2, p = (float(here[f"kappa4_residual_{n}"]) for n in ("chi_square", "p_value"))
        number = int(here["kappa4_residual_degrees_of_freedom"])
        if np.isfinite(chi2):
            table.add_row("kappa4, all r", "", "", f"T2 = {chi2:.1f} / {number}", f"p {p:.2g}")
    return table


def _cell(here: xr.Dataset, name: str) -> str:
    value, stderr = float(here[name]), float(here[f"{name}_stderr"])
    return with_error(value, stderr) if np.isfinite(value) else ""


def _exact_table(results: xr.Dataset, labels: list[str]) -> Table:
    table = Table("against exact values", "exact")
    rows: dict[str, dict[str, Comparison]] = {}
    for label in labels:
        table.add_column(label)
        table.add_column("sigma", justify="right")
        for each in compare_with_exact(results, label):
            rows.setdefault(each.observable, {})[label] = each
    for observable, row in rows.items():
        one = next(iter(row.values()))
        exact = f"{one.exact:.6f}" + (" (L = infinity)" if one.of_infinite_lattice else "")
        cells = []
        for label in labels:
            value, z = "", ""
            if label in row:
                value = with_error(row[label].value, row[label].stderr)
                z = f"{row[label].z:+.1f}" if np.isfinite(row[label].z) else ""
            cells += [value, f"({z})" if z and one.of_infinite_lattice else z]
        table.add_row(observable, exact, *cells)
    return table
