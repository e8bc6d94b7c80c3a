"""skild-physics super-resolve."""

from pathlib import Path
from typing import Any

import click
import torch
from skild_physics.cli.console import progress, say
from skild_physics.cli.sampling import provenance, sampling_options

from skild_physics.baselines.sr3 import super_resolve_conditional
from skild_physics.diffusion.downsampling import DOWNSAMPLINGS, Downsampling, downsample
from skild_physics.diffusion.renormalization import enlarge
from skild_physics.diffusion.superresolution import (
    Observation,
    Sampling,
    starting_step,
    super_resolve_observed,
    super_resolve_paired,
)
from skild_physics.fields import load_fields, save_fields
from skild_physics.files import check_output
from skild_physics.training.checkpoint import load_model
from skild_physics.training.hardware import default_device


@click.command("super-resolve")
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
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="rescaled: effective resolution at the start over the side of INPUT.",
)
@click.option(
    "--downsampling",
    type=click.Choice(DOWNSAMPLINGS),
    help="observed: how INPUT was made.  [default: what coarse-grain wrote in it]",
)
@click.option("--samples", type=int, help="Use the first fields of INPUT only.")
@sampling_options
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="HDF5 file of the results."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def command(
    checkpoint: Path,
    input: Path,
    factor: float,
    protocol: str,
    keep: float,
    downsampling: Downsampling | None,
    samples: int | None,
    out: Path,
    overwrite: bool,
    live_threshold: float | None,
    **sampling: Any,
) -> None:
    r"""Raise fields to a higher resolution with the model of CHECKPOINT.

    Paired, the paper's protocol: fields that the model was not trained on are diffused to the step
    whose effective resolution is N/factor, and reconstructed from there. Observed: from M x M
    fields that were coarse-grained in a known way, fields of factor M per side are made that agree
    with them; other sizes than the model's keep its lattice spacing. Rescaled: M x M critical
    fields become the large scales of fields of factor M per side, and what is smaller is drawn
    anew. OUT holds the results as `field` and what the model saw as `start`.

    \b
    Example:
      skild-physics super-resolve runs/ising heldout.h5 --factor 4 --out sr4.h5
      skild-physics super-resolve runs/ising coarse.h5 --protocol observed --factor 4 --out o4.h5
      skild-physics super-resolve runs/ising heldout.h5 --protocol rescaled --factor 2 --out r2.h5
    """
    check_output(out, overwrite)
    run_super_resolution(
        checkpoint,
        input,
        out,
        factor,
        Sampling(**sampling),
        samples,
        protocol,
        downsampling,
        live_threshold,
        keep,
    )
    click.echo(out)


def run_super_resolution(
    checkpoint: Path,
    source: Path,
    out: Path,
    factor: float,
    sampling: Sampling,
    samples: int | None = None,
    protocol: str = "paired",
    downsampling: Downsampling | None = None,
    live_threshold: float | None = None,
    keep: float = 0.5,
) -> None:
    """Super-resolve a file of fields into another, with a progress display."""
    if samples is not None and samples < 1:
        raise ValueError(f"--samples must be at least 1, got {samples}")
    if not 1 <= factor < float("inf"):
        raise ValueError(f"factor must be at least 1, got {factor:g}")
    model = load_model(checkpoint, default_device())
    tau = model.config.process.tau
    if len(model.channels) != 1:
        raise ValueError(f"{checkpoint}: takes {len(model.channels)} channels, not fields of one")
    with load_fields(source) as opened:
        fields = torch.from_numpy(opened[:samples].values)[:, None]
        downsampling = downsampling or opened.attrs.get("downsampling")
    process, told = model.process, model.config.condition
    seen: Observation | None = None
    if told is not None:
        if factor != told.factor:
            raise ValueError(
                f"{checkpoint}: is conditional and serves the factor {told.factor} only, got "
                f"{factor:g}"
            )
        if downsampling not in (None, told.downsampling):
            raise ValueError(
                f"{checkpoint}: was trained on fields coarse-grained by {told.downsampling}, not "
                f"{downsampling}"
            )
        coarse = fields
        if protocol == "paired":
            M = fields.shape[-1] // told.factor
            coarse = downsample(fields.float(), told.downsampling, M, process.basis)
        n = float(process.T)
    elif protocol == "rescaled":
        M = fields.shape[-1]
        process = process.resized(_target_size(M, factor, model.multiple))
        own = model.process.resized(M)
        n = process.step_at_resolution(keep * M, tau)
    elif protocol == "observed":
        if downsampling is None or downsampling not in DOWNSAMPLINGS:
            raise ValueError(
                f"{source} does not say how it was coarse-grained: pass --downsampling, one of "
                f"{', '.join(DOWNSAMPLINGS)}"
            )
        process = process.resized(_target_size(fields.shape[-1], factor, model.multiple))
        seen = Observation(process, downsampling, fields.shape[-1])
        n = seen.step(tau)
    else:
        n = starting_step(process, factor, tau)
    denoise = model.denoiser(process, live_threshold)
    resolution = process.N / factor if told else float(process.resolution(n, tau))
    say(
        f"{len(fields)} fields to {process.N} x {process.N}, {protocol} protocol, "
        f"{sampling.calls} network calls ({sampling.sampler}) from n = {n:.1f} of {process.T}, "
        f"effective resolution {resolution:.4g}"
    )
    with torch.inference_mode(), progress("super-resolve", len(fields)) as show:
        if told is not None:
            made = super_resolve_conditional(process, model.told, coarse, sampling, show)
        elif protocol == "rescaled":
            made = enlarge(process, denoise, fields, own, keep * M, tau, sampling, show)
        elif seen is None:
            made = super_resolve_paired(process, denoise, fields, factor, tau, sampling, show)
        else:
            made = super_resolve_observed(process, denoise, fields, seen.kind, tau, sampling, show)
    attributes: dict[str, str | int | float] = {
        "input": source.name,
        "protocol": protocol,
        "factor": factor,
        "starting_step": n,
        "effective_resolution": resolution,
        "tau": tau,
        **provenance(checkpoint, model, sampling, live_threshold),
    }
    if seen is not None:
        residual = seen.residual(made.result, fields.float())
        attributes |= {"downsampling_of_input": seen.kind, "consistency_residual": residual}
        say(
            f"coarse-graining the result again differs from {source.name} by {residual:.2g} of its "
            "root mean square"
        )
    save_fields(out, made.result[:, 0].numpy(), attributes, start=made.start[:, 0].numpy())


def _target_size(M: int, factor: float, multiple: int) -> int:
    N = round(M * factor)
    if N < M or abs(N - M * factor) > 0.01 or N % multiple:
        raise ValueError(
            f"{M} x {M} fields times {factor:g} would be {M * factor:g} wide; the network takes "
            f"multiples of {multiple}"
        )
    return N
