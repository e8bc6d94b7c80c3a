"""Radial profile of a per-mode variance: the mean over shells of equal u^2 + v^2.

Shells are exact integers (k/pi)^2 = d_u^2 + d_v^2, never bins, so every mode of a shell has the
same wavenumber to the last digit.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skild_physics.kspace import Basis, shell_index


class Shells(NamedTuple):
    """The shells of an N x N lattice: wavenumber k and number of modes, each of shape (shell,)."""

    k: NDArray[np.float64]
    modes: NDArray[np.int64]
    of_mode: NDArray[np.int64]
    """Position of each mode's shell, shape (N, N)."""


def shells(N: int, basis: Basis) -> Shells:
    """The shells of an N x N lattice, in order of k."""
    index = shell_index(N, basis)
    integers, of_mode, modes = np.unique(index, return_inverse=True, return_counts=True)
    return Shells(np.pi * np.sqrt(integers), modes, of_mode.reshape(index.shape))


def radial_mean(per_mode: NDArray[np.float64], basis: Basis) -> NDArray[np.float64]:
    """Mean over each shell, shape (..., shell), of per-mode values of shape (..., N, N)."""
    N = per_mode.shape[-1]
    _, modes, of_mode = shells(N, basis)
    flat = per_mode.reshape(-1, N * N)
    sums = np.stack([np.bincount(of_mode.ravel(), row, len(modes)) for row in flat])
    return (sums / modes).reshape(*per_mode.shape[:-2], len(modes))
