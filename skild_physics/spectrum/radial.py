"""Radial profile of a per-mode variance: the mean over shells of equal wavenumber.

Shells are exact, never bins, so every mode of a shell has the same wavenumber to the last digit:
equal integers (k/pi)^2 = d_u^2 + d_v^2, or, for the lattice momentum, which depends on d_u and d_v
separately, equal unordered pairs {d_u, d_v}.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skild_physics.kspace import Basis, Momentum, half_periods, shell_index, wavenumbers


class Shells(NamedTuple):
    """The shells of an N x N lattice: wavenumber k and number of modes, each of shape (shell,)."""

    k: NDArray[np.float64]
    modes: NDArray[np.int64]
    of_mode: NDArray[np.int64]
    """Position of each mode's shell, shape (N, N)."""


@lru_cache(maxsize=16)
def shells(N: int, basis: Basis, momentum: Momentum = "continuum") -> Shells:
    """The shells of an N x N lattice, in order of k.

    Raises:
        InputError: unknown basis or momentum, or N < 1.
    """
    k = wavenumbers(N, basis, momentum)
    if momentum == "continuum":
        index = shell_index(N, basis)
    else:
        d = half_periods(N, basis)
        index = np.minimum.outer(d, d) * 2 * N + np.maximum.outer(d, d)
    _, first, of_mode, modes = np.unique(
        index, return_index=True, return_inverse=True, return_counts=True
    )
    k_of_shell = k.ravel()[first]
    order = np.argsort(k_of_shell, kind="stable")
    position = np.argsort(order)
    return Shells(k_of_shell[order], modes[order], position[of_mode.reshape(N, N)])


def radial_mean(
    per_mode: NDArray[np.float64], basis: Basis, momentum: Momentum = "continuum"
) -> NDArray[np.float64]:
    """Mean over each shell, shape (..., shell), of per-mode values of shape (..., N, N)."""
    N = per_mode.shape[-1]
    _, modes, of_mode = shells(N, basis, momentum)
    flat = per_mode.reshape(-1, N * N)
    sums = np.stack([np.bincount(of_mode.ravel(), row, len(modes)) for row in flat])
    return (sums / modes).reshape(*per_mode.shape[:-2], len(modes))
