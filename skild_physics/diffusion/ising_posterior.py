"""The exact denoiser of Ising fields, E[s | x_n], by Monte Carlo: what a perfect network answers.

Given modes x_n = alpha S + sigma eps of spins s on a torus with modes S,

    p(s | x_n) ~ exp(beta sum_<ij> s_i s_j - sum_k (x_k - alpha_k S_k)^2 / (2 sigma_k^2))
               ~ exp(h . s - s . C s / 2)

with the site field h of modes alpha x / sigma^2 and a matrix C of eigenvalues alpha^2 / sigma^2,
less beta between neighbours. If these are the same for all modes that translations mix, C depends
on the distance alone, and the local field f = h - C s is kept up to date at the cost of L^2 for
every spin that changes. In a sweep each site in turn is given the spin +1 with its conditional
probability (1 + m) / 2, m = tanh(f + C_0 s), and then all spins are turned over, or not, with
theirs. E[s | x_n] is the mean of m.

Where the sums of blocks are known as well, two unlike spins of a block change places with
Metropolis' probability instead, as many proposals a sweep as there are sites. The spin i up and
j down, log p grows by 2 (f_j - f_i) - 4 (C_0 - C_ij). E[s | x_n, sums] is the mean over sweeps.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numba import uint64
from numpy.typing import NDArray
from torch import Tensor

from skild_physics import kspace
from skild_physics.diffusion.prediction import Denoiser
from skild_physics.diffusion.process import Process
from skild_physics.files import InputError
from skild_physics.kernels import kernel
from skild_physics.xoshiro import below, keep, next_bits, seed_state

RELAXED = 0.5
"""Sweeps before those that count, over the latter."""
MIXED = 1e-6
"""What modes that translations mix may differ by, relatively."""


@kernel(nogil=True)
def _sweeps(spins, h, tiled, rng, n_sweeps, means):  # type: ignore[no-untyped-def]
    """Change spins int8 (L, L); means (L, L) of m over the sweeps.

    Args:
        spins: the state, int8 (L, L); changed.
        h: site field (L, L).
        tiled: C, (2L, 2L), that of site (y, x) from site (0, 0) at (L + y, L + x).
        rng: uint64 (4,), generator state; changed.
        n_sweeps: 1 or more.
        means: float64 (L, L), filled.
    """
    L = spins.shape[0]
    state = rng.copy()
    own = tiled[L, L]
    f = _local(spins, h, tiled)
    means[:] = 0.0
    for _ in range(n_sweeps):
        aligned = 0.0
        for y in range(L):
            for x in range(L):
                old = spins[y, x]
                m = np.tanh(f[y, x] + own * old)
                means[y, x] += m
                new = 1 if _uniform(state) < 0.5 * (1.0 + m) else -1
                if new != old:
                    spins[y, x] = new
                    _add(f, tiled, y, x, -2 * new)
        for y in range(L):
            for x in range(L):
                aligned += h[y, x] * spins[y, x]
        if _uniform(state) < 0.5 * (1.0 - np.tanh(aligned)):
            for y in range(L):
                for x in range(L):
                    spins[y, x] = -spins[y, x]
                    f[y, x] = 2.0 * h[y, x] - f[y, x]
    means /= n_sweeps
    keep(rng, state)


@kernel(nogil=True)
def _exchanges(spins, side, h, tiled, rng, n_sweeps, means):  # type: ignore[no-untyped-def]
    """The same for given sums of blocks of ``side`` x ``side`` sites; means of s."""
    L = spins.shape[0]
    sites = uint64(side * side)
    state = rng.copy()
    f = _local(spins, h, tiled)
    means[:] = 0.0
    for _ in range(n_sweeps):
        for top in range(0, L, side):
            for left in range(0, L, side):
                for _ in range(sites):
                    i, j = int(below(state, sites)), int(below(state, sites))
                    y, x = top + i // side, left + i % side
                    v, u = top + j // side, left + j % side
                    if spins[y, x] <= spins[v, u]:
                        continue
                    change = 2.0 * (f[v, u] - f[y, x])
                    change -= 4.0 * (tiled[L, L] - tiled[L + v - y, L + u - x])
                    if change >= 0.0 or _uniform(state) < np.exp(change):
                        spins[y, x], spins[v, u] = -1, 1
                        _add(f, tiled, y, x, 2.0)
                        _add(f, tiled, v, u, -2.0)
        for y in range(L):
            for x in range(L):
                means[y, x] += spins[y, x]
    means /= n_sweeps
    keep(rng, state)


@kernel(inline="always")
def _uniform(state):  # type: ignore[no-untyped-def]
    return (next_bits(state) >> uint64(11)) * 2.0**-53


@kernel(nogil=True)
def _local(spins, h, tiled):  # type: ignore[no-untyped-def]
    """The local field f = h - C s."""
    L = spins.shape[0]
    f = h.copy()
    for y in range(L):
        for x in range(L):
            _add(f, tiled, y, x, -spins[y, x])
    return f


@kernel(nogil=True)
def _add(f, tiled, y, x, times):  # type: ignore[no-untyped-def]
    """Add a multiple of C of site (y, x) to a field."""
    L = f.shape[0]
    for i in range(L):
        row = tiled[L - y + i, L - x : 2 * L - x]
        for j in range(L):
            f[i, j] += times * row[j]


class Posterior(NamedTuple):
    """Of a batch of fields: means of spins, (B, L, L), and the last spins of the chains, int8."""

    mean: NDArray[np.float64]
    spins: NDArray[np.int8]


@dataclass(frozen=True)
class IsingPosterior:
    """Spins of the 2D Ising model on a torus given what noise left of their modes.

    Attributes:
        beta: inverse temperature, J = 1.
        sweeps: that are averaged over, after half as many to relax.
        seed: integer root of all random numbers.
    """

    beta: float
    sweeps: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if not np.isfinite(self.beta):
            raise InputError(f"`beta` must be finite, got {self.beta}")
        if self.sweeps < 1:
            raise InputError(f"`sweeps` must be at least 1, got {self.sweeps}")

    def given(
        self,
        process: Process,
        x: Tensor,
        n: float,
        start: NDArray[np.int8] | None = None,
        stream: Sequence[int] = (0,),
        block: int | None = None,
    ) -> Posterior:
        """Monte Carlo of the spins of a batch, one chain each, on as many threads as there are.

        Args:
            process: of the noise; periodic.
            x: modes at step n, (B, 1, L, L).
            n: the step, more than 0.
            start: spins (B, L, L) to start from, after which nothing has to relax if these are
                draws of the posterior, as the true fields are; None: the signs of the site field,
                which have.
            stream: which random numbers.
            block: side of the blocks whose sums are known to be those of ``start``.

        Raises:
            InputError: a block that does not divide L, or without spins to start from; a process
                that is not periodic, lets modes pass without noise, or differs between modes that
                translations mix; or fields of other sizes or several channels.
        """
        alpha, sigma = (c.double().cpu().numpy() for c in process.marginal(n))
        L = process.N
        if tuple(x.shape[1:]) != (1, L, L):
            raise InputError(f"the modes must have shape (B, 1, {L}, {L}), got {tuple(x.shape)}")
        if block is not None and (start is None or not 1 <= block <= L or L % block):
            raise InputError(f"`block` must divide {L} and goes with `start`, got {block}")
        tiled = self._coupling(process, alpha, sigma)
        seen = x[:, 0].detach().double().cpu().numpy()
        fields = kspace.inverse(alpha / sigma**2 * seen, process.basis)
        spins = np.where(fields >= 0, 1, -1).astype(np.int8) if start is None else start.copy()
        relaxing = int(np.ceil(RELAXED * self.sweeps)) if start is None else 0
        means = np.empty_like(fields)
        step = int(np.float64(n).view(np.uint64))

        def run(i: int) -> None:
            rng = seed_state(self.seed, *stream, step, i)
            if block is not None:
                _exchanges(spins[i], block, fields[i], tiled, rng, self.sweeps, means[i])
                return
            if relaxing:
                _sweeps(spins[i], fields[i], tiled, rng, relaxing, means[i])
            _sweeps(spins[i], fields[i], tiled, rng, self.sweeps, means[i])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(run, range(len(spins))))
        return Posterior(means, spins)

    def denoiser(self, process: Process) -> Denoiser:
        """The estimate of x_0 of exact means, up to the noise of so many sweeps."""

        def denoise(x: Tensor, n: float) -> Tensor:
            mean = self.given(process, x, n).mean
            return torch.as_tensor(kspace.forward(mean, process.basis))[:, None].to(x)

        return denoise

    def _coupling(
        self, process: Process, alpha: NDArray[np.float64], sigma: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """C, tiled, see :func:`_sweeps`."""
        if process.basis != "periodic":
            raise InputError(f"the exact denoiser is that of a torus, not of {process.basis} modes")
        if not sigma.all():
            raise InputError("there are modes without noise, which leave nothing to denoise")
        L = process.N
        precision = (alpha / sigma) ** 2
        # cosine and sine of one wave
        wave = kspace.half_periods(L, "periodic") // 2
        partner = np.array([np.flatnonzero(wave == w)[0] for w in wave])
        for other in (precision[partner], precision[:, partner]):
            if not np.allclose(other, precision, rtol=MIXED, atol=0):
                raise InputError("S0 differs between modes that translations mix; average them")
        delta = np.zeros((L, L))
        delta[0, 0] = 1.0
        C = kspace.inverse(precision * kspace.forward(delta, "periodic"), "periodic")
        for y, x in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            C[y, x] -= self.beta
        return np.tile(C, (2, 2))
