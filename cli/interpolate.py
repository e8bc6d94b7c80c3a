"""skild-physics interpolate."""

from pathlib import Path

import click

from skild_physics.baselines.interpolation import KERNELS, Kernel, interpolate
from skild_physics.cli.console import say
from skild_physics.cli.inputs import fields_output, read_fields, size_option
from skild_physics.fields.writing import check_fields_output, write_fields
from skild_physics.files import InputError


@click.command("interpolate")
@click.argument("input", type=click.Path(path_type=Path))
@click.option("--factor", type=float, required=True, help="Ratio of the sides, a real number >= 1.")
@click.option(
    "--kernel", type=click.Choice(KERNELS), default="bicubic", show_default=True, help="Which."
)
@click.option("--samples", type=int, help="Use the first fields of INPUT only.")
@size_option
@fields_output
@click.option("--overwrite", is_flag=True, help="Replace an existing result.")
def command(
    input: Path,
    factor: float,
    kernel: Kernel,
    samples: int | None,
    size: int | None,
    out: Path,
    overwrite: bool,
) -> None:
    """Enlarge fields with a bicubic or Lanczos kernel, to compare super-resolution with.

    \b
    Example:
      skild-physics interpolate small --factor 2.5 --out bicubic
    """
    check_fields_output(out, overwrite)
    if not 1 <= factor < float("inf"):
        raise InputError(f"factor must be at least 1, got {factor:g}")
    fields, stream = read_fields(input, samples, size)
    N = round(stream.size * factor)
    made = {
        "protocol": "interpolation",
        "input": input.name,
        "kernel": kernel,
        "factor": N / stream.size,
        "basis": stream.basis,
        "channels": ",".join(stream.channels),
    }
    write_fields(out, interpolate(fields, N, kernel), made)
    say(f"{len(fields)} fields of {N} x {N}")
    click.echo(out)
