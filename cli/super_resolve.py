"""skild-physics super-resolve."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from skild_physics.cli.console import progress, say
from skild_physics.cli.sampling import provenance, sampling_of, sampling_options
from torch import Tensor

from skild_physics.baselines.sr3 import super_resolve_conditional
from skild_physics.diffusion.downsampling import DOWNSAMPLINGS, Downsampling, downsample
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.renormalization import critical_process, enlarge
from skild_physics.diffusion.scalespace_sampling import super_resolve_scale_space
from skild_physics.diffusion.superresolution import (
    Observation,
    Sampled,
    Sampling,
    starting_step,
    super_resolve_observed,
    super_resolve_paired,
)
from skild_physics.fields import load_fields, save_fields
from skild_physics.files import check_output
from skild_physics.training.checkpoint import Model, load_model
from skild_physics.training.hardware import default_device

Progress = Callable[[int], None]


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
    with them. Rescaled: M x M critical fields become the large scales of fields of factor M per
    side, and what is smaller is drawn anew. Other sizes than the model's keep its lattice spacing.
    A model of Scale Space Diffusion goes on from the level of size N/factor, in both of the first
    protocols. OUT holds the results as `field` and what the model saw as `start`.

    CHECKPOINT is a file, the folder of a run, or the word bundled: the model of critical Ising
    lattices that comes with the package.

    \b
    Example:
      skild-physics super-resolve bundled heldout.h5 --factor 4 --out sr4.h5
      skild-physics super-resolve runs/ising coarse.h5 --protocol observed --factor 4 --out o4.h5
      skild-physics super-resolve runs/ising heldout.h5 --protocol rescaled --factor 2 --out r2.h5
    """
    check_output(out, overwrite)
    run_super_resolution(
        checkpoint,
        input,
        out,
        factor,
        sampling,
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
    options: Mapping[str, Any],
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
    threshold, sampling = model.live_threshold(live_threshold), sampling_of(model, options)
    tau = model.tau
    if len(model.channels) != 1:
        raise ValueError(f"{checkpoint}: takes {len(model.channels)} channels, not fields of one")
    with load_fields(source) as opened:
        fields = torch.from_numpy(opened[:samples].values)[:, None]
        downsampling = downsampling or opened.attrs.get("downsampling")
    if model.scale_space is not None:
        route = _scale_space(model, fields, factor, protocol, downsampling)
    elif model.config.condition is not None:
        route = _conditional(model, fields, factor, protocol, downsampling)
    elif protocol == "paired":
        route = _paired(model, fields, factor, live_threshold)
    elif protocol == "rescaled":
        route = _rescaled(model, fields, factor, keep, live_threshold)
    elif downsampling is None or downsampling not in DOWNSAMPLINGS:
        raise ValueError(
            f"{source} does not say how it was coarse-grained: pass --downsampling, one of "
            f"{', '.join(DOWNSAMPLINGS)}"
        )
    else:
        route = _observed(model, fields, factor, downsampling, live_threshold)
    process = route.process
    say(
        f"{len(fields)} fields to {process.N} x {process.N}, {protocol} protocol, "
        f"{sampling.calls} network calls ({sampling.sampler}) from n = {route.n:.1f} of "
        f"{process.T}, effective resolution {route.resolution:.4g}"
    )
    with torch.inference_mode(), progress("super-resolve", len(fields)) as show:
        made = route.run(sampling, show)
    attributes: dict[str, str | int | float] = {
        "input": source.name,
        "protocol": protocol,
        "factor": factor,
        "starting_step": route.n,
        "effective_resolution": route.resolution,
        "tau": tau,
        **provenance(checkpoint, model, sampling, threshold),
    }
    if route.seen is not None:
        residual = route.seen.residual(made.result, fields.float())
        attributes |= {"downsampling_of_input": route.seen.kind, "consistency_residual": residual}
        say(
            f"coarse-graining the result again differs from {source.name} by {residual:.2g} of its "
            "root mean square"
        )
    save_fields(out, made.result[:, 0].numpy(), attributes, start=made.start[:, 0].numpy())


class _Route(NamedTuple):
    """Where the reversed process starts, and how it runs."""

    process: Process
    n: float
    resolution: float
    run: Callable[[Sampling, Progress], Sampled]
    seen: Observation | None = None


def _side(model: Model, M: int, factor: float) -> int:
    """The side of a lattice ``factor`` times as wide as M, if the network takes it."""
    N = round(M * factor)
    if N < M or abs(N - M * factor) > 0.01 or N % model.multiple:
        raise ValueError(
            f"{M} x {M} fields times {factor:g} would be {M * factor:g} wide; the network takes "
            f"multiples of {model.multiple}"
        )
    return N


def _resized(model: Model, M: int, factor: float) -> Process:
    """The model's process on a lattice ``factor`` times as wide as M, of the same spacing."""
    return model.process.resized(_side(model, M, factor))


def _paired(model: Model, fields: Tensor, factor: float, live_threshold: float | None) -> _Route:
    process, tau = _resized(model, fields.shape[-1], 1), model.tau
    n = starting_step(process, factor, tau)
    denoise = model.denoiser(process, live_threshold)

    def run(sampling: Sampling, show: Progress) -> Sampled:
        return super_resolve_paired(process, denoise, fields, factor, tau, sampling, show)

    return _Route(process, n, float(process.resolution(n, tau)), run)


def _observed(
    model: Model, fields: Tensor, factor: float, kind: Downsampling, live_threshold: float | None
) -> _Route:
    process, tau = _resized(model, fields.shape[-1], factor), model.tau
    seen = Observation(process, kind, fields.shape[-1])
    n = seen.step(tau)
    denoise = model.denoiser(process, live_threshold)

    def run(sampling: Sampling, show: Progress) -> Sampled:
        return super_resolve_observed(process, denoise, fields, kind, tau, sampling, show)

    return _Route(process, n, float(process.resolution(n, tau)), run, seen)


def _rescaled(
    model: Model, fields: Tensor, factor: float, keep: float, live_threshold: float | None
) -> _Route:
    M, tau = fields.shape[-1], model.tau
    process, denoise = model.critical(_side(model, M, factor), live_threshold)
    own = critical_process(model.process, M)
    n = process.step_at_resolution(keep * M, tau)

    def run(sampling: Sampling, show: Progress) -> Sampled:
        return enlarge(process, denoise, fields, own, keep * M, tau, sampling, show)

    return _Route(process, n, keep * M, run)


def _scale_space(
    model: Model, fields: Tensor, factor: float, protocol: str, kind: Downsampling | None
) -> _Route:
    space = model.scale_space
    assert space is not None
    N, offered = space.sizes[0], [space.sizes[0] // M for M in space.sizes[1:]]
    if protocol == "rescaled":
        raise ValueError("a scale-space model knows no rescaled protocol")
    if factor not in offered:
        raise ValueError(
            f"this scale-space model has levels for the factors "
            f"{', '.join(map(str, offered)) or 'none (DDPM)'}, got {factor:g}"
        )
    level = offered.index(int(factor)) + 1
    side = N if protocol == "paired" else space.sizes[level]
    if fields.shape[-2:] != (side, side):
        raise ValueError(
            f"this scale-space model takes fields of {side} x {side} in the {protocol} protocol "
            f"at the factor {factor:g}, got {fields.shape[-2]} x {fields.shape[-1]}"
        )
    own = "spectral" if space.degradation == "crop" else space.degradation
    if protocol == "observed" and kind not in (None, own):
        raise ValueError(
            f"this scale-space model was trained on fields coarse-grained by {own}, not {kind}"
        )
    if protocol == "paired":
        coarse = space.degraded(fields.float(), level)
    else:
        # a crop keeps the amplitudes of modes, coarse-grained fields those of pixels
        coarse = fields.float() * (factor if space.degradation == "crop" else 1.0)

    def run(sampling: Sampling, show: Progress) -> Sampled:
        return super_resolve_scale_space(
            space,
            model.estimate(),
            coarse,
            sampling,
            model.error_variance or None,
            model.process.S0.device,
            show,
        )

    return _Route(model.process, float(space.ends[level - 1]), float(space.sizes[level]), run)


def _conditional(
    model: Model, fields: Tensor, factor: float, protocol: str, kind: Downsampling | None
) -> _Route:
    told, process = model.config.condition, model.process
    assert told is not None
    M = process.N // told.factor
    side = process.N if protocol == "paired" else M
    if factor != told.factor:
        raise ValueError(
            f"this model is conditional and serves the factor {told.factor} only, got {factor:g}"
        )
    if protocol == "rescaled":
        raise ValueError("this model is conditional and knows no rescaled protocol")
    if fields.shape[-1] != side:
        raise ValueError(
            f"this model is conditional and takes fields of {side} x {side} in the {protocol} "
            f"protocol, got {fields.shape[-2]} x {fields.shape[-1]}"
        )
    if kind not in (None, told.downsampling):
        raise ValueError(
            f"this model was trained on fields coarse-grained by {told.downsampling}, not {kind}"
        )
    coarse = fields
    if protocol == "paired":
        coarse = downsample(fields.float(), told.downsampling, M, process.basis)

    def run(sampling: Sampling, show: Progress) -> Sampled:
        return super_resolve_conditional(process, model.told, coarse, sampling, show)

    return _Route(process, float(process.T), float(M), run)
