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

Here a field changes its level at one and the same step n_l (c = 1); the published chain does so
from n_l + 1 to n_l. The degradations:

    bilinear   antialiased bilinear resize, the paper's
    box        block average, of spins the block-spin step of Kadanoff
    crop       the low modes of the basis, orthonormal: pixel values grow by the ratio of the sides

Since R R^T = 1 of a crop, the signal-to-noise ratio of what is left does not change, as in SKILD.
Averages reduce the noise to d^4 < 1 of its variance and the step refills it: information is lost.

Reversing a change of level with an estimate of x_0, as published, lacks the variance that x_0 has
given x_n. What small steps lack vanishes with their size, but this stays: a new mode starts as
noise alone. Given the variance of the error of the estimate, x_0 is drawn with that variance, which
gives Gaussian data their exact covariance, and other data the right second moments.

The K published levels are floor(K (1 - (1 - tau)^gamma)) with tau = (n - 1) / (T - 1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from skild_physics import kspace
from skild_physics.diffusion.downsampling import downsampling_matrix
from skild_physics.diffusion.prediction import Prediction, estimate_form
from skild_physics.diffusion.process import Process, white_process
from skild_physics.diffusion.sampler import Noise, SampleNoise, ancestral, multistep, step_grid
from skild_physics.diffusion.schedule import Schedule
from skild_physics.diffusion.superresolution import Sampled, Sampling, no_progress
from skild_physics.kspace import Basis

Degradation = Literal["bilinear", "box", "crop"]
DEGRADATIONS: tuple[str, ...] = get_args(Degradation)
SMALLEST = 4
"""No level is smaller than this many sites per side."""


@dataclass(frozen=True, eq=False)
class Resize:
    """The linear map R x R^T of fields (..., N, N) to (..., M, M), R of shape (M, N), float64."""

    R: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """R x R^T."""
        R = self.R.to(x)
        return R @ x @ R.T

    def adjoint(self, y: Tensor) -> Tensor:
        """R^T y R, shape (..., N, N)."""
        R = self.R.to(y)
        return R.T @ y @ R

    @cached_property
    def modes(self) -> tuple[Tensor, Tensor]:
        """Singular values d (N,), filled up with zeros, and their vectors in columns V (N, N)."""
        _, d, Vt = torch.linalg.svd(self.R, full_matrices=True)
        zeros = torch.zeros(self.R.shape[1] - len(d), dtype=d.dtype, device=d.device)
        return torch.cat([d, zeros]), Vt.T.contiguous()

    @property
    def gain(self) -> float:
        """lambda_max of the map times its adjoint: the largest factor on a variance."""
        return float(self.modes[0].max()) ** 4

    def then(self, after: "Resize") -> "Resize":
        """This map followed by another."""
        return Resize(after.R @ self.R)


def resize(kind: Degradation, N: int, M: int, basis: Basis) -> Resize:
    """The degradation of N x N fields to M x M ones.

    Raises:
        ValueError: an unknown kind, or not 1 <= M <= N.
    """
    if kind not in DEGRADATIONS:
        raise ValueError(f"degradation must be one of {DEGRADATIONS}, got {kind!r}")
    if kind == "crop":
        R = downsampling_matrix("spectral", N, M, basis)
        return Resize(R * (N / M) ** 0.5)
    return Resize(downsampling_matrix(kind, N, M, basis))


def level_ends(levels: int, T: int, gamma: float = 0.5) -> tuple[int, ...]:
    """The last step of each level, finest first: the published schedule "convex decay".

    Args:
        levels: number of levels K.
        T: number of steps.
        gamma: below 1 the finest level has the most steps; 1: all have the same.

    Raises:
        ValueError: fewer steps than levels, gamma not positive, or a level without a step.
    """
    if levels < 1 or levels > T:
        raise ValueError(f"{levels} levels need as many steps, got T = {T}")
    if not 0 < gamma < float("inf"):
        raise ValueError(f"gamma must be positive, got {gamma}")
    tau = np.arange(T) / max(T - 1, 1)
    # the small addition keeps exact multiples from being rounded to the level below
    level = np.floor(levels * (1 - (1 - tau) ** gamma) + 1e-9).clip(max=levels - 1)
    ends = tuple(int((level <= each).sum()) for each in range(levels))
    if any(b <= a for a, b in pairwise((0, *ends))):
        raise ValueError(f"gamma = {gamma} leaves a level without a step: ends {ends}")
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
        ValueError: a level would have no step.
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
        raise ValueError(f"tau = {tau} leaves a level without a step: ends {found}")
    return found


@dataclass(frozen=True, eq=False)
class LevelPosterior:
    """q(x_m | x_n, x_0) between states on two levels, m <= n; see the module's text.

    Args:
        resize: the map from the level of x_m to that of x_n.
        u_n, u_m: -ln abar at both steps.

    Raises:
        ValueError: no such process exists, because the map amplifies the noise of x_m too much.
    """

    resize: Resize
    u_n: float
    u_m: float

    def __post_init__(self) -> None:
        if not 0 <= self.u_m <= self.u_n:
            raise ValueError(f"m must not exceed n, got -ln abar = {self.u_m:g}, {self.u_n:g}")
        largest = self._ratio * self._c**2 * self.resize.gain
        if largest > 1 + 1e-9:
            raise ValueError(
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
    def spread(self) -> Tensor:
        """Standard deviation of every singular mode, float64, shape (N, N)."""
        d, _ = self.resize.modes
        held = self._ratio * self._c**2 * torch.outer(d**2, d**2)
        return float(np.sqrt(-np.expm1(-self.u_m))) * torch.sqrt((1 - held).clamp(min=0))

    def noise(self, z: Tensor) -> Tensor:
        """A draw of the covariance, from independent N(0, 1) numbers z of shape (..., N, N)."""
        _, V = self.resize.modes
        V = V.to(z)
        return V @ (self.spread.to(z) * z) @ V.T


class Estimate(Protocol):
    """An estimate of x_0 on a lattice of ``side``, from fields x_n of that or a coarser level."""

    def __call__(self, x_n: Tensor, n: float, side: int) -> Tensor:
        """D(x_0), shape (B, C, side, side), from x_n (B, C, M, M)."""
        ...


@dataclass(frozen=True, eq=False)
class ScaleSpace:
    """The process of square fields over T steps and several levels.

    Args:
        sizes: side of every level, finest first.
        ends: last step of every level.
        schedule: -ln abar as a function of t = n / T.
        degradation: how one level is made of the one above.
        basis: "periodic" for lattices on a torus.

    Raises:
        ValueError: sides that do not divide each other or are below 4, ends that do not grow, or a
            change of level that does not exist (see :class:`LevelPosterior`).
    """

    sizes: tuple[int, ...]
    ends: tuple[int, ...]
    schedule: Schedule
    degradation: Degradation
    basis: Basis

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.ends) or not self.sizes:
            raise ValueError(f"{len(self.sizes)} sizes and {len(self.ends)} ends of levels")
        for N, M in pairwise(self.sizes):
            if M >= N or N % M:
                raise ValueError(
                    f"the side of each level must divide that of the level above, got {N} and {M}"
                )
        if self.sizes[-1] < SMALLEST:
            raise ValueError(
                f"levels must be at least {SMALLEST} x {SMALLEST}, got sides {self.sizes}"
            )
        if any(b <= a for a, b in pairwise((0, *self.ends))):
            raise ValueError(f"each level must end after the one above, got {self.ends}")
        for level in range(len(self.resizes)):
            n = self.ends[level]
            LevelPosterior(self.resizes[level], self.u(n + 1), self.u(n))
            self.raising(level)

    @property
    def T(self) -> int:
        """Number of steps."""
        return self.ends[-1]

    @cached_property
    def levels(self) -> tuple[Process, ...]:
        """The process within each level."""
        return tuple(white_process(N, self.schedule, self.basis, self.T) for N in self.sizes)

    @cached_property
    def resizes(self) -> tuple[Resize, ...]:
        """The map of each level to the next."""
        return tuple(resize(self.degradation, N, M, self.basis) for N, M in pairwise(self.sizes))

    def u(self, n: Tensor | float) -> float:
        """-ln abar at a step."""
        return float(self.schedule.lam(torch.as_tensor(n, dtype=torch.float64) / self.T))

    def level(self, n: float) -> int:
        """The level of the fields at a step in 0..T.

        Raises:
            ValueError: a step outside 0..T.
        """
        if not 0 <= n <= self.T:
            raise ValueError(f"n must lie in 0..{self.T}, got {n}")
        return next(level for level, end in enumerate(self.ends) if n <= end)

    def between(self, fine: int, coarse: int) -> Resize:
        """The map of a level to a coarser or the same one."""
        whole = Resize(torch.eye(self.sizes[fine], dtype=torch.float64))
        for each in self.resizes[fine:coarse]:
            whole = whole.then(each)
        return whole

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

    def posterior(self, n: float, m: float) -> LevelPosterior:
        """q(x_m | x_n, x_0), on the levels that steps m < n belong to."""
        return LevelPosterior(self.between(self.level(m), self.level(n)), self.u(n), self.u(m))

    def raising(self, level: int) -> LevelPosterior:
        """q(x on ``level`` | x on the next), both at the last step of ``level``."""
        u = self.u(self.ends[level])
        return LevelPosterior(self.resizes[level], u, u)


def estimator(
    network: Callable[..., Tensor], space: ScaleSpace, prediction: Prediction
) -> Estimate:
    """The estimate of x_0 of a trained network f(x, lambda N^2, side of the output).

    It is that of the process within a level, x_0 = a f + b x_n, with x_n lifted to the side wanted.
    """

    def estimate(x_n: Tensor, n: float, side: int) -> Tensor:
        process = space.levels[space.sizes.index(side)]
        lam = (process.lam(n) * side**2).to(x_n).expand(len(x_n))
        on_output, on_xn = (float(c[0, 0]) for c in estimate_form(prediction, process, n))
        same = x_n.shape[-1] == side
        output = network(x_n, lam) if same else network(x_n, lam, side)
        return on_output * output + on_xn * space.lifted(x_n, side)

    return estimate


class Leg(NamedTuple):
    """Steps within one level, descending; then, unless it is the finest, the change of level."""

    level: int
    steps: Tensor


def legs(space: ScaleSpace, start: float, level: int, sampling: Sampling) -> list[Leg]:
    """The way from a state on a level at step ``start`` to x_0, with ``sampling.calls`` calls.

    Steps are spaced as on the finest level, one more ends each level, and every change of level
    takes a call.

    Raises:
        ValueError: fewer calls than that.
    """
    changes = [float(end) for end in space.ends[:level]]
    inner = [end for end in changes if end < start]
    calls = sampling.calls - len(changes) - len(inner)
    if calls < 1:
        raise ValueError(
            f"{len(changes)} changes of level need at least {len(changes) + len(inner) + 1} "
            f"network calls, got {sampling.calls}"
        )
    grid = step_grid(space.levels[0], start, calls, sampling.spacing, sampling.last_snr).numpy()
    found = []
    for each in range(level, -1, -1):
        low = changes[each - 1] if each else 0.0
        high = min(start, float(space.ends[each]))
        steps = np.unique([high, low, *grid[(grid > low) & (grid < high)]])[::-1]
        found.append(Leg(each, torch.as_tensor(steps.copy())))
    return found


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
            process = space.levels[level]

            def within(x: Tensor, n: float, side: int = side) -> Tensor:
                return estimate(x, n, side)

            if sampling.sampler == "ancestral":
                x = ancestral(process, within, x, steps, noise)
            else:
                tau = 1.0 if sampling.sampler == "stochastic" else 0.0
                x = multistep(process, within, x, steps, sampling.order, tau, noise)
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
        noise = SampleNoise(sampling.seed, range(first, last))
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
        ValueError: count < 1, or too few calls for the levels.
    """
    if count < 1:
        raise ValueError(f"the number of samples must be at least 1, got {count}")
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
        ValueError: no level of their size, or too few calls.
    """
    M = coarse.shape[-1]
    if coarse.shape[-2] != M or M not in space.sizes[1:]:
        raise ValueError(
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
