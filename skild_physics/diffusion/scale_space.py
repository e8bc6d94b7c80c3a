"""Scale Space Diffusion: noise and resolution fall together (arXiv 2603.08709).

    x_n = sqrt(abar_n) D_l(x_0) + sqrt(1 - abar_n) eps,    eps ~ N(0, 1) per site,

on lattices that get smaller: at steps n in (n_l, n_(l+1)] the field lives on level l, and D_l is a
chain of l linear degradations, each R x R^T with a small matrix R per axis. With one level this is
DDPM. Between any two steps m < n, on the same level or not, with c = sqrt(abar_n / abar_m),
M = c R (x) R and s^2 = 1 - abar,

    q(x_m | x_n, x_0) = N(mu + (s_m/s_n)^2 M^T (x_n - M mu), s_m^2 - (s_m^4/s_n^2) M^T M),
    mu = sqrt(abar_m) D(x_0),

which exists if s_n^2 >= s_m^2 lambda_max(M M^T). The singular value decomposition of one axis,
R = U d V^T, is that of both, so the covariance has the eigenvectors V (x) V, and a draw of it is
exact with two small matrix products:

    V [s_m sqrt(1 - (s_m c d_i d_j / s_n)^2) z_ij] V^T,    z ~ N(0, 1).

A field changes its level at one and the same step n_l (c = 1) or, as the published chain does, from
n_l + 1 to n_l.

The K published levels are floor(K f(tau)) with tau = (n - 1) / (T - 1) and f one of

    convex-decay    f = 1 - (1 - tau)^gamma
    tanh            f = (1 + g(tau - 1/2)) / 2,     g(s) = sin(3 arcsin(sgn(s) |s|^gamma)) / S
    sigmoid         f = 1/2 + g^(-1)(2 tau - 1),    S = sin(3 arcsin(2^-gamma)),

where 1/2 sin(3 arcsin a) is the published polynomial 3 x^2 - 2 x^3 - 1/2 at x = 1/2 + a.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_physics import kspace
from skild_physics.diffusion.process import Process, white_process
from skild_physics.diffusion.resize import Degradation, Resize, resize
from skild_physics.diffusion.schedule import Schedule
from skild_physics.files import InputError
from skild_physics.kspace import Basis

SMALLEST = 4
"""No level is smaller than this many sites per side."""


Decay = Literal["convex-decay", "sigmoid", "tanh"]
DECAYS: tuple[str, ...] = get_args(Decay)


def _share(decay: Decay, tau: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
    """f(tau) of the module's text."""
    if decay == "convex-decay":
        return np.asarray(1 - (1 - tau) ** gamma)
    S = math.sin(3 * math.asin(2**-gamma))
    if decay == "tanh":
        s = tau - 0.5
        a = np.sign(s) * np.abs(s) ** gamma
        return np.asarray(0.5 + np.sin(3 * np.arcsin(a)) / (2 * S))
    a = np.sin(np.arcsin((2 * tau - 1) * S) / 3)
    return np.asarray(0.5 + np.sign(a) * np.abs(a) ** (1 / gamma))


def level_ends(
    levels: int, T: int, gamma: float = 0.5, decay: Decay = "convex-decay"
) -> tuple[int, ...]:
    """The last step of each level, finest first, of a published schedule of levels.

    Args:
        levels: number of levels K.
        T: number of steps.
        gamma: of convex-decay, below 1 the finest level has the most steps; 1: all have the same.
            Of sigmoid and tanh, 1 or more.
        decay: which schedule; see the module's text.

    Raises:
        InputError: fewer steps than levels, gamma out of range, or a level without a step.
    """
    if levels < 1 or levels > T:
        raise InputError(f"{levels} levels need as many steps, got T = {T}")
    if not 0 < gamma < float("inf"):
        raise InputError(f"gamma must be positive, got {gamma}")
    if decay != "convex-decay" and gamma < 1:
        raise InputError(f"gamma of {decay!r} must be at least 1, got {gamma}")
    tau = np.arange(T) / max(T - 1, 1)
    # the small addition keeps exact multiples from being rounded to the level below
    level = np.floor(levels * _share(decay, tau, gamma) + 1e-9).clip(max=levels - 1)
    ends = tuple(int((level <= each).sum()) for each in range(levels))
    if any(b <= a for a, b in pairwise((0, *ends))):
        raise InputError(f"gamma = {gamma} leaves a level without a step: ends {ends}")
    return ends


