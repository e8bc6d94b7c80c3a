"""skild-physics super-resolve."""

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from skild_physics import plots
from skild_physics.cli.console import progress, speaks
from skild_physics.cli.help import Command
from skild_physics.cli.inputs import (
    array_options,
    choose_option,
    fields_output,
    size_option,
    start_option,
    start_out_option,
)
from skild_physics.cli.sampling import sampler_for, sampling_options
from skild_physics.fields import batches, open_fields
from skild_physics.fields.downsampling import DOWNSAMPLINGS, Downsampling, downsample
from skild_physics.fields.interpolation import interpolate
from skild_physics.fields.picture_files import holds_pictures
from skild_physics.files import check_apart, check_none_given
from skild_physics.models.base import KEEP, SamplingPrecision
from skild_physics.models.checkpoint import load


@click.command("super-resolve", cls=Command)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("input", type=click.Path(path_type=Path))
@click.option("--factor", type=float, required=True, help="Ratio of resolutions, any number >= 1.")
@click.option(
    "--protocol",
    type=click.Choice(["paired", "observed", "rescaled"]),
    default="paired",
    show_default=True,
    help="paired: diffuse INPUT, which has the full resolution, and reconstruct it; observed: "
    "INPUT holds real coarse fields; rescaled: INPUT holds critical fields, whose large scales "
    "those of larger lattices resemble (inverse renormalisation).",
)
@click.option(
    "--keep",
    type=float,
    help=f"rescaled: effective resolution at the start over the side of INPUT.  [default: {KEEP}]",
)
@click.option(
    "--kernel",
    "--downsampling",
    "kernel",
    type=click.Choice(DOWNSAMPLINGS),
    help="observed: how INPUT was made.  [default: what coarse-grain wrote in it]",
)
@click.option("--samples", type=int, help="So many fields, the first ones.")
@choose_option
@size_option
@array_options("L", "dims", "data_range", "basis")
@sampling_options
@fields_output
@start_option
@start_out_option
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    help="Picture of the first 8 results, with bicubic and Lanczos interpolations beside them.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing result.")
def command(
    checkpoint: Path,
    input: Path,
    out: Path,
    plot: Path | None,
    start: Path | None,
    start_out: Path | None,
    protocol: str,
    overwrite: bool,
    snr_threshold: float | None,
    precision: SamplingPrecision,
    draw: bool,
    sampler: str | None,
    keep: float | None,
    kernel: Downsampling | None,
    **options: Any,
) -> None:
    """Raise fields to a higher resolution with the model of CHECKPOINT.

    Paired, the paper's protocol: fields that the model was not trained on are diffused to the step
    whose effective resolution is N/factor, and reconstructed from there. Observed: from M x M
    fields that were coarse-grained in a known way, fields of factor M per side are made that agree
    with them. Rescaled: M x M critical fields become the large scales of fields of factor M per
    side, and what is smaller is drawn anew. Other sizes than the model's keep its lattice spacing.
    A model of Scale Space Diffusion goes on from the level of size N/factor, in both of the first
    protocols. An HDF5 file OUT holds the results as `field` and what the model saw as `start`.

    CHECKPOINT is a file, the folder of a run, or the word bundled: the model of critical Ising
    lattices that comes with the package. INPUT is a file of fields, of this package or of anybody,
    a folder of pictures, or one of the words that fit-spectrum takes. Every field has a seed of its
    own, so neither the start nor the result depends on the batch size or the number of processes
    of torchrun. Interrupted, the same command goes on.

    \b
    Example:
      skild-physics super-resolve bundled heldout.h5 --factor 4 --out sr4.h5
      skild-physics super-resolve bundled coarse.h5 --protocol observed \\
          --factor 4 --out o4.h5
      skild-physics super-resolve bundled heldout.h5 --protocol rescaled \\
          --factor 2 --out r2.h5
      skild-physics super-resolve runs/photos small/ --protocol observed \\
          --downsampling bicubic --factor 2.5 --out large --plot large.png
    """
    if plot:
        plots.check_figure(plot, overwrite, out)
    check_apart({"out": out, "start_out": start_out, "plot": plot}, checkpoint, input, start)
    # what goes with one protocol alone, by its name
    own = {"keep": ("rescaled", keep), "kernel": ("observed", kernel)}
    for name, (whose, value) in own.items():
        if whose != protocol:
            check_none_given({name: value}, f"goes with the protocol {whose}")
    if protocol == "rescaled":
        check_none_given({"size": options["size"]}, "is for pictures, which are not critical")
    how = {name: options.pop(name) for name in ("factor", "samples", "seed", "batch_size")}
    of_input = ("size", "L", "dims", "data_range", "basis", "choose_seed")
    opening = {name: options.pop(name) for name in of_input}
    how |= opening
    how |= {
        "out": out,
        "start": start,
        "start_out": start_out,
        "overwrite": overwrite,
        "progress": progress,
    }
    model = load(checkpoint, snr_threshold=snr_threshold, precision=precision, draw=draw)
    how["sampler"] = sampler_for(model, sampler, **options)
    if protocol == "paired":
        made = model.reconstruct(input, **how)
    elif protocol == "observed":
        made = model.super_resolve(input, kernel=kernel, **how)
    else:
        made = model.enlarge(input, keep=KEEP if keep is None else keep, **how)
    if not speaks:
        return
    if plot:
        opening["grey"] = holds_pictures(input) and len(model.channels) == 1
        given = open_fields(input, samples=how["samples"], **opening)
        first, after = (next(batches(x, length=8)).astype(np.float32) for x in (given, made))
        rows = _rows(first, after, how["factor"], protocol)
        figure = plots.samples_figure(rows, f"{checkpoint.name}, {how['factor']:g}x")
        plots.save_figure(figure, plot, overwrite)
    click.echo(out)


def _rows(
    given: NDArray[np.float32], made: NDArray[np.float32], factor: float, protocol: str
) -> dict[str, NDArray[np.float32]]:
    """Rows of a figure: what was given, interpolations of its coarse pixels, and what was made."""
    N = made.shape[-1]
    coarse = given
    if protocol == "paired":
        R = round(given.shape[-1] / factor)
        coarse = downsample(torch.from_numpy(given), "bicubic", max(R, 1), "cosine").numpy()
    rows = {f"{coarse.shape[-1]} pixels": coarse}
    if protocol != "rescaled":
        rows |= {
            "bicubic": interpolate(coarse, N, "bicubic"),
            "Lanczos": interpolate(coarse, N, "lanczos"),
        }
    rows["made"] = made
    return rows | ({"truth": given} if protocol == "paired" else {})
