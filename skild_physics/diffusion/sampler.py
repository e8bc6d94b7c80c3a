"""Reversing the SKILD process from step n_0 to 0 with an estimate D(x_n, n) of x_0.

ancestral   x_m = A D + C x_n + std z, with the coefficients of q(x_m | x_n, x_0) and D in place of
            x_0; the last step adds no noise. std is that of the posterior, exact for data of one
            point, or that of the stationary process ("gaussian"), exact at any step size for data
            N(0, S0).
multistep   deterministic probability flow. With l = ln(alpha / sigma) per mode, the flow is
            d(x / sigma) = e^l D dl; D is extrapolated linearly in l from the last two calls, and
            with h = l_m - l_n and h' the step before,
            x_m = (sigma_m/sigma_n) x_n + alpha_m (1 - e^-h) D_n
                  + alpha_m (h - 1 + e^-h) (D_n - D_{n'}) / h',
            an exponential Adams-Bashforth method of second order in which every mode has its own
            log-SNR. The step to n = 0, where l is infinite, returns D.

Modes that nothing attenuates (the zero mode if k_c = 0) are kept as they are.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from skild_physics.diffusion.prediction import Denoiser
from skild_physics.diffusion.process import Process

SamplerName = Literal["multistep", "ancestral"]
SAMPLERS: tuple[str, ...] = get_args(SamplerName)


class Noise(Protocol):
    """A source of standard normal draws of the shape of a tensor."""

    def like(self, x: Tensor) -> Tensor:
        """Independent N(0, 1) draws, shape, dtype and device of x."""
        ...


class SampleNoise:
    """Normal draws with one generator per sample, so that batches do not change results.

    Args:
        seed: integer root seed.
        indices: number of each sample in its ensemble.
    """

    def __init__(self, seed: int, indices: Sequence[int]):
        self._generators = []
        for index in indices:
            word = np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1, np.uint64)
            self._generators.append(torch.Generator().manual_seed(int(word[0])))

    def like(self, x: Tensor) -> Tensor:
        """Independent N(0, 1) draws, shape, dtype and device of x, one generator per x[i]."""
        draws = [torch.randn(x.shape[1:], generator=g) for g in self._generators]
        return torch.stack(draws).to(x)


def step_grid(start: float, calls: int) -> Tensor:
    """Descending steps from ``start`` to 0, ``calls`` intervals evenly spaced in n.

    With the linear schedule that is evenly spaced in effective resolution.
    """
    if calls < 1:
        raise ValueError(f"steps must be at least 1, got {calls}")
    return torch.linspace(start, 0, calls + 1, dtype=torch.float64)


def ancestral(
    process: Process,
    denoise: Denoiser,
    x: Tensor,
    steps: Tensor,
    noise: Noise,
    variance: Literal["posterior", "gaussian"] = "posterior",
) -> Tensor:
    """Modes x_0 sampled along ``steps``, from modes x at steps[0], shape (B, C, N, N)."""
    for n, m in zip(steps[:-1].tolist(), steps[1:].tolist(), strict=True):
        posterior = process.posterior(n, m)
        x = posterior.from_x0.to(x) * denoise(x, n) + posterior.from_xn.to(x) * x
        if variance == "gaussian":
            x = x + process.transition_std(n, m).to(x) * noise.like(x)
        elif m > 0:
            x = x + posterior.std.to(x) * noise.like(x)
    return x


def _log_ratio(u: Tensor) -> Tensor:
    """ln(sigma / alpha) up to a constant, from u = -ln abar: ln sqrt(e^u - 1)."""
    return (u + torch.log(-torch.expm1(-u))) / 2


def multistep(process: Process, denoise: Denoiser, x: Tensor, steps: Tensor) -> Tensor:
    """Modes x_0 along the deterministic flow, from modes x at steps[0], shape (B, C, N, N)."""
    frozen = process.exponent(1.0) == 0
    previous: tuple[Tensor, Tensor] | None = None
    for n, m in zip(steps[:-1].tolist(), steps[1:].tolist(), strict=True):
        estimate = denoise(x, n)
        if m == 0:
            return torch.where(frozen, x, estimate)
        u_n, u_m = (torch.where(frozen, 1.0, process.exponent(step)) for step in (n, m))
        alpha_m = torch.exp(-u_m / 2)
        h = torch.where(frozen, 1.0, _log_ratio(u_n) - _log_ratio(u_m))
        sigma_ratio = torch.sqrt(torch.expm1(-u_m) / torch.expm1(-u_n))
        moved = sigma_ratio.to(x) * x + (alpha_m * -torch.expm1(-h)).to(x) * estimate
        if previous is not None:
            last_estimate, last_h = previous
            slope = alpha_m * (h + torch.expm1(-h)) / last_h
            moved = moved + slope.to(x) * (estimate - last_estimate)
        previous = estimate, h
        x = torch.where(frozen, x, moved)
    return x