def level_ends_of_spectrum(
    S0: Tensor, basis: Basis, sizes: Sequence[int], schedule: Schedule, tau: float, T: int
) -> tuple[int, ...]:
    """Levels that end where the first mode the next one lacks has the signal-to-noise ratio tau.

    Args:
        S0: variance of every orthonormal mode of the full fields, shape (N, N).
        basis: basis of the modes.
        sizes: side of every level, finest first.
        schedule: -ln abar as a function of t = n / T.
        tau: abar S0 / (1 - abar) that counts as lost.
        T: number of steps.

    Raises:
        InputError: a level would have no step.
    """
    N, ends = len(S0), []
    k = torch.as_tensor(kspace.wavenumbers(N, basis))
    for M in sizes[1:]:
        # a shell and its neighbours, for the variance of one mode is noisy
        edge = float(kspace.half_periods(M + 1, basis)[-1]) * np.pi
        near = (k / edge - 1).abs() < 0.1
        u = np.log1p(float(S0[near].mean()) / tau)
        end = float(schedule.lam(1.0))
        ends.append(round(float(schedule.time(min(u, end))) * T))
    found = (*ends, T)
    if any(b <= a for a, b in pairwise((0, *found))):
        raise InputError(f"tau = {tau} leaves a level without a step: ends {found}")
    return found


@dataclass(frozen=True, eq=False)
class LevelPosterior:
    """q(x_m | x_n, x_0) between states on two levels, m <= n; see the module's text.

    Args:
        resize: the map from the level of x_m to that of x_n.
        u_n, u_m: -ln abar at both steps.

    Raises:
        InputError: no such process exists, because the map amplifies the noise of x_m too much.
    """

    resize: Resize
    u_n: float
    u_m: float

    def __post_init__(self) -> None:
        if not 0 <= self.u_m <= self.u_n:
            raise InputError(f"m must not exceed n, got -ln abar = {self.u_m:g}, {self.u_n:g}")
        largest = self._ratio * self._c**2 * self.resize.gain
        if largest > 1 + 1e-9:
            raise InputError(
                f"the noise at n cannot hold the noise at m, resized: sigma_m^2 lambda_max(M M^T) "
                f"is {largest:.4g} times sigma_n^2, and must not exceed it"
            )

    @property
    def _c(self) -> float:
        return float(np.exp((self.u_m - self.u_n) / 2))

    @property
    def _ratio(self) -> float:
        """(s_m / s_n)^2."""
        return float(np.expm1(-self.u_m) / np.expm1(-self.u_n)) if self.u_n else 1.0

    def mean(self, x_n: Tensor, x_0: Tensor) -> Tensor:
        """The mean, from x_n (..., M, M) and D(x_0) on the level of x_m, shape (..., N, N)."""
        mu = float(np.exp(-self.u_m / 2)) * x_0
        away = x_n - self._c * self.resize.apply(mu)
        return mu + self._ratio * self._c * self.resize.adjoint(away)

    @cached_property
    @torch.inference_mode(False)
    def spread(self) -> Tensor:
        """Standard deviation of every singular mode, float64, shape (N, N)."""
        d, _ = self.resize.modes
        held = self._ratio * self._c**2 * torch.outer(d**2, d**2)
        return float(np.sqrt(-np.expm1(-self.u_m))) * torch.sqrt((1 - held).clamp(min=0))

    def noise(self, z: Tensor) -> Tensor:
        """A draw of the covariance, from independent N(0, 1) numbers z of shape (..., N, N)."""
        _, V = self.resize.modes
        V = V.to(z)
        # to the modes and back: vectors of equal singular values are another choice on each machine
        return V @ (self.spread.to(z) * (V.T @ z @ V)) @ V.T


