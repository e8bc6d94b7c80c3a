"""What super-resolve starts from: for each protocol and kind of model, where and how it runs."""

from collections.abc import Callable
from typing import NamedTuple

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
from skild_physics.files import InputError
from skild_physics.training.checkpoint import Model


class Route(NamedTuple):
    """Where the reversed process starts, and how it runs: (fields, sampling) -> what it made.

    tau is the signal-to-noise ratio that counts as resolved there, None where it means nothing.
    """

    process: Process
    n: float
    resolution: float
    size: int
    run: Callable[[Tensor, Sampling], Sampled]
    tau: float | None = None
    seen: Observation | None = None


def route(
    model: Model,
    M: int,
    factor: float,
    protocol: str,
    kind: Downsampling | None,
    live_threshold: float | None,
    keep: float,
) -> Route:
    """The way from fields of side M to ``factor`` times their resolution.

    Args:
        model: any.
        M: side of the given fields.
        factor: ratio of resolutions.
        protocol: "paired", "observed" or "rescaled".
        kind: how observed fields were made coarse.
        live_threshold: see :meth:`Model.denoiser`.
        keep: rescaled: effective resolution at the start over M.

    Raises:
        InputError: the model does not serve this.
    """
    if model.scale_space is not None:
        return _scale_space(model, M, factor, protocol, kind)
    if model.config.condition is not None:
        return _conditional(model, M, factor, protocol, kind)
    if protocol == "paired":
        return _paired(model, M, factor, live_threshold)
    if protocol == "rescaled":
        return _rescaled(model, M, factor, keep, live_threshold)
    if kind not in DOWNSAMPLINGS:
        raise InputError(
            "the input does not say how it was coarse-grained: pass `downsampling`, one of "
            f"{', '.join(DOWNSAMPLINGS)}"
        )
    return _observed(model, M, factor, kind, live_threshold)


def _side(model: Model, M: int, factor: float) -> int:
    """The side of a lattice ``factor`` times as wide as M, if the network takes it."""
    N = round(M * factor)
    if N < M or abs(N - M * factor) > 0.01 or N % model.multiple:
        raise InputError(
            f"{M} x {M} fields times {factor:g} would be {M * factor:g} wide; the network takes "
            f"multiples of {model.multiple}"
        )
    return N


def _paired(model: Model, M: int, factor: float, live_threshold: float | None) -> Route:
    process, tau = model.process.resized(_side(model, M, 1)), model.tau
    n = starting_step(process, factor, tau)
    denoise = model.denoiser(process, live_threshold)

    def run(fields: Tensor, sampling: Sampling) -> Sampled:
        return super_resolve_paired(process, denoise, fields, factor, tau, sampling)

    return Route(process, n, float(process.resolution(n, tau)), M, run, tau)


def _observed(
    model: Model, M: int, factor: float, kind: Downsampling, live_threshold: float | None
) -> Route:
    tau, wanted = model.tau, round(M * factor)
    # pictures of any size: on a lattice that the network takes, then without its last modes
    N = -(-wanted // model.multiple) * model.multiple
    if model.process.basis == "periodic":
        N = wanted = _side(model, M, factor)
    process = model.process.resized(N)
    starting_step(process, N / M, tau)
    seen = Observation(process, kind, M)
    n = seen.step(tau)
    denoise = model.denoiser(process, live_threshold)

    def run(fields: Tensor, sampling: Sampling) -> Sampled:
        made = super_resolve_observed(process, denoise, fields, kind, tau, sampling)
        if wanted == N:
            return made
        return made._replace(result=downsample(made.result, "spectral", wanted, process.basis))

    agrees = seen if wanted == N else None
    return Route(process, n, float(process.resolution(n, tau)), wanted, run, tau, agrees)


def _rescaled(
    model: Model, M: int, factor: float, keep: float, live_threshold: float | None
) -> Route:
    tau = model.tau
    process, denoise = model.critical(_side(model, M, factor), live_threshold)
    own = critical_process(model.process, M)
    n = process.step_at_resolution(keep * M, tau)

    def run(fields: Tensor, sampling: Sampling) -> Sampled:
        return enlarge(process, denoise, fields, own, keep * M, tau, sampling)

    return Route(process, n, keep * M, process.N, run, tau)


def _scale_space(
    model: Model, M: int, factor: float, protocol: str, kind: Downsampling | None
) -> Route:
    space = model.scale_space
    assert space is not None
    N, offered = space.sizes[0], [space.sizes[0] // side for side in space.sizes[1:]]
    if protocol == "rescaled":
        raise InputError("a scale-space model knows no rescaled protocol")
    if factor not in offered:
        raise InputError(
            f"this scale-space model has levels for the factors "
            f"{', '.join(map(str, offered)) or 'none (DDPM)'}, got {factor:g}"
        )
    level = offered.index(int(factor)) + 1
    side = N if protocol == "paired" else space.sizes[level]
    if side != M:
        raise InputError(
            f"this scale-space model takes fields of {side} x {side} in the {protocol} protocol "
            f"at the factor {factor:g}, got {M} x {M}"
        )
    own = "spectral" if space.degradation == "crop" else space.degradation
    if protocol == "observed" and kind not in (None, own):
        raise InputError(
            f"this scale-space model was trained on fields coarse-grained by {own}, not {kind}"
        )

    def run(fields: Tensor, sampling: Sampling) -> Sampled:
        if protocol == "paired":
            coarse = space.degraded(fields, level)
        else:
            # a crop keeps the amplitudes of modes, coarse-grained fields those of pixels
            coarse = fields * (factor if space.degradation == "crop" else 1.0)
        return super_resolve_scale_space(
            space,
            model.estimate(),
            coarse,
            sampling,
            model.error_variance or None,
            model.process.S0.device,
        )

    n = float(space.ends[level - 1])
    return Route(model.process, n, float(space.sizes[level]), N, run)


def _conditional(
    model: Model, M: int, factor: float, protocol: str, kind: Downsampling | None
) -> Route:
    told, process = model.config.condition, model.process
    assert told is not None
    coarse_side = process.N // told.factor
    side = process.N if protocol == "paired" else coarse_side
    if factor != told.factor:
        raise InputError(
            f"this model is conditional and serves the factor {told.factor} only, got {factor:g}"
        )
    if protocol == "rescaled":
        raise InputError("this model is conditional and knows no rescaled protocol")
    if side != M:
        raise InputError(
            f"this model is conditional and takes fields of {side} x {side} in the {protocol} "
            f"protocol, got {M} x {M}"
        )
    if kind not in (None, told.downsampling):
        raise InputError(
            f"this model was trained on fields coarse-grained by {told.downsampling}, not {kind}"
        )

    def run(fields: Tensor, sampling: Sampling) -> Sampled:
        coarse = fields
        if protocol == "paired":
            coarse = downsample(fields, told.downsampling, coarse_side, process.basis)
        return super_resolve_conditional(process, model.told, coarse, sampling)

    return Route(process, float(process.T), float(coarse_side), process.N, run)
