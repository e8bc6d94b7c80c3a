"""skild-physics super-resolve."""

from pathlib import Path

import click
import torch
from skild_physics.cli.console import progress, say

from skild_physics.diffusion.prediction import denoiser
from skild_physics.diffusion.sampler import SAMPLERS, SamplerName
from skild_physics.diffusion.superresolution import starting_step, super_resolve_paired
from skild_physics.fields import load_fields, save_fields
from skild_physics.files import check_output
from skild_physics.training.checkpoint import load_model
from skild_physics.training.trainer import default_device


@click.command("super-resolve")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("input", type=click.Path(path_type=Path))
@click.option("--factor", type=float, required=True, help="Ratio of resolutions, any number >= 1.")
@click.option("--samples", type=int, help="Use the first fields of INPUT only.")
@click.option("--steps", type=int, default=20, show_default=True, help="Network calls per field.")
@click.option(
    "--sampler",
    type=click.Choice(SAMPLERS),
    default="multistep",
    show_default=True,
    help="multistep: deterministic, second order; ancestral: stochastic, wants 100s of steps.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="HDF5 file of the results."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def command(
    checkpoint: Path,
    input: Path,
    factor: float,
    samples: int | None,
    steps: int,
    sampler: SamplerName,
    seed: int,
    out: Path,
    overwrite: bool,
) -> None:
    r"""Raise fields from an effective resolution of N/factor to N pixels per side.

    The paired protocol: INPUT, an ensemble that the model was not trained on, is diffused to the
    step whose effective resolution is N/factor, and reconstructed from there by the model of
    CHECKPOINT. OUT holds the results as `field` and what the model saw as `start`.

    \b
    Example:
      skild-physics super-resolve runs/ising heldout.h5 --factor 4 --out sr4.h5
    """
    check_output(out, overwrite)
    run_super_resolution(checkpoint, input, out, factor, samples, steps, sampler, seed)
    click.echo(out)


def run_super_resolution(
    checkpoint: Path,
    source: Path,
    out: Path,
    factor: float,
    samples: int | None = None,
    steps: int = 20,
    sampler: SamplerName = "multistep",
    seed: int = 0,
) -> None:
    """Super-resolve a file of fields into another, with a progress display."""
    if samples is not None and samples < 1:
        raise ValueError(f"--samples must be at least 1, got {samples}")
    model = load_model(checkpoint, default_device())
    settings = model.config
    tau = settings.process.tau
    n = starting_step(model.process, factor, tau)
    with load_fields(source) as fields:
        truth = torch.from_numpy(fields[:samples].values)[:, None]
    say(
        f"{len(truth)} fields from effective resolution {model.process.N / factor:.4g} to "
        f"{model.process.N}, {steps} {sampler} steps from n = {n:.1f} of {model.process.T}"
    )
    with torch.inference_mode(), progress("super-resolve", len(truth)) as show:
        start, result = super_resolve_paired(
            model.process,
            denoiser(model.network, model.process, settings.training.prediction),
            truth,
            factor,
            tau,
            steps,
            sampler,
            seed,
            progress=show,
        )
    save_fields(
        out,
        result[:, 0].numpy(),
        {
            "input": source.name,
            "checkpoint": str(checkpoint),
            "trained_steps": model.trained_steps,
            "protocol": "paired",
            "factor": factor,
            "effective_resolution": model.process.N / factor,
            "tau": tau,
            "steps": steps,
            "sampler": sampler,
            "seed": seed,
        },
        start=start[:, 0].numpy(),
    )
