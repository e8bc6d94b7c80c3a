"""What generate and super-resolve share: the options of sampling, the denoiser, the provenance."""

from collections.abc import Callable
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
        default=20,
        show_default=True,
        help="Network calls per field.",
    ),
    click.option(
        "--sampler",
        type=click.Choice(SAMPLERS),
        default="multistep",
        show_default=True,
        help="multistep: deterministic; stochastic: the same with noise; ancestral: the paper's, "
        "wants 100s of steps.",
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
