"""Connected four-point correlator of the corners of squares, on a torus or an open patch.

For corners a = (y, x), b = (y, x + r), c = (y + r, x), d = (y + r, x + r) the fourth joint
cumulant is a sum over the partitions of {a, b, c, d} into blocks,

    kappa4(r) = <abcd> - <abc><d> - <abd><c> - <acd><b> - <bcd><a>
                - <ab><cd> - <ac><bd> - <ad><bc>
                + 2 (<ab><c><d> + <ac><b><d> + <ad><b><c> + <bc><a><d> + <bd><a><c> + <cd><a><b>)
                - 6 <a><b><c><d>,

each with weight (-1)^(m - 1) (m - 1)! for m blocks (Leonov and Shiryaev, Theory Probab. Appl. 4,
319 (1959)), where <.> averages over placements of the square and over fields. In a field of zero
mean and up-down symmetry <a> and <abc> vanish and it is the form of arXiv 2605.26032,

    kappa4(r) = <abcd> - <ab><cd> - <ac><bd> - <ad><bc>.

The general form does not change when a constant is added to a corner; both vanish for Gaussian
fields, the second if their mean is zero.

On a torus translations map <cd> to <ab>, <bd> to <ac> and all corners to <a>: they are equal in
every single field.
"""

import numpy as np
from numba import prange, uint64
from numpy.typing import NDArray

from skild_physics.files import InputError
from skild_physics.kernels import kernel
from skild_physics.observables.packing import (
    Boundary,
    check_spins,
    columns_mask,
    on_torus,
    pack,
    popcount,
    shifted,
)

MOMENTS = (
    *("abcd", "abc", "abd", "acd", "bcd"),
    *("ab", "ac", "ad", "bc", "bd", "cd"),
    *("a", "b", "c", "d"),
)
ABCD, ABC, ABD, ACD, BCD, AB, AC, AD, BC, BD, CD, A, B, C, D = range(15)


@kernel()
def _count(left, right, rows, r, odd):  # type: ignore[no-untyped-def]
    abcd = abc = abd = acd = bcd = ab = ac = ad = bc = one = uint64(0)
    for y in range(rows):
        a, b, c, d = left[y], right[y], left[y + r], right[y + r]
        abcd += popcount(a ^ b ^ c ^ d)
        abc += popcount(a ^ b ^ c)
        abd += popcount(a ^ b ^ d)
        acd += popcount(a ^ c ^ d)
        bcd += popcount(b ^ c ^ d)
        ab += popcount(a ^ b)
        ac += popcount(a ^ c)
        ad += popcount(a ^ d)
        bc += popcount(b ^ c)
        one += popcount(a)
    odd[ABCD] += abcd
    odd[ABC] += abc
    odd[ABD] += abd
    odd[ACD] += acd
    odd[BCD] += bcd
    odd[AB] += ab
    odd[AC] += ac
    odd[AD] += ad
    odd[BC] += bc
    odd[A] += one


@kernel()
def _count_rest(left, right, rows, r, odd):  # type: ignore[no-untyped-def]
    bd = cd = two = three = four = uint64(0)
    for y in range(rows):
        b, c, d = right[y], left[y + r], right[y + r]
        bd += popcount(b ^ d)
        cd += popcount(c ^ d)
        two += popcount(b)
        three += popcount(c)
        four += popcount(d)
    odd[BD] += bd
    odd[CD] += cd
    odd[B] += two
    odd[C] += three
    odd[D] += four


@kernel()
def _moments_of_spins(spins, sides, margin, torus, out):  # type: ignore[no-untyped-def]
    Ly, Lx = spins.shape
    planes, valid = pack(spins, margin, torus)
    left, right = np.empty(Ly + margin, np.uint64), np.empty(Ly + margin, np.uint64)
    odd = np.empty(15, np.uint64)
    for j in range(len(sides)):
        r = sides[j]
        rows, columns = (Ly, Lx) if torus else (Ly - r, Lx - r)
        odd[:] = 0
        for w in range((columns + 63) >> 6):
            mask = columns_mask(columns, w)
            here, low, high = planes[w], planes[w + (r >> 6)], planes[w + (r >> 6) + 1]
            for y in range(rows + r):
                left[y] = here[y] & mask
                right[y] = shifted(low[y], high[y], uint64(r & 63)) & mask
            _count(left, right, rows, r, odd)
            if not torus:
                _count_rest(left, right, rows, r, odd)
        for k in range(15):
            out[j, k] = 1 - 2 * np.float64(odd[k]) / (rows * columns)
    return valid


@kernel(parallel=True)
def _spin_moments(spins, sides, margin, torus, out, valid):  # type: ignore[no-untyped-def]
    for i in prange(len(spins)):
        valid[i] = _moments_of_spins(spins[i], sides, margin, torus, out[i])


@kernel(fastmath={"reassoc", "contract"})
def _add(s, r, rows, columns, total):  # type: ignore[no-untyped-def]
    zero = s.dtype.type(0)
    for y in range(rows):
        upper, lower, upper_right, lower_right = s[y], s[y + r], s[y, r:], s[y + r, r:]
        # sums over a row in the precision of the fields fill vector registers
        abcd = abc = abd = acd = bcd = ab = ac = ad = bc = one = zero
        for x in range(columns):
            a, b, c, d = upper[x], upper_right[x], lower[x], lower_right[x]
            abcd += (a * b) * (c * d)
            abc += (a * b) * c
            abd += (a * b) * d
            acd += a * (c * d)
            bcd += b * (c * d)
            ab += a * b
            ac += a * c
            ad += a * d
            bc += b * c
            one += a
        total[ABCD] += abcd
        total[ABC] += abc
        total[ABD] += abd
        total[ACD] += acd
        total[BCD] += bcd
        total[AB] += ab
        total[AC] += ac
        total[AD] += ad
        total[BC] += bc
        total[A] += one


