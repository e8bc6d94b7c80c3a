"""The SKILD forward process, diagonal in k (SKILD, arXiv 2605.26032).

    x_n = sqrt(abar_n) x_0 + sqrt(1 - abar_n) sqrt(S0) eps,    eps ~ N(0, 1) per mode
    abar_n = exp(-k_eff^2 lambda_n),    k_eff = max(k, k_c),    lambda_n = lambda(n / T)

The noise carries the data's own spectrum S0, so Var x_n = S0 at every n if Var x_0 = S0. Between
any two steps m < n, with u = k_eff^2 lambda and d = u_n - u_m,

    q(x_m | x_n, x_0) = N(A x_0 + C x_n, V)
    A = exp(-u_m/2) (1 - e^-d) / (1 - e^-u_n)
    C = exp(-d/2) (1 - e^-u_m) / (1 - e^-u_n)
    V = S0 (1 - e^-d) (1 - e^-u_m) / (1 - e^-u_n).

Every difference 1 - e^-u is an expm1 in float64: at low k and early n, u is 1e-6 and less, and
single-precision differences would lose every digit. Where u_n = 0 (the zero mode if k_c = 0)
nothing ever changes and the limit is A = 0, C = 1, V = 0: keep x_n.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from scipy.optimize import brentq
from torch import Tensor

from skild_physics.diffusion.schedule import Schedule
from skild_physics.kspace import Basis, wavenumbers


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
        S0: variance of every orthonormal mode, shape (N, N).
        schedule: lambda(t).
        basis: basis of the modes; "periodic" for lattices on a torus.
        k_c: modes below k_c are attenuated like k_c, in radians per box side.
        T: number of steps.

    Raises:
        ValueError: S0 is not square, or not positive and finite; k_c < 0; T < 1.
    """

    S0: Tensor
    schedule: Schedule
    basis: Basis
    k_c: float = 0.0
    T: int = 1000

    def __post_init__(self) -> None:
        S0 = torch.as_tensor(self.S0, dtype=torch.float64)
        if S0.ndim != 2 or S0.shape[0] != S0.shape[1]:
            raise ValueError(f"S0 must have shape (N, N), got {tuple(S0.shape)}")
        if not bool((torch.isfinite(S0) & (S0 > 0)).all()):
            raise ValueError(f"S0 must be positive and finite, its minimum is {S0.min().item()}")
        if not self.k_c >= 0:
            raise ValueError(f"k_c must not be negative, got {self.k_c}")
        if self.T < 1:
            raise ValueError(f"T must be at least 1, got {self.T}")
        object.__setattr__(self, "S0", S0)

    @cached_property
    def _k2(self) -> Tensor:
        k_eff = torch.as_tensor(wavenumbers(self.N, self.basis)).clamp(min=self.k_c)
        return (k_eff**2).to(self.S0.device)

    @cached_property
    def _sqrt_S0(self) -> Tensor:
        return self.S0.sqrt()

    @property
    def N(self) -> int:
        """Lattice size."""
        return int(self.S0.shape[0])

    def lam(self, n: Tensor | float) -> Tensor:
        """lambda at steps n in 0..T, which need not be whole numbers.

        Raises:
            ValueError: a step outside 0..T.
        """
        n = torch.as_tensor(n, dtype=torch.float64)
        if bool(((n < 0) | (n > self.T)).any()):
            raise ValueError(
                f"n must lie in 0..{self.T}, got {n.min().item():g} .. {n.max().item():g}"
            )
        return self.schedule.lam(n / self.T)

    def exponent(self, n: Tensor | float) -> Tensor:
        """u = k_eff^2 lambda_n = -ln abar_n per mode, shape n.shape + (N, N)."""
        return self.lam(n).to(self._k2.device)[..., None, None] * self._k2

    def marginal(self, n: Tensor | float) -> Marginal:
        """Coefficients of x_n = alpha x_0 + sigma eps, shape n.shape + (N, N)."""
        u = self.exponent(n)
        return Marginal(torch.exp(-u / 2), torch.sqrt(-torch.expm1(-u)) * self._sqrt_S0)

    def posterior(self, n: Tensor | float, m: Tensor | float) -> Posterior:
        """Coefficients of q(x_m | x_n, x_0), shape n.shape + (N, N).

        Raises:
            ValueError: not 0 <= m < n <= T.
        """
        lam_n, lam_m = self.lam(n), self.lam(m)
        if bool((lam_m >= lam_n).any()):
            raise ValueError(f"m must be smaller than n, got m = {m}, n = {n}")
        k2 = self._k2
        u_n, u_m, d = (
            lam.to(k2.device)[..., None, None] * k2 for lam in (lam_n, lam_m, lam_n - lam_m)
        )
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
        """
        d = (self.lam(n) - self.lam(m)).to(self._k2.device)[..., None, None] * self._k2
        return torch.sqrt(-torch.expm1(-d)) * self._sqrt_S0

    def step_at(self, lam: float) -> float:
        """The step n, not necessarily whole, at which the schedule reaches ``lam``.

        Raises:
            ValueError: lam is not positive, or beyond the end of the schedule.
        """
        end = float(self.lam(self.T))
        if not 0 < lam <= end * (1 + 1e-9):
            raise ValueError(f"lam must lie in 0 .. {end:g}, got {lam:g}")
        if lam >= end:
            return float(self.T)
        n = brentq(lambda n: float(self.lam(n)) / lam - 1, 0.0, float(self.T), xtol=1e-12 * self.T)
        return float(n)