@dataclass(frozen=True, eq=False)
class ScaleSpace:
    """The process of square fields over T steps and several levels.

    Args:
        sizes: side of every level, finest first.
        ends: last step of every level.
        schedule: -ln abar as a function of t = n / T.
        degradation: how one level is made of the one above.
        basis: "periodic" for lattices on a torus.
        gap: steps that a change of level takes, 0 or 1.

    Raises:
        InputError: sides that do not fall or are below 4, ends that do not grow, or a change of
            level that does not exist (see :class:`LevelPosterior`).
    """

    sizes: tuple[int, ...]
    ends: tuple[int, ...]
    schedule: Schedule
    degradation: Degradation
    basis: Basis
    gap: int = 0

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.ends) or not self.sizes:
            raise InputError(f"{len(self.sizes)} sizes and {len(self.ends)} ends of levels")
        for N, M in pairwise(self.sizes):
            if M >= N:
                raise InputError(
                    f"the side of each level must be below that of the level above, got {N} and {M}"
                )
        if self.sizes[-1] < SMALLEST:
            raise InputError(
                f"levels must be at least {SMALLEST} x {SMALLEST}, got sides {self.sizes}"
            )
        if any(b <= a for a, b in pairwise((0, *self.ends))):
            raise InputError(f"each level must end after the one above, got {self.ends}")
        for level in range(len(self.resizes)):
            self.raising(level)

    @property
    def T(self) -> int:
        """Number of steps."""
        return self.ends[-1]

    @cached_property
    @torch.inference_mode(False)
    def levels(self) -> tuple[Process, ...]:
        """The process within each level."""
        return tuple(white_process(N, self.schedule, self.basis, self.T) for N in self.sizes)

    @cached_property
    @torch.inference_mode(False)
    def modes(self) -> tuple[Process, ...]:
        """The process of one mode of each level, whose coefficients are those of all."""
        one = torch.ones(1, 1, dtype=torch.float64)
        return tuple(
            Process(one, each.schedule, self.basis, each.k_c, self.T) for each in self.levels
        )

    @cached_property
    @torch.inference_mode(False)
    def resizes(self) -> tuple[Resize, ...]:
        """The map of each level to the next."""
        return tuple(resize(self.degradation, N, M, self.basis) for N, M in pairwise(self.sizes))

    def u(self, n: Tensor | float) -> float:
        """-ln abar at a step."""
        return float(self.schedule.lam(torch.as_tensor(n, dtype=torch.float64) / self.T))

    def level(self, n: float) -> int:
        """The level of the fields at a step in 0..T.

        Raises:
            InputError: a step outside 0..T.
        """
        if not 0 <= n <= self.T:
            raise InputError(f"n must lie in 0..{self.T}, got {n}")
        return next(level for level, end in enumerate(self.ends) if n <= end)

    def first(self, level: int) -> int:
        """The step from which fields of a level are raised to the next finer one; 0: the finest."""
        return self.ends[level - 1] + self.gap if level else 0

    def between(self, fine: int, coarse: int) -> Resize:
        """The map of a level to a coarser or the same one."""
        whole = Resize(torch.eye(self.sizes[fine], dtype=torch.float64))
        for each in self.resizes[fine:coarse]:
            whole = whole.then(each)
        return whole

    def scale(self, side: int) -> float:
        """What constant fields are multiplied with on a level: 1 for averages."""
        constant = torch.ones(self.sizes[0], self.sizes[0], dtype=torch.float64)
        return float(self.degraded(constant, self.sizes.index(side)).mean())

    def degraded(self, x_0: Tensor, level: int) -> Tensor:
        """D_l(x_0) of full fields."""
        for each in self.resizes[:level]:
            x_0 = each.apply(x_0)
        return x_0

    def lifted(self, x: Tensor, side: int) -> Tensor:
        """Fields on a lattice of a finer level, smooth, with the values that D would take back."""
        for each in reversed(self.resizes[self.sizes.index(side) : self.sizes.index(x.shape[-1])]):
            x = each.adjoint(x) / each.gain
        return x

    def lowered(self, x: Tensor, level: int) -> Tensor:
        """The smallest fields on a level that are lifted to these full ones."""
        for each in self.resizes[:level]:
            P = torch.linalg.pinv(each.R).to(x)
            x = each.gain * (P.T @ x @ P)
        return x

    def posterior(self, n: float, m: float) -> LevelPosterior:
        """q(x_m | x_n, x_0), on the levels that steps m < n belong to."""
        return LevelPosterior(self.between(self.level(m), self.level(n)), self.u(n), self.u(m))

    def raising(self, level: int) -> LevelPosterior:
        """q(x on ``level`` at its last step | x on the next at its first)."""
        u_n, u_m = (self.u(n) for n in (self.first(level + 1), self.ends[level]))
        return LevelPosterior(self.resizes[level], u_n, u_m)
