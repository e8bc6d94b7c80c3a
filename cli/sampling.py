"""The options of sampling that generate and super-resolve share."""

from collections.abc import Callable
from typing import Any

import click

from skild_physics.diffusion.integrators import SPACINGS
from skild_physics.diffusion.reverse import BATCH_SIZE
from skild_physics.diffusion.sampler import SAMPLERS, Multistep, Sampler, sampler_of
from skild_physics.models.base import SAMPLING_PRECISIONS, Model

_OPTIONS = (
    click.option(
        "--steps",
        "n_evals",
        type=click.IntRange(min=1),
        help="Evaluations of the network per field.  [default: 20; 40 for a scale-space model; "
        "1000 for the ancestral sampler]",
    ),
    click.option(
        "--sampler",
        type=click.Choice(list(SAMPLERS)),
        help="multistep: deterministic; stochastic: the same with noise; ancestral: the paper's, "
        "wants 100s of steps.  [default: multistep; stochastic for a scale-space model]",
    ),
    click.option(
        "--order",
        type=click.IntRange(1, 3),
        help="Estimates that a step of the multistep and stochastic samplers uses.  "
        f"[default: {Multistep().order}]",
    ),
    click.option(
        "--spacing",
        type=click.Choice(SPACINGS),
        help="What the steps are evenly spaced in.  [default: log-resolution; time for the "
        "ancestral sampler]",
    ),
    click.option(
        "--last-snr",
        type=float,
        help="Signal-to-noise ratio of the finest mode at the last evaluation; raise it, and "
        "--steps, for fields of Gaussian detail; not with --spacing time.  [default: steps / 4]",
    ),
    click.option(
        "--live-threshold",
        "snr_threshold",
        type=float,
        help="Show the network only the modes of a larger signal-to-noise ratio, on a smaller "
        "lattice; for models trained so; 0: all modes.  [default: as trained]",
    ),
    click.option(
        "--precision",
        type=click.Choice(SAMPLING_PRECISIONS),
        default="float32",
        show_default=True,
        help="What the network computes in; bfloat16 is up to twice as fast, depending on the "
        "processor.",
    ),
    click.option(
        "--draw/--no-draw",
        default=True,
        show_default=True,
        help="Scale space: draw x_0 at changes of level with the variance of the error of its "
        "estimate, where it was measured, or put the estimate in as it is, as published.",
    ),
    click.option(
        "--batch-size",
        type=int,
        default=BATCH_SIZE,
        show_default=True,
        help="Fields at a time, which decides on memory and not on the result.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Field i has its own."),
)


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of sampling to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def sampler_for(model: Model, sampler: str | None, **knobs: Any) -> Sampler:
    """The sampler asked for, or what suits the model where nothing is asked for."""
    usual = model.default_sampler
    if sampler in (None, usual.name) and knobs["n_evals"] is None:
        knobs["n_evals"] = usual.n_evals
    return sampler_of(sampler or usual.name, **knobs)
