"""Reversing the SKILD process from step n_0 to 0 with an estimate D(x_n, n) of x_0.

ancestral   x_m = A D + C x_n + std z, with the coefficients of q(x_m | x_n, x_0) and D in place of
            x_0; the last step adds no noise. std is that of the posterior, exact for data of one
            point, or that of the stationary process ("gaussian"), exact at any step size for data
            N(0, S0).
multistep   exponential integrators in the log-SNR l = ln(alpha / sigma), which every mode has to
            itself, since the process is diagonal. For a stochasticity tau >= 0 the reversed process
                d(x / sigma) = -tau^2 (x / sigma) dl + (1 + tau^2) e^l D dl + sqrt(2) tau dW_l
            has the same marginals: tau = 0 is the probability flow, tau = 1 the reversed SDE. With
            h = l_m - l_n, c = 1 + tau^2 and D interpolated in l by a polynomial through some
            evaluations, D(l_n + s) = D_n + D' s + D'' s^2, a step is exact:
                x_m = (sigma_m / sigma_n) e^(-tau^2 h) x_n + alpha_m (I_0 D_n + I_1 D' + I_2 D'')
                      + sigma_m sqrt(1 - e^(-2 tau^2 h)) z,
                I_j = c int_0^h e^(-c (h - s)) s^j ds,
                I_0 = 1 - e^(-c h),   I_1 = h - I_0 / c,   I_2 = h^2 - 2 I_1 / c.
            One evaluation a step. Predicted with p estimates the deterministic flow has order p
            (if the first step, which is of order 1, is shorter than the others; Adams-Bashforth
            type). When the estimate at the end of a step is known the step is taken again with it
            in place of the oldest: no more evaluations, the same order, several times less error
            (Adams-Moulton type). For images: Lu et al., DPM-Solver++, arXiv 2211.01095; Zhao et
            al., UniPC, arXiv 2302.04867; Xue et al., SA-Solver, arXiv 2309.05019. Order 1 with
            tau = 1 is the ancestral sampler.

The step to n = 0, where l is infinite, returns D. Modes that nothing attenuates (the zero mode if
k_c = 0) are kept as they are.

No graph of gradients is kept; a denoiser that follows gradients of its own enables them itself.
"""

from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from skild_physics.diffusion.noise import Noise
from skild_physics.diffusion.prediction import Denoiser
from skild_physics.diffusion.process import Process
from skild_physics.files import InputError

Spacing = Literal["time", "resolution", "log-resolution"]
SPACINGS: tuple[str, ...] = get_args(Spacing)


def default_last_snr(n_evals: int) -> float:
    """Near the best with a trained Ising model; the last evaluation returns a mean."""
    return n_evals / 4


def step_grid(
    process: Process,
    start: float,
    n_evals: int,
    spacing: Spacing = "log-resolution",
    last_snr: float | None = None,
) -> Tensor:
    """Descending steps from ``start`` to 0, one interval per evaluation of the network.

    Args:
        process: the process to reverse.
        start: first step, in (0, T].
        n_evals: number of intervals.
        spacing: "time" spaces evenly in n; "resolution" and "log-resolution" evenly in the
            effective resolution or its logarithm, up to where the mode of highest wavenumber has
            the signal-to-noise ratio ``last_snr``. From there the last evaluation jumps to 0.
        last_snr: see spacing; None: n_evals / 4, near the best with a trained Ising model. The last
            evaluation returns a mean: fields of Gaussian detail want more, 30 say, and more
            evaluations.

    Raises:
        InputError: n_evals < 1, an unknown spacing, start outside (0, T], or last_snr not positive.
    """
    if n_evals < 1:
        raise InputError(f"`n_evals` must be at least 1, got {n_evals}")
    if spacing not in SPACINGS:
        raise InputError(f"spacing must be one of {SPACINGS}, got {spacing!r}")
    if not 0 < start <= process.T:
        raise InputError(f"start must lie above 0 and at most at {process.T}, got {start}")
    if last_snr is None:
        last_snr = default_last_snr(n_evals)
    if not 0 < last_snr < float("inf"):
        raise InputError(f"`last_snr` must be positive and finite, got {last_snr}")
    lam_start = float(process.lam(start))
    evenly = torch.linspace(start, 0, n_evals + 1, dtype=torch.float64)
    lam_last = np.log1p(1 / last_snr) / process.k_max**2
    if spacing == "time" or n_evals == 1 or lam_last >= lam_start:
        return evenly
    last = process.step_at(lam_last)
    return torch.cat([steps_between(process, start, last, n_evals - 1, spacing), evenly[-1:]])


def steps_between(
    process: Process, start: float, end: float, intervals: int, spacing: Spacing
) -> Tensor:
    """Descending steps from ``start`` to ``end`` > 0, evenly spaced, see :func:`step_grid`."""
    if spacing == "time":
        return torch.linspace(start, end, intervals + 1, dtype=torch.float64)
    # the effective resolution is proportional to 1 / sqrt(lambda), whatever its threshold
    first, last = (float(process.lam(n)) ** -0.5 for n in (start, end))
    if spacing == "resolution":
        R = np.linspace(first, last, intervals + 1)
    else:
        R = np.geomspace(first, last, intervals + 1)
    steps = process.schedule.time(torch.as_tensor(R[1:-1] ** -2.0)) * process.T
    return torch.tensor([start, *steps.tolist(), end], dtype=torch.float64)


