"""skild-physics generate."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from skild_physics.cli.console import say, speaks
from skild_physics.cli.inputs import fields_output
from skild_physics.cli.sampling import (
    open_model,
    provenance,
    sample_to,
    sampling_options,
)
from skild_physics.diffusion.scalespace_sampling import generate_scale_space
from skild_physics.diffusion.superresolution import Sampled, Sampling, generate
from skild_physics.fields.writing import check_fields_output
from skild_physics.files import InputError
from skild_physics.plots import check_figure, samples_figure, save_figure
from skild_physics.training.checkpoint import Model
from skild_physics.training.distributed import joined_world


@click.command("generate")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--samples", type=int, default=64, show_default=True, help="Number of fields.")
@click.option(
    "--L",
    "L",
    type=click.IntRange(min=1),
    help="Side of the lattice; a larger one than the model's is made by scale invariance, for "
    "critical Ising fields.  [default: the model's]",
)
@sampling_options
@fields_output
@click.option("--plot", type=click.Path(path_type=Path), help="Picture of the first 16 fields.")
@click.option("--overwrite", is_flag=True, help="Replace an existing result.")
def command(
    checkpoint: Path,
    samples: int,
    L: int | None,
    out: Path,
    plot: Path | None,
    overwrite: bool,
    live_threshold: float | None,
    **sampling: Any,
) -> None:
    """Fields from nothing, with a model whose schedule ends below one pixel of resolution.

    CHECKPOINT is a file, the folder of a run, or the word bundled: the model of critical Ising
    lattices that comes with the package. Every field has a seed of its own: the result is the same
    whatever the batch size and the number of processes of torchrun. Interrupted, the same command
    goes on.

    \b
    Example:
      skild-physics generate bundled --samples 64 --out made.h5 --plot made.png
      torchrun --nproc_per_node=8 -m skild_physics.cli generate runs/cifar10-linear \\
          --samples 50000 --batch-size 500 --out made.npz
    """
    check_fields_output(out, overwrite)
    if plot:
        check_figure(plot, overwrite)
    fields = run_generation(checkpoint, out, samples, sampling, L, live_threshold, overwrite)
    if not speaks:
        return
    if plot:
        rows = {"": fields[:8], " ": fields[8:16]}
        figure = samples_figure({k: row for k, row in rows.items() if len(row)}, checkpoint.name)
        save_figure(figure, plot)
    click.echo(out)


def ends_in_noise(model: Model) -> bool:
    """Whether the schedule of a model destroys everything, so that it can generate."""
    if model.scale_space is not None:
        return True
    process = model.process
    left = float(process.resolution(process.T, model.tau))
    return left < 1 and not bool(process.frozen.any()) and model.config.condition is None


def _maker(
    model: Model, L: int | None, live_threshold: float | None
) -> tuple[int, Callable[[int, Sampling], Sampled]]:
    """The side of the fields, and what makes so many of them."""
    space, process, channels = model.scale_space, model.process, len(model.channels)
    N = L or process.N
    other = process.N != N
    if space is not None:
        if other:
            raise InputError(f"`L`: a scale-space model makes {process.N} x {process.N}, got {N}")
        estimate, errors = model.estimate(), model.error_variance or None
        device = process.S0.device
        return process.N, lambda count, sampling: generate_scale_space(
            space, estimate, count, sampling, channels, errors, device
        )
    if other and (model.channels != ("spin",) or N % model.multiple):
        raise InputError(
            f"`L`: this model makes fields of {process.N} x {process.N}"
            + (f" or multiples of {model.multiple}" if model.channels == ("spin",) else "")
            + f", got {N}"
        )
    if other:
        process, denoise = model.critical(N, live_threshold)
    else:
        denoise = model.denoiser(process, live_threshold)
    return N, lambda count, sampling: generate(process, denoise, count, sampling, channels)


def run_generation(
    checkpoint: Path,
    out: Path,
    samples: int,
    options: Mapping[str, Any],
    L: int | None = None,
    live_threshold: float | None = None,
    overwrite: bool = False,
) -> NDArray[np.float32]:
    """Write fields made from nothing, with a progress display, and return the first 16.

    All processes that torchrun starts call it; what the others return is empty.
    """
    if samples < 1:
        raise InputError(f"`samples` must be at least 1, got {samples}")
    with joined_world() as world:
        model, sampling = open_model(checkpoint, world, options)
        threshold = model.live_threshold(live_threshold)
        if model.config.condition is not None:
            raise InputError(f"{checkpoint}: is conditional; use super-resolve")
        process = model.process
        if not ends_in_noise(model):
            left = float(process.resolution(process.T, model.tau))
            raise InputError(
                f"{checkpoint}: its schedule ends at an effective resolution of {left:.3g} pixels"
                + (" and never changes the zero mode (k_c = 0)" if process.frozen.any() else "")
                + ", so there is something left to start from; use super-resolve"
            )
        N, make = _maker(model, L, live_threshold)
        say(f"{samples} fields of {N} x {N}, {sampling.calls} network calls each")
        made = provenance(checkpoint, model, sampling, threshold)
        return sample_to(
            out,
            samples,
            lambda first, last, part: make(last - first, part),
            sampling,
            {"protocol": "generation", "size": N, **made},
            world,
            overwrite,
        )
