"""Spins as bits, 64 to a word: products by XOR, sums by counting bits.

With bit(s) = (1 - s) / 2 the bit of a product of spins is the XOR of their bits, and over N sites

    sum s s' s'' .. = N - 2 popcount(bit ^ bit' ^ bit'' ..).

A packed field is planes of words: planes[w, y] holds sites 64 w .. 64 w + 63 of row y, lowest bit
first. Words of consecutive rows are neighbours in memory, so that a loop over rows is a loop over
vector registers, whatever the length of a row. A torus goes on beyond its last row and column for
a margin: no displacement up to the margin wraps around, and a torus and an open patch differ only
in the number of placements.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending, njit, types, uint64
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

from skild_physics.files import InputError
from skild_physics.kernels import PLAIN, kernel

Boundary = Literal["periodic", "open"]

# callers pass no typing context, which its own annotation asks for
intrinsic: Any = extending.intrinsic


def on_torus(boundary: Boundary) -> bool:
    """Whether the boundary is periodic.

    Raises:
        InputError: neither "periodic" nor "open".
    """
    if boundary not in ("periodic", "open"):
        raise InputError(f'boundary must be "periodic" or "open", got {boundary!r}')
    return boundary == "periodic"


def side_of_square(fields: NDArray[np.generic]) -> int:
    """L of fields of shape (n, L, L).

    Raises:
        InputError: another shape.
    """
    if fields.ndim != 3 or fields.shape[1] != fields.shape[2] or fields.shape[1] == 0:
        raise InputError(f"fields must have shape (n, L, L), got {fields.shape}")
    return int(fields.shape[1])


def check_spins(valid: NDArray[np.bool_]) -> None:
    """Report what kernels found in every field, shape (n,).

    Raises:
        InputError: a field is not valid.
    """
    if not valid.all():
        raise InputError(f"field {np.argmin(valid)} holds int8 values other than -1 and +1")


def _instruction(emit: Callable[[Any, Any], Any], plain: Callable[[int], int]) -> Any:
    """A processor instruction on a uint64 for use in kernels; loops apply it to whole registers.

    Args:
        emit: appends it to compiled code.
        plain: the same in Python, for kernels that are not compiled.
    """
    if PLAIN:
        return lambda word: uint64(plain(int(word)))

    @intrinsic
    def instruction(typing_context, word):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return emit(builder, args[0])

        return types.uint64(types.uint64), generate

    return instruction


FALSE = ir.Constant(ir.IntType(1), 0)
popcount = _instruction(lambda builder, word: builder.ctpop(word), int.bit_count)
leading_zeros = _instruction(
    lambda builder, word: builder.ctlz(word, FALSE), lambda word: 64 - word.bit_length()
)
trailing_zeros = _instruction(
    lambda builder, word: builder.cttz(word, FALSE),
    lambda word: (word & -word).bit_length() - 1 if word else 64,
)


@intrinsic
def _equal_compiled(typing_context, row, first, value):  # type: ignore[no-untyped-def]
    """Bits of row[first : first + 64] == value for a contiguous int8 row, as a uint64."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        array = make_array(signature.args[0])  # type: ignore[no-untyped-call]
        data = array(context, builder, args[0]).data
        vector = ir.VectorType(ir.IntType(8), 64)
        address = builder.bitcast(builder.gep(data, [args[1]]), vector.as_pointer())
        values = builder.load(address, align=1)
        lane = ir.Constant(ir.IntType(32), 0)
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), args[2], lane)
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), 64), None)
        wanted = builder.shuffle_vector(one, one, lanes)
        return builder.bitcast(builder.icmp_signed("==", values, wanted), ir.IntType(64))

    return types.uint64(row, types.intp, types.int8), generate


def _equal_plain(row, first, value):  # type: ignore[no-untyped-def]
    return np.packbits(row[first : first + 64] == value, bitorder="little").view("<u8")[0]


_equal = _equal_plain if PLAIN else _equal_compiled


@njit(inline="always")
def columns_mask(columns, w):  # type: ignore[no-untyped-def]
    """Bits of word w of a row that belong to its first columns."""
    left = columns - 64 * w
    if left >= 64:
        return ~uint64(0)
    return (uint64(1) << uint64(max(left, 0))) - uint64(1)


@njit(inline="always")
def shifted(low, high, bits):  # type: ignore[no-untyped-def]
    """64 sites that begin so many bits, less than 64, after those of low; high comes next."""
    # in two steps, because a shift by 64 is not defined
    return (low >> bits) | ((high << uint64(1)) << (uint64(63) - bits))


@kernel()
def pack(spins, margin, torus):  # type: ignore[no-untyped-def]
    """Planes of one field of spins, and whether all of them are -1 or +1.

    Args:
        spins: int8 (Ly, Lx), contiguous.
        margin: largest displacement that will be asked for, below Lx and Ly.
        torus: repeat the field beyond its last row and column; an open patch ends in zeros.

    Returns:
        uint64 (words, Ly + margin), enough words to shift each of a row by up to the margin.
    """
    Ly, Lx = spins.shape
    full, rest = Lx >> 6, Lx & 63
    planes = np.zeros((full + (margin >> 6) + 2, Ly + margin), np.uint64)
    row = np.empty(64 * (full + 1), np.int8)
    row[:] = 1
    wrong = uint64(0)
    for y in range(Ly):
        for x in range(Lx):
            row[x] = spins[y, x]
        for w in range(full + 1):
            minus = _equal(row, 64 * w, np.int8(-1))
            wrong |= ~(minus ^ _equal(row, 64 * w, np.int8(1)))
            planes[w, y] = minus
    if torus:
        for w in range((margin + 63) >> 6):
            for y in range(Ly):
                word = planes[w, y]
                planes[full + w, y] |= word << uint64(rest)
                planes[full + w + 1, y] |= (word >> uint64(1)) >> uint64(63 - rest)
        for w in range(len(planes)):
            for y in range(margin):
                planes[w, Ly + y] = planes[w, y]
    return planes, wrong == uint64(0)