@kernel(fastmath={"reassoc", "contract"})
def _add_rest(s, r, rows, columns, total):  # type: ignore[no-untyped-def]
    zero = s.dtype.type(0)
    for y in range(rows):
        upper_right, lower, lower_right = s[y, r:], s[y + r], s[y + r, r:]
        bd = cd = two = three = four = zero
        for x in range(columns):
            b, c, d = upper_right[x], lower[x], lower_right[x]
            bd += b * d
            cd += c * d
            two += b
            three += c
            four += d
        total[BD] += bd
        total[CD] += cd
        total[B] += two
        total[C] += three
        total[D] += four


@kernel()
def _moments_of_values(field, sides, margin, torus, out):  # type: ignore[no-untyped-def]
    Ly, Lx = field.shape
    s = field
    if torus:
        s = np.empty((Ly + margin, Lx + margin), field.dtype)
        for y in range(Ly + margin):
            row = field[y if y < Ly else y - Ly]
            for x in range(Lx):
                s[y, x] = row[x]
            for x in range(margin):
                s[y, Lx + x] = row[x]
    total = np.empty(15)
    for j in range(len(sides)):
        r = sides[j]
        rows, columns = (Ly, Lx) if torus else (Ly - r, Lx - r)
        total[:] = 0
        _add(s, r, rows, columns, total)
        if not torus:
            _add_rest(s, r, rows, columns, total)
        for k in range(15):
            out[j, k] = total[k] / (rows * columns)


@kernel(parallel=True)
def _real_moments(fields, sides, margin, torus, out):  # type: ignore[no-untyped-def]
    for i in prange(len(fields)):
        _moments_of_values(fields[i], sides, margin, torus, out[i])


def corner_moments(
    fields: NDArray[np.generic], sides: NDArray[np.int64], boundary: Boundary
) -> NDArray[np.float64]:
    """Joint moments of the corners of squares in every field.

    Averages run over all translations of a torus, over the (Ly - r)(Lx - r) squares within an open
    patch. Spins are counted exactly, other fields summed in float32 within a row if they are
    float32, else in float64.

    Args:
        fields: shape (n, Ly, Lx), spins -1 and +1 as int8 or values of any other real dtype.
        sides: sides r of the squares in lattice spacings, shape (side,).
        boundary: "periodic" or "open".

    Returns:
        Averages in the order of MOMENTS, shape (n, side, 15), in powers of the unit of the fields.

    Raises:
        InputError: another shape, int8 values other than -1 and +1, another boundary, or a side
            not within 1 .. min(Ly, Lx) / 2 of a torus, 1 .. min(Ly, Lx) - 1 of an open patch.
    """
    if fields.ndim != 3:
        raise InputError(f"fields must have shape (n, Ly, Lx), got {fields.shape}")
    torus = on_torus(boundary)
    L = min(fields.shape[1:])
    largest = L // 2 if torus else L - 1
    sides = np.ascontiguousarray(sides, dtype=np.int64)
    if sides.ndim != 1 or len(sides) == 0 or sides.min() < 1 or sides.max() > largest:
        raise InputError(
            f"sides must lie in 1 .. {largest} on a {boundary} lattice of "
            f"{fields.shape[1]} x {fields.shape[2]}, got {sides}"
        )
    margin = sides.max()
    out = np.empty((len(fields), len(sides), len(MOMENTS)))
    if fields.dtype == np.int8:
        valid = np.empty(len(fields), np.bool_)
        _spin_moments(np.ascontiguousarray(fields), sides, margin, torus, out, valid)
        check_spins(valid)
    else:
        dtype = np.float32 if fields.dtype == np.float32 else np.float64
        _real_moments(np.ascontiguousarray(fields, dtype), sides, margin, torus, out)
    if torus:
        out[..., [BD, CD]] = out[..., [AC, AB]]
        out[..., [B, C, D]] = out[..., [A]]
    return out


def kappa4(moments: NDArray[np.float64], zero_mean: bool = True) -> NDArray[np.float64]:
    """Fourth joint cumulant of the corners from their averaged moments.

    Args:
        moments: averages in the order of MOMENTS, shape (..., 15).
        zero_mean: leave out the terms with one- and three-point averages, which vanish by symmetry
            in an up-down symmetric ensemble and there only add noise.

    Returns:
        Shape (...), in the fourth power of the unit of the fields.
    """
    abcd, abc, abd, acd, bcd, ab, ac, ad, bc, bd, cd, a, b, c, d = np.moveaxis(moments, -1, 0)
    connected = abcd - ab * cd - ac * bd - ad * bc
    if not zero_mean:
        connected = (
            connected
            - (abc * d + abd * c + acd * b + bcd * a)
            + 2 * (ab * c * d + ac * b * d + ad * b * c + bc * a * d + bd * a * c + cd * a * b)
            - 6 * a * b * c * d
        )
    return np.asarray(connected)
