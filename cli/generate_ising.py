"""skild-physics generate-ising."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import click

from skild_physics import plots
from skild_physics.cli.console import progress, show
from skild_physics.cli.help import Command
from skild_physics.cli.inputs import number_or, seed_option, workers_option
from skild_physics.data_gen import generate_ising
from skild_physics.fields.lattice import field_file
from skild_physics.files import InputError, check_apart, json_text
from skild_physics.observables.ensemble import summarize


@click.command("generate-ising", cls=Command)
@click.option("--L", "L", type=int, required=True, help="Side of the L x L torus, 3 or more.")
@click.option("--samples", type=int, default=1000, show_default=True, help="Number of fields.")
@click.option(
    "--beta",
    default="critical",
    show_default=True,
    callback=number_or("critical", float, "a number"),
    help="Inverse temperature, J = 1; negative for an antiferromagnet, on even L.",
)
@seed_option
@click.option(
    "--updates",
    default="auto",
    show_default=True,
    callback=number_or("auto", int, "an integer"),
    help="Updates between saved fields; auto: three times the larger tau_int, of energy or of m^2, "
    "in a pilot run.",
)
@click.option(
    "--sweeps",
    default="auto",
    show_default=True,
    callback=number_or("auto", int, "an integer"),
    help="Of Metropolis before each cluster; auto: 4, or 0 on odd L or if beta is within 0.05 "
    "of zero. 0 makes the fields of earlier versions.",
)
@workers_option
@click.option("--out", type=click.Path(path_type=Path), help="HDF5 file.  [default: ising-L{L}.h5]")
@click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers run the chains.")
@click.option("--plot", type=click.Path(path_type=Path), help="Figure of some fields.")
@click.option("--overwrite", is_flag=True, help="Replace a file made with other parameters.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    L: int,
    samples: int,
    beta: float | Literal["critical"],
    seed: int,
    updates: int | Literal["auto"],
    sweeps: int | Literal["auto"],
    workers: int | Literal["auto"],
    out: Path | None,
    scheduler: str | None,
    plot: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make an ensemble of 2D Ising lattices with Wolff's cluster algorithm.

    Chains start ordered, are thermalised, and are saved after a fixed number of updates, a few
    sweeps of Metropolis' rule and the flip of one cluster each. Interrupted, the same command goes
    on; with more --samples it extends the file.

    \b
    Example:
      skild-physics generate-ising --L 128 --samples 2000 --seed 1 --out held.h5
    """
    out = out or Path(f"ising-L{L}.h5")
    if plot:
        plots.check_figure(plot, overwrite or _is_complete(out, samples))
    check_apart({"out": out, "plot": plot})
    count = _Count()
    fields = generate_ising(
        L,
        samples=samples,
        beta=beta,
        seed=seed,
        updates=updates,
        sweeps=sweeps,
        workers=workers,
        out=out,
        scheduler=scheduler,
        overwrite=overwrite,
        progress=count.progress,
    )
    summary = summarize(fields)
    if plot:
        plots.save_figure(plots.fields_figure(fields[:12].values), plot, overwrite)
    if not as_json:
        show(summary)
        click.echo(out)
        return
    on_disk = {
        "file": str(out),
        "bytes_per_field": out.stat().st_size / int(fields.attrs["n_samples_committed"]),
        "made": count.made,
        "fields_per_second": count.made / count.seconds if count.made else None,
    }
    click.echo(json_text(on_disk | summary.to_dict()))


def _is_complete(out: Path, samples: int) -> bool:
    """Whether nothing is left to make, so that a figure may be what was drawn of it."""
    try:
        with field_file(out) as fields:
            return len(fields) >= samples
    except InputError:
        return False


class _Count:
    """How many fields were made in how long, from the progress that is shown."""

    made, seconds = 0, 0.0

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Callable[..., None]]:
        began, before = time.perf_counter(), None
        with progress(title, total) as bar:

            def count(done: int, note: str = "") -> None:
                nonlocal before
                before = done if before is None else before
                self.made, self.seconds = done - before, time.perf_counter() - began
                bar(done, note)

            yield count
