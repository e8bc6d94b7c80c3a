"""Random bits for compiled kernels: xoshiro256++ (Blackman and Vigna, ACM TOMS 47, 36 (2021)).

The state, uint64 (4,), belongs to the caller: each chain and each field has a stream of its own.
"""

import numpy as np
from numba import njit, uint32, uint64
from numpy.typing import NDArray

BIT_GENERATOR = "xoshiro256++"


def seed_state(seed: int, *stream: int) -> NDArray[np.uint64]:
    """Generator state (4,) of one of the independent streams of an integer root seed."""
    sequence = np.random.SeedSequence(seed, spawn_key=stream)
    return np.asarray(sequence.generate_state(4, np.uint64), np.uint64)


@njit(inline="always")
def keep(rng, state):  # type: ignore[no-untyped-def]
    """Put a state back where the next call finds it."""
    # to assign arrays is to compile the messages of their shapes, which takes seconds
    rng[0], rng[1], rng[2], rng[3] = state[0], state[1], state[2], state[3]


@njit(inline="always")
def next_bits(state):  # type: ignore[no-untyped-def]
    """One 64-bit draw."""
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
def below(state, bound):  # type: ignore[no-untyped-def]
    """Uniform integer in [0, bound), exact: rejection removes the modulo bias."""
    limit = ~uint64(0) - ~uint64(0) % bound
    draw = next_bits(state)
    while draw >= limit:
        draw = next_bits(state)
    return draw % bound


@njit(inline="always")
def below_of(state, bits, bound):  # type: ignore[no-untyped-def]
    """Uniform integer in [0, bound), bound < 2^32, exact, of the upper 32 of some random bits.

    In the rare case that these leave a bias others are drawn (Lemire, ACM TOMACS 29, 3 (2019)).
    """
    product = (bits >> uint64(32)) * bound
    if uint64(uint32(product)) < bound:
        limit = (uint64(2**32) - bound) % bound
        while uint64(uint32(product)) < limit:
            product = (next_bits(state) >> uint64(32)) * bound
    return product >> uint64(32)
