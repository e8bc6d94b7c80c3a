"""What generate and super-resolve share: the options of sampling, the denoiser, the provenance."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from skild_physics.diffusion.sampler import SPACINGS, default_last_snr
from skild_physics.diffusion.superresolution import SAMPLERS, Sampling
from skild_physics.training.checkpoint import Model

_OPTIONS = (
    click.option(
        "--steps",
        "calls",
        type=click.IntRange(min=1),
        help="Network calls per field.  [default: 20; 40 for a scale-space model]",
    ),
    click.option(
        "--sampler",
        type=click.Choice(SAMPLERS),
        help="multistep: deterministic; stochastic: the same with noise; ancestral: the paper's, "
        "wants 100s of steps.  [default: multistep; stochastic for a scale-space model]",
    ),
    click.option(
        "--order",
        type=click.IntRange(1, 3),
        default=2,
        show_default=True,
        help="Estimates that a step of the multistep and stochastic samplers uses.",
    ),
    click.option(
        "--spacing",
        type=click.Choice(SPACINGS),
        default="log-resolution",
        show_default=True,
        help="What the steps are evenly spaced in.",
    ),
    click.option(
        "--last-snr",
        type=float,
        help="Signal-to-noise ratio of the finest mode at the last call; raise it, and --steps, "
        "for fields of Gaussian detail.  [default: steps / 4]",
    ),
    click.option(
        "--live-threshold",
        type=float,
        help="Show the network only the modes of a larger signal-to-noise ratio, on a smaller "
        "lattice; for models trained so; 0: all modes.  [default: as trained]",
    ),
    click.option("--batch-size", type=int, default=64, show_default=True, help="Fields at a time."),
    click.option("--seed", type=int, default=0, show_default=True, help="Field i has its own."),
)


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of sampling to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def sampling_of(model: Model, options: Mapping[str, Any]) -> Sampling:
    """The options of sampling, with what suits the model where none was given."""
    usual: dict[str, Any] = {"calls": 20, "sampler": "multistep"}
    if model.scale_space is not None:
        # errors of the deterministic sampler stay, above all those of a change of level
        usual = {"calls": 40, "sampler": "stochastic"}
    given = {name: value for name, value in options.items() if value is not None}
    return Sampling(**{**usual, **given})


def provenance(
    checkpoint: Path, model: Model, sampling: Sampling, live_threshold: float
) -> dict[str, str | int | float]:
    """What a file of sampled fields says about the model and the sampling."""
    return {
        "checkpoint": str(checkpoint),
        "trained_steps": model.trained_steps,
        "steps": sampling.calls,
        "sampler": sampling.sampler,
        "order": sampling.order,
        "spacing": sampling.spacing,
        "seed": sampling.seed,
        "last_snr": (
            default_last_snr(sampling.calls) if sampling.last_snr is None else sampling.last_snr
        ),
        "live_threshold": live_threshold,
        "process": model.config.process.kind,
    }
