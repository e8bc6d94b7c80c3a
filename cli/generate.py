"""skild-physics generate."""

from pathlib import Path
from typing import Any

import click
import torch
from skild_physics.cli.console import progress, say
from skild_physics.cli.sampling import provenance, sampling_options

from skild_physics.diffusion.superresolution import Sampling, generate
from skild_physics.fields import save_fields
from skild_physics.files import check_output
from skild_physics.plots import check_figure, samples_figure, save_figure
from skild_physics.training.checkpoint import load_model
from skild_physics.training.hardware import default_device


@click.command("generate")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--samples", type=int, default=64, show_default=True, help="Number of fields.")
@sampling_options
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="HDF5 file of the results."
)
@click.option("--plot", type=click.Path(path_type=Path), help="Picture of the first 16 fields.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def command(
    checkpoint: Path,
    samples: int,
    out: Path,
    plot: Path | None,
    overwrite: bool,
    live_threshold: float | None,
    **sampling: Any,
) -> None:
    r"""Fields from nothing, with a model whose schedule ends below one pixel of resolution.

    \b
    Example:
      skild-physics generate runs/ising --samples 64 --out made.h5
    """
    check_output(out, overwrite)
    if plot:
        check_figure(plot, overwrite)
    model = load_model(checkpoint, default_device())
    tau, process = model.config.process.tau, model.process
    if model.config.condition is not None:
        raise ValueError(f"{checkpoint}: is conditional; use super-resolve")
    left = float(process.resolution(process.T, tau))
    if left >= 1 or process.frozen.any():
        raise ValueError(
            f"{checkpoint}: its schedule ends at an effective resolution of {left:.3g} pixels"
            + (" and never changes the zero mode (k_c = 0)" if process.frozen.any() else "")
            + ", so there is something left to start from; use super-resolve"
        )
    settings = Sampling(**sampling)
    say(f"{samples} fields of {process.N} x {process.N}, {settings.calls} network calls each")
    with torch.inference_mode(), progress("generate", samples) as show:
        denoise = model.denoiser(process, live_threshold)
        made = generate(process, denoise, samples, settings, len(model.channels), show)
    fields = made.result.numpy()
    if plot:
        rows = {"": fields[:8], " ": fields[8:16]}
        title = f"{checkpoint.name}, {settings.calls} network calls"
        save_figure(samples_figure({k: row for k, row in rows.items() if len(row)}, title), plot)
    save_fields(
        out,
        fields[:, 0] if len(model.channels) == 1 else fields,
        {"protocol": "generation", **provenance(checkpoint, model, settings, live_threshold)},
    )
    click.echo(out)
