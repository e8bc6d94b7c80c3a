"""skild-physics coarse-grain."""

from pathlib import Path

import click
import numpy as np
import torch

from skild_physics.cli.console import say
from skild_physics.cli.inputs import fields_output, read_fields, size_option
from skild_physics.diffusion.downsampling import DOWNSAMPLINGS, Downsampling, downsample
from skild_physics.fields.writing import check_fields_output, write_fields
from skild_physics.files import InputError
from skild_physics.kspace import BASES, Basis


@click.command("coarse-grain")
@click.argument("input", type=click.Path(path_type=Path))
@click.option("--factor", type=float, required=True, help="Ratio of the sides, a real number >= 1.")
@click.option(
    "--downsampling",
    type=click.Choice(DOWNSAMPLINGS),
    default="box",
    show_default=True,
    help="box: block averages; spectral: the low modes; or a smooth kernel.",
)
@click.option(
    "--basis",
    type=click.Choice(BASES),
    help="periodic: kernels wrap around; cosine: they are cut at the edges.  [default: periodic "
    "for lattices, cosine for pictures]",
)
@click.option("--samples", type=int, help="Use the first fields of INPUT only.")
@size_option
@fields_output
@click.option("--overwrite", is_flag=True, help="Replace an existing result.")
def command(
    input: Path,
    factor: float,
    downsampling: Downsampling,
    basis: Basis | None,
    samples: int | None,
    size: int | None,
    out: Path,
    overwrite: bool,
) -> None:
    """Coarse fields of side N/factor from the fields of INPUT, for super-resolve to start from.

    \b
    Example:
      skild-physics coarse-grain heldout.h5 --factor 4 --out coarse.h5
      skild-physics coarse-grain photos --size 96 --factor 2 --downsampling bicubic --out small
    """
    check_fields_output(out, overwrite)
    coarse_grain(input, out, factor, downsampling, basis, samples, size)
    click.echo(out)


def coarse_grain(
    source: Path,
    out: Path,
    factor: float,
    downsampling: Downsampling,
    basis: Basis | None = None,
    samples: int | None = None,
    size: int | None = None,
) -> None:
    """Write coarse fields made from those of a source."""
    fields, stream = read_fields(source, samples, size)
    N = stream.size
    M = round(N / factor) if 1 <= factor <= N else 0
    if M < 1 or abs(N / factor - M) > 0.01 * M:
        raise InputError(f"factor must divide {N} x {N} fields into whole pixels, got {factor:g}")
    basis = basis or stream.basis
    coarse = downsample(torch.from_numpy(fields).double(), downsampling, M, basis)
    made = {
        "protocol": "coarse-graining",
        "input": source.name,
        "downsampling": downsampling,
        "factor": N / M,
        "basis": basis,
        "channels": ",".join(stream.channels),
    }
    write_fields(out, coarse.numpy().astype(np.float32), made)
    say(f"{len(coarse)} fields of {M} x {M}")
