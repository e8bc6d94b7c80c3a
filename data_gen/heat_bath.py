"""Single spins of the 2D Ising model on a torus, each drawn anew given its four neighbours.

With the sum h of the neighbours a spin becomes +1 with the conditional probability

    P(s = +1 | h) = 1 / (1 + exp(-2 beta h)),

which leaves exp(-beta H), H = -sum_<ij> s_i s_j, as it is, in any order of the sites. A sweep draws
every site once: row by row, the even places of a row and then the odd ones, so that no spin waits
for the one before it.

Metropolis' rule accepts more changes, but in a fixed order it is not ergodic at all temperatures:
at beta = 0 each of its sweeps turns all spins over. The heat bath forgets a spin as it draws it, so
that any order and any beta, of any sign, will do.
"""

import numpy as np
from numba import int8, int64, uint64
from numpy.typing import NDArray

from skild_physics.kernels import kernel
from skild_physics.xoshiro import keep, next_bits


@kernel(nogil=True)
def heat_bath_sweeps(spins, rng, thresholds, n_sweeps):  # type: ignore[no-untyped-def]
    """Draw every spin ``n_sweeps`` times given its neighbours.

    Args:
        spins: int8 (L, L), values +-1, L 3 or more; changed.
        rng: uint64 (4,), generator state; changed.
        thresholds: uint64 (5,), see :func:`heat_bath_thresholds`.
        n_sweeps: sweeps.
    """
    zero, one, two = uint64(0), uint64(1), uint64(2)
    L = uint64(spins.shape[0])
    last = L - one
    state = rng.copy()
    for _ in range(n_sweeps):
        for row in range(L):
            y = uint64(row)
            north = last if y == zero else y - one
            south = zero if y == last else y + one
            for parity in range(2):
                x = uint64(parity)
                while x < L:
                    west = last if x == zero else x - one
                    east = zero if x == last else x + one
                    h = (
                        int64(spins[north, x])
                        + int64(spins[south, x])
                        + int64(spins[y, west])
                        + int64(spins[y, east])
                    )
                    up = next_bits(state) < thresholds[uint64((h + 4) >> 1)]
                    spins[y, x] = int8(int64(up) * 2 - 1)
                    x += two
    keep(rng, state)


def heat_bath_thresholds(beta: float) -> NDArray[np.uint64]:
    """P(s = +1 | h) times 2^64, rounded, of h = -4, -2, .. 4, shape (5,)."""
    with np.errstate(over="ignore"):
        probability = 1 / (1 + np.exp(-beta * np.arange(-8.0, 9.0, 4.0)))
    return np.array([min(int(p * 2.0**64), 2**64 - 1) for p in probability], np.uint64)
