"""Measure a spectrum and its error bars from a stream of fields.

Fields are gathered into blocks of consecutive samples; every derived quantity theta (a shell's
variance, a parameter of the fit) gets the delete-one-block jackknife error

    sigma^2 = (B - 1)/B sum_b (theta_b - mean theta)^2,

where theta_b leaves block b out. Unlike the Gaussian formula S sqrt(2/nu) this holds for
non-Gaussian modes, and for correlated samples as long as blocks are longer than the correlation.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from skild_physics.fields import FieldStream
from skild_physics.fields.stream import slices
from skild_physics.files import InputError
from skild_physics.kspace import Basis, Momentum, Normalization, normalization_factor
from skild_physics.observables.jackknife import Replicas
from skild_physics.spectrum.fit import (
    Fit,
    Goodness,
    Method,
    fit_power_law,
    goodness_of_fit,
    log_parameters,
)
from skild_physics.spectrum.moments import ModeMoments
from skild_physics.spectrum.radial import radial_mean, shells
from skild_physics.spectrum.types import Spectrum

N_BLOCKS = 32

CACHED_VALUES = 2**17
"""Values transformed at a time: a megabyte, so that the passes over them stay in the cache."""


def measure_blocks(
    stream: FieldStream,
    basis: Basis | None = None,
    n_blocks: int = N_BLOCKS,
    progress: Callable[[int], None] = lambda done: None,
) -> list[ModeMoments]:
    """Moments of blocks of consecutive items of a stream, in bounded memory.

    Args:
        stream: the fields; its items (pictures, lattices) are never divided between blocks.
        basis: basis of the modes; None: the natural one of the stream.
        n_blocks: number of blocks; fewer if there are fewer items.
        progress: called with the number of items done.

    Raises:
        InputError: fields hold nan or infinity, or what the stream raises.
    """
    basis = basis or stream.basis
    edges = np.linspace(0, stream.count, min(n_blocks, stream.count) + 1).astype(int)
    blocks = []
    for start, stop in pairwise(edges.tolist()):
        total: ModeMoments | None = None
        for batch in stream.read(start, stop):
            for piece in slices(0, len(batch), max(1, CACHED_VALUES // batch[0].size)):
                part = ModeMoments.of(batch[piece], basis)
                total = part if total is None else total.merge(part)
        if total is not None:
            blocks.append(total)
        progress(stop)
    return blocks


def spectrum_from_blocks(
    blocks: list[ModeMoments],
    basis: Basis,
    method: Method = "likelihood",
    k_min: float | None = None,
    k_max: float | None = None,
    source: str = "",
    momentum: Momentum = "continuum",
    k0_squared: float | None = None,
    channels: Sequence[str] | None = None,
    normalization: Normalization = "paper",
) -> Spectrum:
    """Variance, radial profile and fitted law with jackknife errors over blocks, of 8 or more.

    Args:
        blocks: moments of consecutive blocks of fields, at least two.
        basis: the basis the moments were taken in.
        method: how to fit, see :mod:`skild_physics.spectrum.fit`.
        k_min: smallest wavenumber of the fit, radians per box side; None fits from the first shell.
        k_max: largest wavenumber of the fit, radians per box side.
        source: name of the data, kept with the result.
        momentum: whether k is the continuum wavenumber or the lattice momentum.
        k0_squared: hold k0^2 at this value.
        channels: names of the channels; None numbers them.
        normalization: of the reported spectrum.

    Raises:
        InputError: fewer than two blocks, too few shells between k_min and k_max, or what
            :func:`skild_physics.spectrum.fit.fit_power_law` raises.
    """
    if len(blocks) < 2:
        raise InputError(f"a spectrum needs at least 2 blocks of fields, got {len(blocks)}")
    total = reduce(ModeMoments.merge, blocks)
    N = total.mean.shape[-1]
    factor2 = normalization_factor(N, basis, normalization) ** 2
    k, modes, _ = shells(N, basis, momentum)
    inside = _range(k, k_min, k_max)

    def fit(S: NDArray[np.float64], count: int) -> Fit:
        profile = S.mean(axis=0)[inside]
        return fit_power_law(k[inside], profile, modes[inside], count, method, k0_squared)

    def radial(moments: ModeMoments) -> NDArray[np.float64]:
        return radial_mean(moments.variance * factor2, basis, momentum)

    S = radial(total)
    best = fit(S, total.count)
    without = _leave_one_out(blocks)
    replicas = np.stack([radial(moments) for moments in without])
    parameters = np.stack(
        [
            log_parameters(fit(r, moments.count).law)
            for r, moments in zip(replicas, without, strict=True)
        ]
    )
    # a parameter that is held, or never leaves its bound, has no spread
    parameters = np.where(np.isfinite(parameters), parameters, 0.0)
    profiles = replicas.mean(axis=1)
    goodness = goodness_of_fit(best, k[inside], modes[inside], total.count, profiles[:, inside])
    return Spectrum(
        variance=total.variance * factor2,
        channels=tuple(channels or _numbered(len(S))),
        basis=basis,
        normalization=normalization,
        momentum=momentum,
        n_samples=total.count,
        S=S,
        S_stderr=Replicas(S, replicas).stderr,
        profile_stderr=Replicas(S.mean(axis=0), profiles).stderr,
        fit=best,
        covariance=Replicas(log_parameters(best.law), parameters).covariance,
        goodness=goodness,
        fit_range=(float(k[inside][0]), float(k[inside][-1])),
        n_blocks=len(blocks),
        source=source,
    )


def spectrum_from_variance(
    variance: NDArray[np.float64],
    n_samples: int | None = None,
    method: Method = "likelihood",
    k_min: float | None = None,
    k_max: float | None = None,
    source: str = "",
    basis: Basis = "cosine",
    momentum: Momentum = "continuum",
    k0_squared: float | None = None,
) -> Spectrum:
    """A spectrum from a per-mode variance map, with the errors of Gaussian modes.

    Args:
        variance: shape (channel, N, N), in the paper's normalisation.
        n_samples: number of fields behind it; None leaves all errors unknown (nan).
        method: how to fit, see :mod:`skild_physics.spectrum.fit`.
        k_min: smallest wavenumber of the fit, radians per box side; None fits from the first shell.
        k_max: largest wavenumber of the fit, radians per box side.
        source: name of the data, kept with the result.
        basis: basis of the modes.
        momentum: whether k is the continuum wavenumber or the lattice momentum.
        k0_squared: hold k0^2 at this value.

    Raises:
        InputError: n_samples below two, or what :func:`spectrum_from_blocks` raises.
    """
    if n_samples is not None and n_samples < 2:
        raise InputError(f"`n_samples` must be at least 2, got {n_samples}")
    N = variance.shape[-1]
    k, modes, _ = shells(N, basis, momentum)
    inside = _range(k, k_min, k_max)
    S = radial_mean(variance, basis, momentum)
    profile = S.mean(axis=0)
    known = np.nan if n_samples is None else 1.0
    count = n_samples or 2
    fit = fit_power_law(k[inside], profile[inside], modes[inside], count, method, k0_squared)
    gaussian = known * np.sqrt(2 / (modes * (count - 1)))
    return Spectrum(
        variance=variance,
        channels=_numbered(len(S)),
        basis=basis,
        normalization="paper",
        momentum=momentum,
        n_samples=n_samples,
        S=S,
        S_stderr=S * gaussian,
        profile_stderr=profile * gaussian,
        fit=fit,
        covariance=known * fit.covariance,
        goodness=Goodness(known * fit.deviance, fit.degrees_of_freedom),
        fit_range=(float(k[inside][0]), float(k[inside][-1])),
        n_blocks=0,
        source=source,
    )


def _numbered(channels: int) -> tuple[str, ...]:
    return tuple(f"channel {i + 1}" for i in range(channels))


def _range(k: NDArray[np.float64], k_min: float | None, k_max: float | None) -> NDArray[np.bool_]:
    low = -np.inf if k_min is None else k_min
    high = np.inf if k_max is None else k_max
    inside: NDArray[np.bool_] = (k >= low) & (k <= high)
    if inside.sum() < 4:
        raise InputError(
            f"a fit needs at least 4 shells, got {inside.sum()} between k = {low:g} and {high:g} "
            f"(shells lie at {k[0]:.4g} .. {k[-1]:.4g} radians per box side)"
        )
    return inside


def _leave_one_out(blocks: list[ModeMoments]) -> list[ModeMoments]:
    """Merged moments without each block in turn, from running merges of both ends."""
    heads = [blocks[0]]
    tails = [blocks[-1]]
    for head, tail in zip(blocks[1:-1], blocks[-2:0:-1], strict=True):
        heads.append(heads[-1].merge(head))
        tails.append(tails[-1].merge(tail))
    tails.reverse()
    inner = [h.merge(t) for h, t in zip(heads[:-1], tails[1:], strict=True)]
    return [tails[0], *inner, heads[-1]]
