"""Reversing Scale Space Diffusion: within levels with the samplers of DDPM, and across them.

Reversing a change of level with an estimate of x_0, as published, lacks the variance that x_0 has
given x_n. What small steps lack vanishes with their size, but this stays: a new mode starts as
noise alone. Given the variance of the error of the estimate, x_0 is drawn with that variance, which
gives Gaussian data their exact covariance, and other data the right second moments.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from skild_physics import kspace
from skild_physics.diffusion.prediction import Prediction, estimate_form
from skild_physics.diffusion.sampler import (
    Noise,
    SampleNoise,
    default_last_snr,
    step_grid,
    steps_between,
)
from skild_physics.diffusion.scalespace import ScaleSpace
from skild_physics.diffusion.superresolution import Sampled, Sampling, along, no_progress
from skild_physics.files import InputError


class Estimate(Protocol):
    """An estimate of x_0 on a lattice of ``side``, from fields x_n of that or a coarser level."""

    def __call__(self, x_n: Tensor, n: float, side: int) -> Tensor:
        """D(x_0), shape (B, C, side, side), from x_n (B, C, M, M)."""
        ...


def estimator(
    network: Callable[..., Tensor], space: ScaleSpace, prediction: Prediction
) -> Estimate:
    """The estimate of x_0 of a trained network f(x, lambda N^2, side of the output).

    It is that of the process within a level, x_0 = a f + b x_n, with x_n lifted to the side wanted.
    The network sees, and gives, fields of the scale of averages.
    """
    scales = {side: space.scale(side) for side in space.sizes}

    def estimate(x_n: Tensor, n: float, side: int) -> Tensor:
        process = space.levels[space.sizes.index(side)]
        lam = (process.lam(n) * side**2).to(x_n).expand(len(x_n))
        on_output, on_xn = (float(c[0, 0]) for c in estimate_form(prediction, process, n))
        M = x_n.shape[-1]
        output = network(x_n / scales[M], lam, *(() if side == M else (side,)))
        return on_output * scales[side] * output + on_xn * space.lifted(x_n, side)

    return estimate


class Leg(NamedTuple):
    """Steps within one level, descending; then, unless it is the finest, the change of level."""

    level: int
    steps: Tensor


def legs(space: ScaleSpace, start: float, level: int, sampling: Sampling) -> list[Leg]:
    """The way from a state on a level at step ``start`` to x_0, with ``sampling.calls`` calls.

    Levels share the calls as steps spaced over the whole way would, at least one each, and every
    change of level takes a call.

    Raises:
        InputError: fewer calls than that.
    """
    changes = [float(end) for end in space.ends[:level]]
    inner = [end for end in changes if end < start]
    calls = sampling.calls - len(changes) - len(inner)
    if calls < 1:
        raise InputError(
            f"{len(changes)} changes of level need at least {len(changes) + len(inner) + 1} "
            f"network calls, got {sampling.calls}"
        )
    finest, spacing, last_snr = space.levels[0], sampling.spacing, sampling.last_snr
    whole = step_grid(finest, start, calls, spacing, last_snr).numpy()
    found = []
    for each in range(level, -1, -1):
        low = changes[each - 1] if each else 0.0
        high = min(start, float(space.ends[each]))
        intervals = 1 + int(((whole > low) & (whole < high)).sum())
        if high == low:
            steps = torch.tensor([low], dtype=torch.float64)
        elif each:
            steps = steps_between(finest, high, low, intervals, spacing)
        else:
            last_snr = default_last_snr(sampling.calls) if last_snr is None else last_snr
            steps = step_grid(finest, high, intervals, spacing, last_snr)
        found.append(Leg(each, steps))
    return found


@torch.no_grad()
def reverse(
    space: ScaleSpace,
    estimate: Estimate,
    x: Tensor,
    way: Sequence[Leg],
    sampling: Sampling,
    noise: Noise,
    error_variance: Sequence[Tensor] | None = None,
) -> Tensor:
    """Fields x_0 (B, C, N, N) from the state x at the beginning of a way.

    Args:
        space: the process.
        estimate: of x_0.
        x: fields on the level of the first leg.
        way: from :func:`legs`.
        sampling: sampler and order.
        noise: source of all draws.
        error_variance: of the estimate at each change of level, finest first: of every orthonormal
            mode of the finer lattice, shape (N, N). None: it is neglected, as published.
    """
    for level, steps in way:
        side = space.sizes[level]
        if len(steps) > 1:
            x = along(space.levels[level], partial(estimate, side=side), x, steps, sampling, noise)
        if level:
            x_0 = estimate(x, float(steps[-1]), space.sizes[level - 1])
            if error_variance is not None:
                root = error_variance[level - 1].to(x_0).sqrt()
                x_0 = x_0 + kspace.inverse(root * noise.like(x_0), space.basis)
            raising = space.raising(level - 1)
            x = raising.mean(x, x_0) + raising.noise(noise.like(x_0))
    return x


Start = Callable[[int, int, SampleNoise], Tensor]
"""(first, last, noise) -> the fields with these numbers, where their way begins."""


def _sample(
    space: ScaleSpace,
    estimate: Estimate,
    begin: Start,
    count: int,
    way: Sequence[Leg],
    sampling: Sampling,
    error_variance: Sequence[Tensor] | None,
    progress: Callable[[int], None],
) -> Sampled:
    starts, results = [], []
    for first in range(0, count, sampling.batch_size):
        last = min(first + sampling.batch_size, count)
        noise = sampling.noise(first, last)
        x = begin(first, last, noise)
        starts.append(space.lifted(x, space.sizes[0]).cpu())
        results.append(reverse(space, estimate, x, way, sampling, noise, error_variance).cpu())
        progress(last)
    return Sampled(torch.cat(starts), torch.cat(results))


def generate_scale_space(
    space: ScaleSpace,
    estimate: Estimate,
    count: int,
    sampling: Sampling,
    channels: int = 1,
    error_variance: Sequence[Tensor] | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = no_progress,
) -> Sampled:
    """Fields from white noise on the coarsest level.

    Raises:
        InputError: count < 1, or too few calls for the levels.
    """
    if count < 1:
        raise InputError(f"the number of samples must be at least 1, got {count}")
    coarsest = len(space.sizes) - 1
    way, M = legs(space, float(space.T), coarsest, sampling), space.sizes[-1]

    def begin(first: int, last: int, noise: SampleNoise) -> Tensor:
        return noise.like(torch.empty(last - first, channels, M, M, device=device))

    return _sample(space, estimate, begin, count, way, sampling, error_variance, progress)


def super_resolve_scale_space(
    space: ScaleSpace,
    estimate: Estimate,
    coarse: Tensor,
    sampling: Sampling,
    error_variance: Sequence[Tensor] | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = no_progress,
) -> Sampled:
    """Full fields from coarse ones that the process's own degradation made.

    The way begins at the first step of the level of their size, where its noise is least:
    x_n = sqrt(abar_n) y + sqrt(1 - abar_n) eps is then the exact forward marginal.

    Args:
        space: the process.
        estimate: of x_0.
        coarse: D_l of fields, shape (sample, channel, M, M), of any real dtype.
        sampling: how to sample.
        error_variance: see :func:`reverse`.
        device: where to sample.
        progress: called with the number of fields done.

    Raises:
        InputError: no level of their size, or too few calls.
    """
    M = coarse.shape[-1]
    if coarse.shape[-2] != M or M not in space.sizes[1:]:
        raise InputError(
            f"this model has levels of {', '.join(map(str, space.sizes))} sites per side; coarse "
            f"fields must have one of the coarser, got {coarse.shape[-2]} x {M}"
        )
    level = space.sizes.index(M)
    n = float(space.ends[level - 1])
    way = legs(space, n, level, sampling)
    u = space.u(n)
    alpha, sigma = float(np.exp(-u / 2)), float(np.sqrt(-np.expm1(-u)))

    def begin(first: int, last: int, noise: SampleNoise) -> Tensor:
        y = coarse[first:last].to(device, torch.float32)
        return alpha * y + sigma * noise.like(y)

    return _sample(space, estimate, begin, len(coarse), way, sampling, error_variance, progress)
