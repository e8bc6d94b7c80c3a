"""Blocks of b x b spins on a torus: their sums, and what their sums leave open."""

import numpy as np
from numpy.typing import NDArray


def block_sums(spins: NDArray[np.int8], b: int) -> NDArray[np.int64]:
    """Sums over blocks, shape (sample, L, L) to (sample, L / b, L / b)."""
    M = spins.shape[-1] // b
    sums: NDArray[np.int64] = spins.reshape(-1, M, b, M, b).sum(axis=(2, 4), dtype=np.int64)
    return sums


def inner_bonds(spins: NDArray[np.int8], b: int) -> NDArray[np.int64]:
    """Sums of s s' over the 2 b (b - 1) bonds within each block, (sample, L, L) to (sample, M, M).

    Of a block as wide as the lattice without those that go around.
    """
    n, L, _ = spins.shape
    blocks = spins.reshape(n, L // b, b, L // b, b)
    down = (blocks[:, :, 1:] * blocks[:, :, :-1]).sum(axis=(2, 4), dtype=np.int64)
    right = (blocks[..., 1:] * blocks[..., :-1]).sum(axis=(2, 4), dtype=np.int64)
    return np.asarray(down + right)


def boundary_energy(spins: NDArray[np.int8], b: int) -> NDArray[np.float64]:
    """-s s' per bond between spins of different blocks, J = 1, shape (sample, L, L) to (sample,).

    Of a single block they are the bonds that go around the torus.
    """
    last, first = slice(b - 1, None, b), slice(0, None, b)
    products = spins[:, last] * np.roll(spins[:, first], -1, axis=1)
    across = spins[:, :, last] * np.roll(spins[:, :, first], -1, axis=2)
    total = products.sum(axis=(1, 2), dtype=np.int64) + across.sum(axis=(1, 2), dtype=np.int64)
    energy: NDArray[np.float64] = -total / (2 * products[0].size)
    return energy


def staggered_moment(spins: NDArray[np.int8], b: int) -> NDArray[np.float64]:
    """Mean over blocks of (sum (-1)^(x+y) s)^2 / b^2, shape (sample, L, L) to (sample,)."""
    y, x = np.indices(spins.shape[1:])
    sums = block_sums(spins * (1 - 2 * ((x + y) % 2)).astype(np.int8), b)
    moment: NDArray[np.float64] = (sums**2).mean(axis=(1, 2)) / b**2
    return moment
