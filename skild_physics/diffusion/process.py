"""The SKILD forward process, diagonal in k (SKILD, arXiv 2605.26032).

    x_n = sqrt(abar_n) x_0 + sqrt(1 - abar_n) sqrt(S0) eps,    eps ~ N(0, 1) per mode
    abar_n = exp(-k_eff^2 lambda_n),    k_eff = max(k, k_c),    lambda_n = lambda(n / T)

The noise carries the data's own spectrum S0, so Var x_n = S0 at every n if Var x_0 = S0. Between
any two steps m < n, with u = k_eff^2 lambda and d = u_n - u_m,

    q(x_m | x_n, x_0) = N(A x_0 + C x_n, V)
    A = exp(-u_m/2) (1 - e^-d) / (1 - e^-u_n)
    C = exp(-d/2) (1 - e^-u_m) / (1 - e^-u_n)
    V = S0 (1 - e^-d) (1 - e^-u_m) / (1 - e^-u_n).

In continuous time it is the Ornstein-Uhlenbeck process

    dx = -1/2 k_eff^2 lambda'(t) x dt + sqrt(k_eff^2 lambda'(t) S0) dW.

Modes without variance (that of k = 0 if every field has mean zero, all beyond the band of fields
that were interpolated) are zero in all data. They take a tiny S0 here, as rounding leaves it in
fields of single precision, and are not learned: their estimate is zero.

Every difference 1 - e^-u is an expm1 in float64: at low k and early n, u is 1e-6 and less, and
single-precision differences would lose every digit. Where u_n = 0 (the zero mode if k_c = 0)
nothing ever changes and the limit is A = 0, C = 1, V = 0: keep x_n.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skild_physics.diffusion.schedule import (
    Schedule,
    effective_resolution,
    lambda_at_resolution,
)
from skild_physics.files import InputError
from skild_physics.kspace import Basis, wavenumbers
from skild_physics.spectrum.radial import radial_mean, shells

EMPTY = 1e-12
"""S0 over its mean that no mode is below; what is has no variance."""


class Marginal(NamedTuple):
    """x_n = alpha x_0 + sigma eps: both coefficients per mode, shape (..., N, N)."""

    alpha: Tensor
    sigma: Tensor


class Posterior(NamedTuple):
    """q(x_m | x_n, x_0) = N(from_x0 x_0 + from_xn x_n, std^2), per mode, shape (..., N, N)."""

    from_x0: Tensor
    from_xn: Tensor
    std: Tensor


@dataclass(frozen=True, eq=False)
class Process:
    """The forward process of N x N fields over T steps; all coefficients in float64.

    Args:
        S0: variance of every orthonormal mode, shape (N, N); that of modes without variance is
            raised to 1e-12 of the mean.
        schedule: lambda(t).
        basis: basis of the modes; "periodic" for lattices on a torus.
        k_c: modes below k_c are attenuated like k_c, in radians per box side.
        T: number of steps.
        floor: smallest sqrt(abar), and weight of x_0 in the posterior's mean, that estimates of x_0
            divide by.

    Raises:
        InputError: S0 is not square, is negative, infinite or zero everywhere; k_c < 0 or infinite;
            T < 1.
    """

    S0: Tensor
    schedule: Schedule
    basis: Basis
    k_c: float = 0.0
    T: int = 1000
    floor: float = 1e-6

    def __post_init__(self) -> None:
        S0 = torch.as_tensor(self.S0, dtype=torch.float64)
        if S0.ndim != 2 or S0.shape[0] != S0.shape[1]:
            raise InputError(f"S0 must have shape (N, N), got {tuple(S0.shape)}")
        floor = EMPTY * S0.mean()
        if not bool((torch.isfinite(S0) & (S0 >= 0)).all() & (floor > 0)):
            raise InputError(
                f"S0 must be positive and finite, got {S0.min().item()} .. {S0.max().item()}"
            )
        if not 0 <= self.k_c < float("inf"):
            raise InputError(f"k_c must be finite and not negative, got {self.k_c}")
        if self.T < 1:
            raise InputError(f"T must be at least 1, got {self.T}")
        object.__setattr__(self, "S0", S0.clamp(min=floor))

    @cached_property
    @torch.inference_mode(False)
    def k_eff(self) -> Tensor:
        """max(k, k_c) of every mode, radians per box side, shape (N, N)."""
        k = torch.as_tensor(wavenumbers(self.N, self.basis))
        return k.clamp(min=self.k_c).to(self.S0.device)

    @cached_property
    @torch.inference_mode(False)
    def _k2(self) -> Tensor:
        return self.k_eff**2

    @cached_property
    @torch.inference_mode(False)
    def _sqrt_S0(self) -> Tensor:
        return self.S0.sqrt()

    @property
    def N(self) -> int:
        """Lattice size."""
        return int(self.S0.shape[0])

    @property
    def k_max(self) -> float:
        """The highest k_eff, radians per box side."""
        return max(float(wavenumbers(self.N, self.basis).max()), self.k_c)

    def cropped(self, M: int) -> "Process":
        """The process of the low modes, as fields on an M x M lattice with the same pixel values.

        Orthonormal modes scale with the lattice size, so S0 becomes (M/N)^2 S0[:M, :M].

        Raises:
            InputError: M is not in 1..N.
        """
        if not 1 <= M <= self.N:
            raise InputError(f"M must lie in 1..{self.N}, got {M}")
        S0 = self.S0[:M, :M] * (M / self.N) ** 2
        return replace(self, S0=S0)

    def resized(self, N: int) -> "Process":
        """The process of larger or smaller lattices with the same lattice spacing.

        In units of the spacing nothing changes: momenta q = k / N, and lambda N^2 and S0 as
        functions of q. S0 is interpolated in ln q, and continued below the smallest momentum by
        the power law of the lowest shells, the zero mode scaling like the modes beside it.

        Raises:
            InputError: N < 4.
        """
        if N < 4:
            raise InputError(f"N must be at least 4, got {N}")
        if N == self.N:
            return self
        ratio = N / self.N
        of_shell = shells(self.N, self.basis)
        S = radial_mean(self.S0.cpu().numpy(), self.basis)
        q = np.log(of_shell.k[1:] / self.N)
        ln_S = np.log(S[1:])
        low = slice(0, min(8, len(q)))
        slope = np.polyfit(q[low], ln_S[low], 1)[0] if len(q) > 1 else 0.0
        k = wavenumbers(N, self.basis)
        with np.errstate(divide="ignore"):
            wanted = np.log(k / N)
        new = np.where(wanted < q[0], ln_S[0] + slope * (wanted - q[0]), np.interp(wanted, q, ln_S))
        new[0, 0] = np.log(S[0]) - slope * np.log(ratio)
        return replace(
            self,
            S0=torch.as_tensor(np.exp(new)).to(self.S0.device),
            schedule=self.schedule.scaled(1 / ratio**2),
            k_c=self.k_c * ratio,
        )

    def lam(self, n: Tensor | float) -> Tensor:
        """lambda at steps n in 0..T, which need not be whole numbers.

        Raises:
            InputError: a step outside 0..T, unless a GPU would have to be waited for to see it.
        """
        n = torch.as_tensor(n, dtype=torch.float64)
        if n.device.type == "cpu" and not bool(((n >= 0) & (n <= self.T)).all()):
            raise InputError(
                f"n must lie in 0..{self.T}, got {n.min().item():g} .. {n.max().item():g}"
            )
        return self.schedule.lam(n / self.T)

    def exponent(self, n: Tensor | float) -> Tensor:
        """u = k_eff^2 lambda_n = -ln abar_n per mode, shape n.shape + (N, N)."""
        return self._each(self.lam(n)) * self._k2

    def _each(self, lam: Tensor) -> Tensor:
        """lambda for every mode; a number of the CPU goes with tensors of any device, uncopied."""
        return lam if lam.ndim == 0 else lam.to(self._k2.device)[..., None, None]

    def marginal(self, n: Tensor | float) -> Marginal:
        """Coefficients of x_n = alpha x_0 + sigma eps, shape n.shape + (N, N)."""
        u = self.exponent(n)
        return Marginal(torch.exp(-u / 2), torch.sqrt(-torch.expm1(-u)) * self._sqrt_S0)

    def posterior(self, n: Tensor | float, m: Tensor | float) -> Posterior:
        """Coefficients of q(x_m | x_n, x_0), shape n.shape + (N, N).

        Raises:
            InputError: not 0 <= m < n <= T.
        """
        lam_n, lam_m = self.lam(n), self.lam(m)
        if bool((lam_m >= lam_n).any()):
            raise InputError(f"m must be smaller than n, got m = {m}, n = {n}")
        k2 = self._k2
        u_n, u_m, d = (self._each(lam) * k2 for lam in (lam_n, lam_m, lam_n - lam_m))
        frozen = u_n == 0
        denominator = torch.where(frozen, 1.0, -torch.expm1(-u_n))
        removed = -torch.expm1(-d) / denominator
        kept = -torch.expm1(-u_m) / denominator
        return Posterior(
            from_x0=torch.exp(-u_m / 2) * removed,
            from_xn=torch.where(frozen, 1.0, torch.exp(-d / 2) * kept),
            std=torch.sqrt(-torch.expm1(-d) * kept) * self._sqrt_S0,
        )

    def transition_std(self, n: Tensor | float, m: Tensor | float) -> Tensor:
        """Standard deviation sqrt(S0 (1 - e^-d)) of q(x_n | x_m), shape n.shape + (N, N).

        The process is a stationary Ornstein-Uhlenbeck process if x_0 ~ N(0, S0), so this is also
        the width of the exact reverse step from n to m of such data.

        Raises:
            InputError: not 0 <= m <= n <= T.
        """
        lam_n, lam_m = self.lam(n), self.lam(m)
        if bool((lam_m > lam_n).any()):
            raise InputError(f"m must not exceed n, got m = {m}, n = {n}")
        d = self._each(lam_n - lam_m) * self._k2
        return torch.sqrt(-torch.expm1(-d)) * self._sqrt_S0

    def drift_and_diffusion(self, t: float) -> tuple[Tensor, Tensor]:
        """Of dx = -drift x dt + diffusion dW at time t in [0, 1], per mode, shape (N, N)."""
        speed = self._each(self.schedule.rate(t)) * self._k2
        return speed / 2, torch.sqrt(speed) * self._sqrt_S0

    @cached_property
    @torch.inference_mode(False)
    def frozen(self) -> Tensor:
        """Modes that nothing attenuates (the zero mode if k_c = 0), bool, shape (N, N)."""
        return self._k2 == 0

    @cached_property
    @torch.inference_mode(False)
    def empty(self) -> Tensor:
        """Modes without variance, bool, shape (N, N)."""
        # the floor itself, up to rounding
        floor = self.S0.mean() * EMPTY
        return 1.5 * floor > self.S0

    def resolution(self, n: Tensor | float, tau: float) -> Tensor:
        """Effective resolution at steps n, in pixels per side; infinite at n = 0.

        It is 0 where not even the modes below k_c, which are lost with those of k_c, are resolved.
        """
        R = effective_resolution(self.lam(n), tau)
        return torch.where(math.sqrt(2) * math.pi * R > self.k_c, R, 0.0)

    def largest_snr(self, n: Tensor | float) -> Tensor:
        """The signal-to-noise ratio abar / (1 - abar) of the mode with most left at steps n.

        Infinite at n = 0, and wherever the zero mode is never attenuated (k_c = 0).
        """
        # the zero mode is in every lattice
        return 1 / torch.expm1(self.k_c**2 * self.lam(n))

    def step_at(self, lam: float) -> float:
        """The step n, not necessarily whole, at which the schedule reaches ``lam``.

        Raises:
            InputError: lam is negative, or beyond the end of the schedule.
        """
        return float(self.schedule.time(lam)) * self.T

    def step_at_resolution(self, resolution: float, tau: float) -> float:
        """The step n, not necessarily whole, at which the effective resolution is reached.

        Raises:
            InputError: resolution or tau is not positive, or the schedule ends above it.
        """
        return self.step_at(lambda_at_resolution(resolution, tau))


def white_k_c(N: int) -> float:
    """A k_c above all wavenumbers, so that every mode is attenuated alike."""
    return math.sqrt(2) * math.pi * N


def white_process(N: int, schedule: Schedule, basis: Basis, T: int = 1000) -> Process:
    """The process of DDPM (arXiv 2006.11239): S0 = 1 and abar_n = exp(-lambda(n / T)) everywhere.

    All modes having the same coefficients, samplers serve fields as well as their modes.
    """
    k_c = white_k_c(N)
    S0 = torch.ones(N, N, dtype=torch.float64)
    return Process(S0, schedule.scaled(1 / k_c**2), basis, k_c, T)
