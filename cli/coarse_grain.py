"""skild-physics coarse-grain."""

from pathlib import Path

import click
import torch
from skild_physics.cli.console import say

from skild_physics.diffusion.downsampling import DOWNSAMPLINGS, Downsampling, downsample
from skild_physics.fields import load_fields, save_fields
from skild_physics.files import check_output
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
    default="periodic",
    show_default=True,
    help="periodic: kernels wrap around; cosine: they are cut at the edges.",
)
@click.option("--samples", type=int, help="Use the first fields of INPUT only.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="HDF5 file.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def command(
    input: Path,
    factor: float,
    downsampling: Downsampling,
    basis: Basis,
    samples: int | None,
    out: Path,
    overwrite: bool,
) -> None:
    r"""Coarse fields of side N/factor from the fields of INPUT, for super-resolve to start from.

    \b
    Example:
      skild-physics coarse-grain heldout.h5 --factor 4 --out coarse.h5
    """
    check_output(out, overwrite)
    coarse_grain(input, out, factor, downsampling, basis, samples)
    click.echo(out)


def coarse_grain(
    source: Path,
    out: Path,
    factor: float,
    downsampling: Downsampling,
    basis: Basis = "periodic",
    samples: int | None = None,
) -> None:
    """Write coarse fields made from those of a file."""
    if samples is not None and samples < 1:
        raise ValueError(f"--samples must be at least 1, got {samples}")
    with load_fields(source) as opened:
        fields = torch.from_numpy(opened[:samples].values).double()
    N = fields.shape[-1]
    M = round(N / factor) if 1 <= factor <= N else 0
    if M < 1 or abs(N / factor - M) > 0.01 * M:
        raise ValueError(f"factor must divide {N} x {N} fields into whole pixels, got {factor:g}")
    coarse = downsample(fields, downsampling, M, basis).float()
    save_fields(
        out, coarse.numpy(), {"input": source.name, "downsampling": downsampling, "factor": N / M}
    )
    say(f"{len(coarse)} fields of {M} x {M}")
