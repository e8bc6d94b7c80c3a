"""Spins of given block sums by exchange: p(s | block sums) of the 2D Ising model on a torus.

Two unlike spins of one block change places with Metropolis' probability min(1, exp(-beta dE)). Any
two such spins of it are proposed alike, of which there are as many afterwards, so the update
satisfies detailed balance with respect to exp(-beta H), and the sum of each block stays.

A sweep proposes as many exchanges in every block as the block has sites, for all blocks in turn; a
block whose spins are all equal has none. Successive proposals concern different blocks, so the
processor works at several of them at a time, and nothing branches on a spin. Inside, rows of spins
have a stride that is a power of two, and every block keeps a list of its sites, those of spins up
first.
"""

import numpy as np
from numba import int8, int64, njit, uint32, uint64
from numpy.typing import NDArray

from skild_physics.kernels import kernel
from skild_physics.xoshiro import below, below_of, keep, next_bits, seed_state


@njit(inline="always")
def _neighbours(spins, site, L, stride):  # type: ignore[no-untyped-def]
    """The sum of the four spins beside a site."""
    one, last, column = uint64(1), L - uint64(1), stride - uint64(1)
    bottom = last * stride
    x = site & column
    north = site + bottom if site < stride else site - stride
    south = site - bottom if site >= bottom else site + stride
    west = site + last if x == uint64(0) else site - one
    east = site - last if x == last else site + one
    return int64(spins[north]) + int64(spins[south]) + int64(spins[west]) + int64(spins[east])


@njit(inline="always")
def _sweep(spins, sites, ups, state, thresholds, L, stride, per_block):  # type: ignore[no-untyped-def]
    zero, one, half = uint64(0), uint64(1), uint64(32)
    for _ in range(per_block):
        for block in range(len(ups)):
            first = uint64(block) * per_block
            draw, decision = next_bits(state), next_bits(state)
            n_up = ups[block]
            i = first + below_of(state, draw, n_up)
            j = first + n_up + below_of(state, draw << half, per_block - n_up)
            up, down = uint64(sites[i]), uint64(sites[j])
            field = _neighbours(spins, up, L, stride)
            # as the other one sees it, if they are neighbours
            spins[up] = -1
            field -= _neighbours(spins, down, L, stride)
            accepted = uint64(decision < thresholds[uint64((field >> 1) + 4)])
            spins[up] = int8(one) - int8(accepted << one)
            spins[down] = int8(accepted << one) - int8(one)
            swapped = (up ^ down) & (zero - accepted)
            sites[i], sites[j] = uint32(up ^ swapped), uint32(down ^ swapped)


@kernel(nogil=True)
def exchange_samples(spins, side, rng, thresholds, n_sweeps, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` with states ``n_sweeps`` sweeps of exchanges apart.

    Args:
        spins: int8 (L, L), values +-1: the state before, changed to the last one.
        side: of the blocks, a divisor of L, which is 3 or more.
        rng: uint64 (4,), generator state; changed.
        thresholds: uint64 (9,), see :func:`exchange_thresholds`.
        n_sweeps: sweeps before each saved state.
        out: int8 (samples, L, L).
    """
    L, b = uint64(spins.shape[0]), uint64(side)
    per_block = b * b
    stride = uint64(1)
    while stride < L:
        stride *= uint64(2)
    flat = np.empty(L * stride, np.int8)
    sites = np.empty(L * L, np.uint32)
    ups = np.empty((L // b) ** 2, np.uint64)
    mixed = uint64(0)
    for y in range(0, L, b):
        for x in range(0, L, b):
            up, down = mixed * per_block, (mixed + uint64(1)) * per_block
            for dy in range(b):
                for dx in range(b):
                    site = uint64(y + dy) * stride + uint64(x + dx)
                    flat[site] = spins[y + dy, x + dx]
                    if flat[site] > 0:
                        sites[up] = site
                        up += uint64(1)
                    else:
                        down -= uint64(1)
                        sites[down] = site
            n_up = up - mixed * per_block
            if uint64(0) < n_up < per_block:
                ups[mixed] = n_up
                mixed += uint64(1)
    ups = ups[:mixed]
    state = rng.copy()
    for i in range(out.shape[0]):
        for _ in range(n_sweeps):
            _sweep(flat, sites, ups, state, thresholds, L, stride, per_block)
        for y in range(L):
            for x in range(L):
                out[i, y, x] = flat[uint64(y) * stride + uint64(x)]
    for y in range(L):
        for x in range(L):
            spins[y, x] = flat[uint64(y) * stride + uint64(x)]
    keep(rng, state)


@kernel(nogil=True)
def shuffled(ups, rng, out):  # type: ignore[no-untyped-def]
    """Fill ``out``, int8 (L, L), with so many spins up in each block, all places being alike.

    Args:
        ups: spins up of every block, int64 (M, M).
        rng: uint64 (4,), generator state; changed.
        out: int8 (L, L), L a multiple of M.
    """
    state = rng.copy()
    b = out.shape[0] // ups.shape[0]
    for i in range(ups.shape[0]):
        for j in range(ups.shape[1]):
            up, left = uint64(ups[i, j]), uint64(b * b)
            for y in range(i * b, (i + 1) * b):
                for x in range(j * b, (j + 1) * b):
                    chosen = below(state, left) < up
                    out[y, x] = 1 if chosen else -1
                    up -= uint64(chosen)
                    left -= uint64(1)
    keep(rng, state)


def exchange_thresholds(beta: float) -> NDArray[np.uint64]:
    """min(1, exp(-beta dE)) times 2^64, rounded, of dE = -16, -12, .. 16, shape (9,)."""
    with np.errstate(over="ignore"):
        probability = np.exp(np.minimum(0.0, -beta * (4.0 * np.arange(-4, 5))))
    return np.array([min(int(p * 2.0**64), 2**64 - 1) for p in probability], np.uint64)


def exchange_draw(
    ups: NDArray[np.int64], L: int, beta: float, sweeps: int, seed: int, *stream: int
) -> NDArray[np.int8]:
    """One field (L, L) of given block sums, ``sweeps`` sweeps after a shuffle within the blocks.

    Args:
        ups: spins up of every block, shape (M, M).
        L: side, a multiple of M, 3 or more.
        beta: inverse temperature, J = 1.
        sweeps: of exchanges.
        seed: integer root seed.
        stream: which of its streams.
    """
    rng = seed_state(seed, *stream)
    spins, out = np.empty((L, L), np.int8), np.empty((1, L, L), np.int8)
    shuffled(ups, rng, spins)
    exchange_samples(spins, L // len(ups), rng, exchange_thresholds(beta), sweeps, out)
    return spins