@torch.no_grad()
def ancestral(
    process: Process,
    denoise: Denoiser,
    x: Tensor,
    steps: Tensor,
    noise: Noise,
    variance: Literal["posterior", "gaussian"] = "posterior",
) -> Tensor:
    """Modes x_0 sampled along ``steps``, from modes x at steps[0], shape (B, C, N, N).

    Raises:
        InputError: steps do not descend, or an unknown variance.
    """
    if variance not in ("posterior", "gaussian"):
        raise InputError(f"variance must be 'posterior' or 'gaussian', got {variance!r}")
    for n, m in pairwise(_descending(steps)):
        posterior = process.posterior(n, m)
        x = posterior.from_x0.to(x) * denoise(x, n) + posterior.from_xn.to(x) * x
        if variance == "gaussian":
            x = x + process.transition_std(n, m).to(x) * noise.like(x)
        elif m > 0:
            x = x + posterior.std.to(x) * noise.like(x)
    return x


@torch.no_grad()
def multistep(
    process: Process,
    denoise: Denoiser,
    x: Tensor,
    steps: Tensor,
    order: int = 2,
    stochasticity: float = 0.0,
    noise: Noise | None = None,
    corrector: bool = True,
) -> Tensor:
    """Modes x_0 by an exponential integrator, from modes x at steps[0], shape (B, C, N, N).

    Args:
        process: the process to reverse.
        denoise: estimate of x_0.
        x: modes at steps[0].
        steps: descending steps, shape (n_evals + 1,).
        order: number of estimates that a step uses, 1, 2 or 3; fewer in the first steps.
        stochasticity: tau; 0 is the probability flow, 1 the reversed SDE.
        noise: source of the draws if stochasticity > 0.
        corrector: take each step again once the estimate at its end is known, unless order is 1.

    Raises:
        InputError: an order other than 1, 2, 3, a negative stochasticity, one without noise, or
            steps that do not descend.
    """
    if order not in (1, 2, 3):
        raise InputError(f"order must be 1, 2 or 3, got {order}")
    if not 0 <= stochasticity < float("inf"):
        raise InputError(f"stochasticity must not be negative, got {stochasticity}")
    if stochasticity > 0 and noise is None:
        raise InputError("a stochasticity above 0 needs noise")
    tau2 = stochasticity**2
    frozen, still = process.frozen, process.frozen.to(x.device)
    # estimates so far, newest first, each with its place in log-SNR
    known: list[tuple[Tensor, Tensor]] = []
    step: _Step | None = None
    for n, m in pairwise(_descending(steps)):
        u_n = torch.where(frozen, 1.0, process.exponent(n))
        l_n = -_log_ratio(u_n)
        known = [(denoise(x, n), l_n), *known[: order - 1]]
        if step is not None and corrector and order > 1:
            x = torch.where(still, x, step.end(known))
        if m == 0:
            return torch.where(still, x, known[0][0])
        u_m = torch.where(frozen, 1.0, process.exponent(m))
        h = torch.where(frozen, 1.0, -_log_ratio(u_m) - l_n)
        kept = torch.sqrt(torch.expm1(-u_m) / torch.expm1(-u_n)) * torch.exp(-tau2 * h)
        base = kept.to(x) * x
        if noise is not None and tau2 > 0:
            std = process.marginal(m).sigma * torch.sqrt(-torch.expm1(-2 * tau2 * h))
            base = base + std.to(x) * noise.like(x)
        step = _Step(base, torch.exp(-u_m / 2), l_n, h, 1 + tau2)
        x = torch.where(still, x, step.end(known))
    return x


def _descending(steps: Tensor) -> list[float]:
    values: list[float] = steps.tolist()
    if any(m >= n for n, m in pairwise(values)):
        raise InputError(f"steps must descend, got {values}")
    return values


def _log_ratio(u: Tensor) -> Tensor:
    """ln(sigma / alpha) up to a constant, from u = -ln abar: ln sqrt(e^u - 1)."""
    return (u + torch.log(-torch.expm1(-u))) / 2


class _Step(NamedTuple):
    """A step of width h from l_n, for any polynomial that the estimates are taken to follow."""

    base: Tensor
    alpha_m: Tensor
    l_n: Tensor
    h: Tensor
    c: float

    def end(self, known: list[tuple[Tensor, Tensor]]) -> Tensor:
        """x_m with the polynomial through (estimate, place in log-SNR)."""
        places = [place - self.l_n for _, place in known]
        x = self.base
        for weight, (estimate, _) in zip(_weights(self.h, self.c, places), known, strict=True):
            x = x + (self.alpha_m * weight).to(x) * estimate
        return x


def _weights(h: Tensor, c: float, places: list[Tensor]) -> list[Tensor]:
    """What the estimates at l_n + places contribute to a step of width h, in units of alpha_m."""
    I_0 = -torch.expm1(-c * h)
    if len(places) == 1:
        return [I_0]
    I_1 = h - I_0 / c
    p, q = places[:2]
    # Newton's form: D(s) = D_p + (s - p) [p, q] + (s - p)(s - q) [p, q, r]
    first = (I_1 - p * I_0) / (q - p)
    if len(places) == 2:
        return [I_0 - first, first]
    r = places[2]
    I_2 = h**2 - 2 * I_1 / c
    second = (I_2 - (p + q) * I_1 + p * q * I_0) / (r - p)
    on_pq, on_qr = first - second / (q - p), second / (r - q)
    return [I_0 - on_pq, on_pq - on_qr, on_qr]
