"""skild-physics generate."""

from pathlib import Path
from typing import Any

import click

from skild_physics import plots
from skild_physics.cli.console import progress, speaks
from skild_physics.cli.help import Command
from skild_physics.cli.inputs import fields_output, start_option, start_out_option
from skild_physics.cli.sampling import sampler_for, sampling_options
from skild_physics.fields import batches
from skild_physics.files import check_apart
from skild_physics.models.base import SAMPLES, SamplingPrecision
from skild_physics.models.checkpoint import load


@click.command("generate", cls=Command)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--samples",
    type=int,
    help=f"Number of fields.  [default: {SAMPLES}, or as many as --start holds]",
)
@click.option(
    "--L",
    "L",
    type=click.IntRange(min=1),
    help="Side of the lattice; a larger one than the model's is made by scale invariance, for "
    "critical Ising fields.  [default: the model's]",
)
@sampling_options
@fields_output
@start_option
@start_out_option
@click.option("--plot", type=click.Path(path_type=Path), help="Picture of the first 16 fields.")
@click.option("--overwrite", is_flag=True, help="Replace an existing result.")
def command(
    checkpoint: Path,
    out: Path,
    plot: Path | None,
    start: Path | None,
    start_out: Path | None,
    samples: int | None,
    L: int | None,
    overwrite: bool,
    seed: int,
    batch_size: int,
    snr_threshold: float | None,
    precision: SamplingPrecision,
    draw: bool,
    sampler: str | None,
    **knobs: Any,
) -> None:
    """Unconditional samples of a model whose schedule leaves nothing of the fields.

    CHECKPOINT is a file, the folder of a run, or the word bundled: the model of critical Ising
    lattices that comes with the package. Every field has a seed of its own: the result is the same
    whatever the batch size and the number of processes of torchrun. Interrupted, the same command
    goes on.

    \b
    Example:
      skild-physics generate bundled --samples 64 --out made.h5 --plot made.png
      torchrun --nproc_per_node=8 -m skild_physics.cli generate \\
          runs/cifar10-linear --samples 50000 --batch-size 500 --out made.npz
    """
    if plot:
        plots.check_figure(plot, overwrite, out)
    check_apart({"out": out, "start_out": start_out, "plot": plot}, checkpoint, start)
    model = load(checkpoint, snr_threshold=snr_threshold, precision=precision, draw=draw)
    fields = model.generate(
        samples,
        L=L,
        start=start,
        sampler=sampler_for(model, sampler, **knobs),
        seed=seed,
        batch_size=batch_size,
        out=out,
        start_out=start_out,
        overwrite=overwrite,
        progress=progress,
    )
    if not speaks:
        return
    if plot:
        first = next(batches(fields, length=16))
        rows = {"": first[:8], " ": first[8:]}
        figure = plots.samples_figure(
            {k: row for k, row in rows.items() if len(row)}, checkpoint.name
        )
        plots.save_figure(figure, plot, overwrite)
    click.echo(out)
