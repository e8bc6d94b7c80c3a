"""Majority-rule block spins (Niemeijer and van Leeuwen, PRL 31, 1411 (1973)).

A block of b x b spins becomes the sign of its sum. A tie, which even b allows, takes the sign of
the block's first spin, that of lowest y and x: a local rule, odd in the spins, the same every time,
which commutes with translations by b. Both at once:

    s' = sign(2 sum s + s_first),    because |2 sum s| >= 2 unless there is a tie.
"""

import numpy as np
from numba import prange
from numpy.typing import NDArray

from skild_physics.files import InputError
from skild_physics.kernels import kernel
from skild_physics.observables.packing import check_spins, side_of_square


@kernel()
def _majority(spins, b, out):  # type: ignore[no-untyped-def]
    """Fill out, shape (L / b, L / b); whether all spins are -1 or +1."""
    wrong = False
    column = np.empty(spins.shape[1], np.int32)
    for Y in range(len(out)):
        column[:] = 0
        for y in range(Y * b, Y * b + b):
            row = spins[y]
            for x in range(len(row)):
                column[x] += row[x]
                wrong |= (row[x] != 1) & (row[x] != -1)
        first = spins[Y * b]
        for X in range(out.shape[1]):
            total = np.int32(0)
            for x in range(X * b, X * b + b):
                total += column[x]
            out[Y, X] = 1 if 2 * total + first[X * b] > 0 else -1
    return not wrong


@kernel(parallel=True)
def _majorities(spins, b, out, valid):  # type: ignore[no-untyped-def]
    for i in prange(len(spins)):
        valid[i] = _majority(spins[i], b, out[i])


def block_spins(fields: NDArray[np.int8], b: int = 2) -> NDArray[np.int8]:
    """Majority spins of blocks of b x b; ties take the sign of the block's first spin.

    Args:
        fields: spins -1 and +1, int8, shape (n, L, L).
        b: side of the blocks in lattice spacings.

    Returns:
        int8 spins, shape (n, L / b, L / b).

    Raises:
        InputError: another shape or dtype, values other than -1 and +1, or b does not divide L.
    """
    L = side_of_square(fields)
    if fields.dtype != np.int8:
        raise InputError(f"block spins need int8 spins, got {fields.dtype}")
    if b < 1 or L % b:
        raise InputError(f"blocks of {b} x {b} do not fill {L} x {L} sites")
    out = np.empty((len(fields), L // b, L // b), np.int8)
    valid = np.empty(len(fields), np.bool_)
    _majorities(np.ascontiguousarray(fields), b, out, valid)
    check_spins(valid)
    return out
