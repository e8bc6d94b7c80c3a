"""Metropolis' rule for 64 spins of the 2D Ising model at a time, on a torus of even side.

A spin d of whose four neighbours differ from it is turned over with the probability

    min(1, exp(-beta dE)) = exp(-8 beta), exp(-4 beta), 1, 1, 1    for d = 0, 1, 2, 3, 4,

dE = 8 - 4 d in units of J, which leaves exp(-beta H), H = -sum_<ij> s_i s_j, as it is. A sweep does
so first to all sites of even x + y, then to the others: none of either is the neighbour of another.
In a fixed order it is not ergodic alone at beta = 0, where two sweeps return to where they began,
and forgets in 1 / (6 beta) sweeps near it: there clusters alone do better.

It is for speed that spins are bits of words (sites 64 w .. 64 w + 63 of a row in word w), that
words of a column lie side by side, so that compilers handle several at once, and that random
numbers come from LANES generators. Comparing 64 of them with both probabilities, bit by bit from
the top, leaves none undecided after some eleven draws.
"""

import numpy as np
from numba import njit, uint64
from numpy.typing import NDArray

from skild_physics.xoshiro import next_bits

LANES = 16
"""Generators side by side, more than processors do at once."""


def acceptances(beta: float) -> NDArray[np.uint64]:
    """exp(-4 beta) and exp(-8 beta) times 2^64, rounded down, shape (2,)."""
    return np.array(
        [min(int(np.exp(-each * beta) * 2.0**64), 2**64 - 1) for each in (4, 8)], np.uint64
    )


@njit
def _accepted(lanes, probabilities, of_one, of_none):  # type: ignore[no-untyped-def]
    """Independent bits that are set with the probabilities of one and of no unlike neighbour.

    Args:
        lanes: uint64 (8 * LANES,): states of the generators, changed, and room for work.
        probabilities: see :func:`acceptances`.
        of_one: uint64 (n,), n a multiple of LANES: filled; where one is not set, nor is the other.
        of_none: the same.
    """
    one, none = probabilities[0], probabilities[1]
    for first in range(0, of_one.size, LANES):
        for k in range(LANES):
            lanes[4 * LANES + k] = lanes[5 * LANES + k] = ~uint64(0)
            lanes[6 * LANES + k] = lanes[7 * LANES + k] = uint64(0)
        undecided, bit = ~uint64(0), uint64(64)
        while undecided != uint64(0) and bit > uint64(0):
            bit -= uint64(1)
            wanted_of_one = uint64(0) - ((one >> bit) & uint64(1))
            wanted_of_none = uint64(0) - ((none >> bit) & uint64(1))
            undecided = uint64(0)
            for k in range(LANES):
                # next_bits of a lane; written out, since only so are several handled at once
                s0, s1 = lanes[k], lanes[LANES + k]
                s2, s3 = lanes[2 * LANES + k], lanes[3 * LANES + k]
                total = s0 + s3
                draw = ((total << uint64(23)) | (total >> uint64(41))) + s0
                shifted = s1 << uint64(17)
                s2 ^= s0
                s3 ^= s1
                s1 ^= s2
                s0 ^= s3
                s2 ^= shifted
                lanes[k], lanes[LANES + k], lanes[2 * LANES + k] = s0, s1, s2
                lanes[3 * LANES + k] = (s3 << uint64(45)) | (s3 >> uint64(19))
                a, b = lanes[4 * LANES + k], lanes[5 * LANES + k]
                lanes[6 * LANES + k] |= a & wanted_of_one & ~draw
                lanes[7 * LANES + k] |= b & wanted_of_none & ~draw
                a &= ~(draw ^ wanted_of_one)
                b &= ~(draw ^ wanted_of_none)
                lanes[4 * LANES + k], lanes[5 * LANES + k] = a, b
                undecided |= a | b
        for k in range(LANES):
            of_one[first + k] = lanes[6 * LANES + k]
            of_none[first + k] = lanes[7 * LANES + k]


