"""Energy and magnetisation of lattices on a torus, field by field.

e = -1/N sum over nearest-neighbour bonds of s s',    m = 1/N sum of s,    N = L^2, J = 1.
"""

import numpy as np
from numpy.typing import NDArray

from skild_physics.kernels import kernel


@kernel(nogil=True)
def _bond_sums(spins, out):  # type: ignore[no-untyped-def]
    n, L, _ = spins.shape
    for i in range(n):
        total = np.int64(0)
        for y in range(L):
            row, below = spins[i, y], spins[i, (y + 1) % L]
            in_row = np.int32(row[L - 1] * (row[0] + below[L - 1]))
            for x in range(L - 1):
                in_row += np.int32(row[x] * (row[x + 1] + below[x]))
            total += in_row
        out[i] = total


def energy_per_spin(fields: NDArray[np.generic]) -> NDArray[np.float64]:
    """-sum over nearest-neighbour bonds of s s' per site of each field on a torus, J = 1.

    Shape (sample, L, L) to (sample,).
    """
    if fields.dtype == np.int8:
        bonds = np.empty(len(fields), np.int64)
        _bond_sums(fields, bonds)
        energy: NDArray[np.float64] = -bonds / (fields.shape[1] * fields.shape[2])
        return energy
    s = fields.astype(np.float64)
    products = s * (np.roll(s, 1, axis=1) + np.roll(s, 1, axis=2))
    energy = -products.mean(axis=(1, 2))
    return energy


def magnetization_per_spin(fields: NDArray[np.generic]) -> NDArray[np.float64]:
    """Mean spin of each field, shape (sample, L, L) to (sample,)."""
    return np.asarray(fields.mean(axis=(1, 2), dtype=np.float64))
