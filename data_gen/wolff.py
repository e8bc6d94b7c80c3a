"""Wolff's single-cluster algorithm for the 2D Ising model (Wolff, PRL 62, 361 (1989)).

From a uniformly chosen seed site a cluster grows over equal neighbours, each bond being open with

    p = 1 - exp(-2 beta J),

and is flipped as a whole. The update satisfies detailed balance with respect to exp(-beta H),
H = -J sum_<ij> s_i s_j, on the L x L torus.

States must be saved after a number of updates that was fixed beforehand. Saving when a target
number of spins has been flipped favours states that large clusters have just produced and biases
the energy at criticality by several per cent.
"""

import numpy as np
from numba import int8, njit, uint32, uint64
from numpy.typing import NDArray

BIT_GENERATOR = "xoshiro256++"


@njit(inline="always")
def _next(state):  # type: ignore[no-untyped-def]
    """One 64-bit draw of xoshiro256++ (Blackman and Vigna, ACM TOMS 47, 36 (2021))."""
    s0, s1, s2, s3 = state[0], state[1], state[2], state[3]
    total = s0 + s3
    out = ((total << uint64(23)) | (total >> uint64(41))) + s0
    shifted = s1 << uint64(17)
    s2 ^= s0
    s3 ^= s1
    s1 ^= s2
    s0 ^= s3
    s2 ^= shifted
    s3 = (s3 << uint64(45)) | (s3 >> uint64(19))
    state[0], state[1], state[2], state[3] = s0, s1, s2, s3
    return out


@njit(inline="always")
def _below(state, bound):  # type: ignore[no-untyped-def]
    """Uniform integer in [0, bound), exact: rejection removes the modulo bias."""
    limit = ~uint64(0) - ~uint64(0) % bound
    draw = _next(state)
    while draw >= limit:
        draw = _next(state)
    return draw % bound


@njit(inline="always")
def _visit(spins, stack, top, y, x, L, up, open_bond):  # type: ignore[no-untyped-def]
    """Flip a neighbour that joins the cluster; the new top of the stack.

    The site is written to the stack in any case and kept by moving the pointer: no branch that
    the processor would mispredict half of the time.
    """
    site = y * L + x
    spin = spins[site]
    joins = uint64(spin == up) & uint64(open_bond)
    spins[site] = spin - int8(2) * (int8(joins) * up)
    stack[top] = uint32((y << uint64(16)) | x)
    return top + joins


@njit(nogil=True, cache=True)
def wolff_updates(spins, rng, stack, threshold, n_updates):  # type: ignore[no-untyped-def]
    """Apply ``n_updates`` cluster flips in place and return the number of spins flipped.

    Args:
        spins: int8 (L * L,), row-major, values +-1; changed. L < 65536.
        rng: uint64 (4,), generator state; changed.
        stack: uint32 (L * L + 4,), scratch.
        threshold: a bond opens when a 32-bit draw is below it, see :func:`bond_threshold`.
        n_updates: number of single-cluster updates.
    """
    L = uint64(np.sqrt(spins.size))
    zero, one, last = uint64(0), uint64(1), uint64(L - uint64(1))
    low = uint64(0xFFFFFFFF)
    state = rng.copy()
    flipped = 0
    for _ in range(n_updates):
        site = _below(state, L * L)
        up = spins[site]
        spins[site] = -up
        stack[zero] = uint32(((site // L) << uint64(16)) | (site % L))
        top = one
        while top > zero:
            top -= one
            flipped += 1
            y = uint64(stack[top]) >> uint64(16)
            x = uint64(stack[top]) & uint64(0xFFFF)
            north = last if y == zero else y - one
            south = zero if y == last else y + one
            west = last if x == zero else x - one
            east = zero if x == last else x + one
            a, b = _next(state), _next(state)
            top = _visit(spins, stack, top, north, x, L, up, a & low < threshold)
            top = _visit(spins, stack, top, south, x, L, up, a >> uint64(32) < threshold)
            top = _visit(spins, stack, top, y, west, L, up, b & low < threshold)
            top = _visit(spins, stack, top, y, east, L, up, b >> uint64(32) < threshold)
    rng[:] = state
    return flipped


@njit(nogil=True, cache=True)
def wolff_samples(spins, rng, threshold, n_updates, out):  # type: ignore[no-untyped-def]
    """Fill ``out``, int8 (samples, L * L), with states ``n_updates`` cluster updates apart.

    ``spins`` and ``rng`` are advanced in place. Returns the number of spins flipped.
    """
    stack = np.empty(spins.size + 4, np.uint32)
    flipped = 0
    for i in range(out.shape[0]):
        flipped += wolff_updates(spins, rng, stack, threshold, n_updates)
        out[i] = spins
    return flipped


def bond_threshold(beta: float, J: float = 1.0) -> np.uint64:
    """Integer threshold of the bond probability 1 - exp(-2 beta J), resolved to 2^-32.

    Raises:
        ValueError: beta J is not a positive finite number.
    """
    if not (np.isfinite(beta * J) and beta * J > 0):
        raise ValueError(f"beta must be positive and finite, got {beta}")
    return np.uint64(round(-np.expm1(-2 * beta * J) * 2.0**32))


def seed_states(seed: int, n_chains: int) -> NDArray[np.uint64]:
    """Independent generator states, shape (n_chains, 4), spawned from one integer root seed."""
    children = np.random.SeedSequence(seed).spawn(n_chains)
    return np.array([child.generate_state(4, np.uint64) for child in children])
