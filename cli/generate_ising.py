"""skild-physics generate-ising."""

import os
import time
from pathlib import Path

import click
import numpy as np
from rich.table import Table

from skild_physics.cli.console import answers, progress, say
from skild_physics.data_gen import IsingParameters, generate
from skild_physics.fields import open_ensemble
from skild_physics.files import check_output, json_text
from skild_physics.observables.evaluate import block_length
from skild_physics.observables.exact import BETA_CRITICAL, torus_energy
from skild_physics.observables.jackknife import MIN_BLOCKS, replicas_of
from skild_physics.plots import check_figure, fields_figure, save_figure
from skild_physics.tables import with_error


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
        click.echo(json_text(summary))
        return
    table = Table("observable", "measured", "exact", "deviation")
    table.add_row(
        "energy per spin",
        with_error(summary["energy"], summary["energy_stderr"]),
        f"{summary['energy_exact']:.6f}",
        f"{summary['energy_sigma']:+.1f} sigma" if np.isfinite(summary["energy_sigma"]) else "",
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
    say(f"{speed}; {summary['bytes_per_field']:.0f} bytes per field on disk; {summary['errors']}")
    click.echo(out)


def summarize(path: Path) -> dict[str, float | int | str | None]:
    """Energy and |m| of an ensemble with jackknife errors, and the exact energy of its torus.

    Blocks are the chains, which are independent, or consecutive fields, if there are more blocks
    that outlast the correlation, see :mod:`skild_physics.observables.evaluate`.
    """
    with open_ensemble(path) as data:
        attrs, chain = data.attrs, data["chain"].values
        both = np.stack([data["energy"].values, np.abs(data["magnetization"].values)], axis=1)
    summary: dict[str, float | int | str | None] = {
        "file": str(path),
        "samples": len(both),
        "bytes_per_field": path.stat().st_size / len(both),
        "energy_exact": torus_energy(int(attrs["L"]), float(attrs["beta"])),
        "n_effective": float(attrs["n_effective"]),
        "tau_int_energy": float(attrs["tau_int_energy"]),
        "tau_int_magnetization_squared": float(attrs["tau_int_magnetization_squared"]),
    }
    n, n_chains = len(both), int(attrs["n_chains"])
    tau_int = max(attrs["tau_int_energy"], attrs["tau_int_magnetization_squared"])
    n_blocks = min(64, int(n / (max(2.0, block_length(tau_int)) * n_chains)))
    block, what = np.arange(n) * n_blocks // n, "blocks of consecutive fields"
    if n_blocks <= n_chains:
        n_blocks, block, what = min(n, n_chains), chain, "chains"
    value, stderr = both.mean(axis=0), np.full(2, np.nan)
    summary["errors"] = f"no errors: {n_blocks} {what} are fewer than {MIN_BLOCKS}"
    if n_blocks >= MIN_BLOCKS:
        sums = np.stack([np.bincount(block, column) for column in both.T], axis=1)
        stderr = replicas_of({"mean": sums}, np.bincount(block), lambda mean: mean)["mean"].stderr
        summary["errors"] = f"errors: jackknife over {n_blocks} {what}"
    summary["n_blocks"] = n_blocks
    for i, name in enumerate(("energy", "abs_magnetization")):
        summary[name], summary[f"{name}_stderr"] = float(value[i]), float(stderr[i])
    summary["energy_sigma"] = float((value[0] - summary["energy_exact"]) / stderr[0])
    return summary
