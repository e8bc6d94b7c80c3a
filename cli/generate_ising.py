"""skild-physics generate-ising."""

import json
import os
import time
from pathlib import Path

import click
import numpy as np
from rich.table import Table
from skild_physics.cli.console import answers, progress, say, with_error
from skild_physics.data_gen import IsingParameters, generate

from skild_physics.fields import open_ensemble
from skild_physics.files import check_output
from skild_physics.observables.exact import BETA_CRITICAL, torus_energy
from skild_physics.observables.jackknife import jackknife
from skild_physics.plots import check_figure, fields_figure, save_figure


def _beta(ctx: click.Context, param: click.Parameter, value: str) -> float:
    if value == "critical":
        return BETA_CRITICAL
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor 'critical'") from None


def _count_or_auto(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    if value == "auto":
        return None
    if not value.isdigit() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is neither a positive integer nor 'auto'")
    return int(value)


@click.command("generate-ising")
@click.option("--L", "L", type=int, required=True, help="Side of the L x L torus, 3 or more.")
@click.option("--samples", type=int, default=1000, show_default=True, help="Number of fields.")
@click.option(
    "--beta",
    default="critical",
    show_default=True,
    callback=_beta,
    help="Inverse temperature, J = 1.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Root of all random numbers.")
@click.option(
    "--updates",
    default="auto",
    show_default=True,
    callback=_count_or_auto,
    help="Cluster updates between saved fields; auto: three times the larger tau_int, of energy or "
    "of m^2, in a pilot run.",
)
@click.option(
    "--workers",
    default="auto",
    show_default=True,
    callback=_count_or_auto,
    help="Threads; the fields do not depend on it.",
)
@click.option("--out", type=click.Path(path_type=Path), help="HDF5 file.  [default: ising-L{L}.h5]")
@click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers run the chains.")
@click.option("--plot", type=click.Path(path_type=Path), help="Figure of some fields.")
@click.option("--overwrite", is_flag=True, help="Replace a file made with other parameters.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    L: int,
    samples: int,
    beta: float,
    seed: int,
    updates: int | None,
    workers: int | None,
    out: Path | None,
    scheduler: str | None,
    plot: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make an ensemble of 2D Ising lattices with Wolff's cluster algorithm.

    Chains start ordered, are thermalised, and are saved after a fixed number of cluster updates.
    Interrupted, the same command goes on; with more --samples it extends the file.

    \b
    Example:
      skild-physics generate-ising --L 128 --samples 2000 --seed 1 --out ising-L128.h5
    """
    out = check_output(out or Path(f"ising-L{L}.h5"), overwrite=True)
    if plot:
        check_figure(plot, overwrite)
    parameters = IsingParameters.planned(L, beta, seed, updates)
    say(
        f"{samples} fields of {L} x {L} at beta = {beta:.6f}, "
        f"{parameters.updates_between_samples} cluster updates apart, after "
        f"{parameters.thermalization_updates} updates of thermalisation, "
        f"{parameters.n_chains} chains"
    )
    began = time.perf_counter()
    with progress("generate", samples) as show:
        made = generate(
            out,
            parameters,
            samples,
            workers=workers or os.cpu_count() or 1,
            scheduler=scheduler,
            progress=show,
            overwrite=overwrite,
        )
    seconds = time.perf_counter() - began
    summary = summarize(out)
    if plot:
        with open_ensemble(out) as data:
            save_figure(fields_figure(data["spins"][:12].values), plot)
    summary["made"] = made
    summary["fields_per_second"] = made / seconds if made else None
    if as_json:
        click.echo(json.dumps(summary))
        return
    table = Table("observable", "measured", "exact", "deviation")
    table.add_row(
        "energy per spin",
        with_error(summary["energy"], summary["energy_stderr"]),
        f"{summary['energy_exact']:.6f}",
        f"{summary['energy_sigma']:+.1f} sigma",
    )
    table.add_row(
        "|m| per spin",
        with_error(summary["abs_magnetization"], summary["abs_magnetization_stderr"]),
        "",
        "",
    )
    answers.print(table)
    say(
        f"worth {summary['n_effective']:.0f} independent fields of {summary['samples']}: tau_int = "
        f"{summary['tau_int_energy']:.2f} (energy), "
        f"{summary['tau_int_magnetization_squared']:.2f} (m^2) in fields, 1/2 if independent"
    )
    speed = f"{made} made at {made / seconds:.0f} fields/s" if made else "nothing left to make"
    say(
        f"{speed}; {summary['bytes_per_field']:.0f} bytes per field on disk; errors: jackknife "
        f"over {summary['n_blocks']} blocks of consecutive fields"
    )
    click.echo(out)


def summarize(path: Path) -> dict[str, float | int | str | None]:
    """Energy and |m| of an ensemble with jackknife errors, and the exact energy of its torus."""
    with open_ensemble(path) as data:
        attrs = data.attrs
        both = np.stack([data["energy"].values, np.abs(data["magnetization"].values)], axis=1)
    summary: dict[str, float | int | str | None] = {
        "file": str(path),
        "samples": len(both),
        "bytes_per_field": path.stat().st_size / len(both),
        "energy_exact": torus_energy(int(attrs["L"]), float(attrs["beta"])),
        "n_effective": float(attrs["n_effective"]),
        "tau_int_energy": float(attrs["tau_int_energy"]),
        "tau_int_magnetization_squared": float(attrs["tau_int_magnetization_squared"]),
        "n_blocks": 0,
    }
    if len(both) < 2:
        nan = float("nan")
        value, stderr = both[0], np.array([nan, nan])
    else:
        # a block holds at least two fields of every chain, so that it outlasts their correlation
        n_blocks = int(np.clip(len(both) // (2 * int(attrs["n_chains"])), 2, 64))
        value, stderr = jackknife(both, lambda mean: mean, n_blocks)
        summary["n_blocks"] = n_blocks
    for i, name in enumerate(("energy", "abs_magnetization")):
        summary[name], summary[f"{name}_stderr"] = float(value[i]), float(stderr[i])
    summary["energy_sigma"] = float((value[0] - summary["energy_exact"]) / stderr[0])
    return summary
