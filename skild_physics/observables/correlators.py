"""Connected four-point correlator of square corners on a torus.

For corners a = (y, x), b = (y, x + r), c = (y + r, x), d = (y + r, x + r) and a field of zero mean
by symmetry,

    kappa4(r) = <abcd> - <ab><cd> - <ac><bd> - <ad><bc>,

where <.> averages over all translations and all fields (arXiv 2605.26032). Translation invariance
gives <cd> = <ab> and <bd> = <ac>. It vanishes for every Gaussian field.
"""

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

CORNER_PRODUCTS = ("abcd", "ab", "ac", "ad", "bc")


@njit(parallel=True, cache=True, fastmath={"reassoc", "contract"})
def _corner_means(fields, sides, out):  # type: ignore[no-untyped-def]
    n, L, _ = fields.shape
    for i in prange(n):
        for j in range(len(sides)):
            r = sides[j]
            abcd = ab = ac = ad = bc = 0.0
            for y in range(L):
                upper = fields[i, y]
                lower = fields[i, (y + r) % L]
                for start, stop, shift in ((0, L - r, r), (L - r, L, r - L)):
                    for x in range(start, stop):
                        a, b = upper[x], upper[x + shift]
                        c, d = lower[x], lower[x + shift]
                        abcd += (a * b) * (c * d)
                        ab += a * b
                        ac += a * c
                        ad += a * d
                        bc += b * c
            out[i, j, 0] = abcd / (L * L)
            out[i, j, 1] = ab / (L * L)
            out[i, j, 2] = ac / (L * L)
            out[i, j, 3] = ad / (L * L)
            out[i, j, 4] = bc / (L * L)


def default_sides(L: int) -> NDArray[np.int64]:
    """Powers of two up to half the torus: 1, 2, 4 .. L/2."""
    return np.array([2**i for i in range(L.bit_length() - 1)], dtype=np.int64)


def corner_means(fields: NDArray[np.generic], sides: NDArray[np.int64]) -> NDArray[np.float64]:
    """Translation averages of the corner products of every field.

    Args:
        fields: shape (sample, L, L), any real dtype.
        sides: sides r of the squares in lattice spacings, shape (side,).

    Returns:
        Averages of abcd, ab, ac, ad and bc, shape (sample, side, 5).

    Raises:
        ValueError: fields are not square, or a side is not within 1 .. L/2.
    """
    if fields.ndim != 3 or fields.shape[1] != fields.shape[2]:
        raise ValueError(f"fields must have shape (sample, L, L), got {fields.shape}")
    L = fields.shape[1]
    sides = np.asarray(sides, dtype=np.int64)
    if len(sides) == 0 or sides.min() < 1 or sides.max() > L // 2:
        raise ValueError(f"sides must lie in 1 .. {L // 2} on a torus of L = {L}, got {sides}")
    out = np.empty((len(fields), len(sides), len(CORNER_PRODUCTS)))
    _corner_means(np.ascontiguousarray(fields, dtype=np.float32), sides, out)
    return out


def kappa4(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """kappa4 from averaged corner products, shape (..., 5) to (...)."""
    abcd, ab, ac, ad, bc = np.moveaxis(means, -1, 0)
    return np.asarray(abcd - ab**2 - ac**2 - ad * bc)


@njit(nogil=True, cache=True)
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