@njit
def _half_sweep(rows, of_one, of_none, parity, out):  # type: ignore[no-untyped-def]
    """Turn spins of one parity of x + y over, or not.

    Args:
        rows: uint64 (W, L + 2), the words of a column from row -1 to L.
        of_one: see :func:`_accepted`; those of a column one after the other.
        of_none: the same.
        parity: 0 or 1.
        out: as rows: the spins after it.
    """
    one, top = uint64(1), uint64(63)
    W, L = rows.shape[0], rows.shape[1] - 2
    for w in range(W):
        full, before = w + 1 < W, w > 0
        last = uint64((L - 1) % 64)
        end = top if full else last
        valid = ~uint64(0) >> (top - end)
        # where the word to the west ends: it may be this one
        west_end = top if before else last
        here, north, south = rows[w, 1 : L + 1], rows[w, 0:L], rows[w, 2 : L + 2]
        to_east, to_west = rows[w + 1 if full else 0, 1 : L + 1], rows[w - 1, 1 : L + 1]
        likely, rarely = of_one[w * L : (w + 1) * L], of_none[w * L : (w + 1) * L]
        turned = out[w, 1 : L + 1]
        for y in range(L):
            c = here[y]
            east = (c >> one) | ((to_east[y] & one) << end)
            west = (c << one) | ((to_west[y] >> west_end) & one)
            a, b, d, e = north[y] ^ c, south[y] ^ c, east ^ c, west ^ c
            ab, de = a | b, d | e
            two = (a & b) | (d & e) | (ab & de)
            turning = two | rarely[y] | (likely[y] & (ab | de))
            mask = valid & (uint64(0x5555555555555555) << (uint64(y + parity) & one))
            turned[y] = c ^ (turning & mask)
        out[w, 0], out[w, L + 1] = out[w, L], out[w, 1]


@njit
def metropolis_sweeps(words, rows, chosen, lanes, rng, probabilities, n_sweeps):  # type: ignore[no-untyped-def]
    """Sweep ``n_sweeps`` times over spins that are bytes.

    Args:
        words: uint64 (L, n): rows of bytes 0 and 1 and, where they are not used, 0; changed.
        rows: uint64 (2, W, L + 2), W = L / 64, rounded up: room for work.
        chosen: uint64 (2, n), room for work; n is W L, rounded up to a multiple of LANES.
        lanes: uint64 (8 * LANES,): room for work.
        rng: uint64 (4,), generator state, which seeds the lanes; changed.
        probabilities: see :func:`acceptances`.
        n_sweeps: sweeps.
    """
    W, L = rows.shape[1], rows.shape[2] - 2
    for k in range(4 * LANES):
        lanes[k] = next_bits(rng)
    at, after = rows[0], rows[1]
    for w in range(W):
        bytes_of_word = words[:, 8 * w : 8 * w + 8]
        for y in range(L):
            packed = uint64(0)
            for j in range(bytes_of_word.shape[1]):
                # the lowest bits of eight bytes, side by side
                found = (bytes_of_word[y, j] * uint64(0x0102040810204080)) >> uint64(56)
                packed |= found << uint64(8 * j)
            at[w, y + 1] = packed
        at[w, 0], at[w, L + 1] = at[w, L], at[w, 1]
    for _ in range(n_sweeps):
        _accepted(lanes, probabilities, chosen[0], chosen[1])
        _half_sweep(at, chosen[0], chosen[1], 0, after)
        _half_sweep(after, chosen[0], chosen[1], 1, at)
    each = uint64(0x0101010101010101)
    for w in range(W):
        bytes_of_word = words[:, 8 * w : 8 * w + 8]
        for y in range(L):
            packed = at[w, y + 1]
            for j in range(bytes_of_word.shape[1]):
                # byte i keeps bit i, which moves to its top and from there to its bottom
                spread = (((packed >> uint64(8 * j)) & uint64(255)) * each) & uint64(
                    0x8040201008040201
                )
                bytes_of_word[y, j] = ((spread + uint64(0x7F7F7F7F7F7F7F7F)) >> uint64(7)) & each
