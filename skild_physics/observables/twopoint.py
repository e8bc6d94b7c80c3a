"""Two-point function, structure factor and second-moment correlation length.

    G(r) = <s(x) s(x + r)>                                 averaged over pairs of sites of a field
    S(k) = |sum_x s(x) e^(-i k x)|^2 / L^2                 k = 2 pi (ky, kx) / L
    xi   = sqrt(S(0) / S(2 pi / L) - 1) / (2 sin(pi / L))

On a torus S is the Fourier transform of G (Wiener and Khinchin). xi is the correlation length of
the lattice propagator S(k) ~ 1 / (sum_i 4 sin^2(k_i / 2) + xi^-2) that goes through the two values
(Cooper, Freedman and Preston, Nucl. Phys. B 210, 210 (1982)).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import get_num_threads, prange, uint64
from numpy.typing import NDArray
from scipy import fft

from skild_physics.kernels import kernel
from skild_physics.observables.packing import (
    Boundary,
    check_spins,
    columns_mask,
    on_torus,
    pack,
    popcount,
    shifted,
    side_of_square,
)

DIRECTIONS = ("x", "y", "diagonal")

BATCH_SITES = 2**17


@kernel()
def _pairs_of_spins(spins, R, torus, out):  # type: ignore[no-untyped-def]
    L = len(spins)
    planes, valid = pack(spins, R, torus)
    left, right = np.empty(L + R, np.uint64), np.empty(L + R, np.uint64)
    for r in range(R + 1):
        inside = L if torus else L - r
        along_x = along_y = diagonals = uint64(0)
        for w in range((L + 63) >> 6):
            here, low, high = planes[w], planes[w + (r >> 6)], planes[w + (r >> 6) + 1]
            every, mask = columns_mask(L, w), columns_mask(inside, w)
            for y in range(inside):
                along_y += popcount((here[y] ^ here[y + r]) & every)
            for y in range(inside + r):
                left[y] = here[y] & mask
                right[y] = shifted(low[y], high[y], uint64(r & 63)) & mask
            for y in range(L):
                along_x += popcount(left[y] ^ right[y])
            for y in range(inside):
                diagonals += popcount(left[y] ^ right[y + r]) + popcount(right[y] ^ left[y + r])
        out[r, 0] = 1 - 2 * np.float64(along_x) / (L * inside)
        out[r, 1] = 1 - 2 * np.float64(along_y) / (L * inside)
        out[r, 2] = 1 - np.float64(diagonals) / (inside * inside)
    return valid


@kernel(parallel=True)
def _spin_pairs(spins, R, torus, out, valid):  # type: ignore[no-untyped-def]
    for i in prange(len(spins)):
        valid[i] = _pairs_of_spins(spins[i], R, torus, out[i])


def _in_threads(work: Callable[[slice], None], fields: NDArray[np.generic]) -> None:
    """Work on all fields, a few at a time, and each thread on others: transforms are too short to
    be divided.
    """
    step = max(1, BATCH_SITES // fields[0].size) if len(fields) else 1
    parts = [slice(first, first + step) for first in range(0, len(fields), step)]
    threads = min(get_num_threads(), len(parts))
    if threads < 2:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, parts))


def two_point(fields: NDArray[np.generic], boundary: Boundary) -> NDArray[np.float64]:
    """Two-point function of every field along the axes and the diagonals.

    Args:
        fields: shape (n, L, L), spins -1 and +1 as int8 or values of any other real dtype.
        boundary: "periodic" or "open": whether pairs reach across the edges.

    Returns:
        Averages over all pairs of sites that are (0, r), (r, 0), and (r, r) or (r, -r) apart, for
        r = 0 .. L // 2 on a torus and 0 .. L - 1 on an open patch, shape (n, r, 3) in the order of
        DIRECTIONS, in the squared unit of the fields.

    Raises:
        InputError: another shape or boundary, or int8 values other than -1 and +1.
    """
    L, torus = side_of_square(fields), on_torus(boundary)
    R = L // 2 if torus else L - 1
    out = np.empty((len(fields), R + 1, len(DIRECTIONS)))
    if fields.dtype == np.int8:
        valid = np.empty(len(fields), np.bool_)
        _spin_pairs(np.ascontiguousarray(fields), R, torus, out, valid)
        check_spins(valid)
        return out
    size = L if torus else fft.next_fast_len(2 * L - 1, real=True)
    r = np.arange(R + 1)
    inside = np.full(R + 1, L) if torus else L - r
    pairs = np.stack([L * inside, L * inside, inside**2], axis=-1)

    def transform(part: slice) -> None:
        modes = fft.rfft2(fields[part].astype(np.float64), (size, size))
        power = modes.real**2 + modes.imag**2
        sums = fft.irfft2(power, (size, size))
        diagonals = (sums[:, r, r] + sums[:, r, -r]) / 2
        out[part] = np.stack([sums[:, 0, r], sums[:, r, 0], diagonals], axis=-1) / pairs

    _in_threads(transform, fields)
    return out


def structure_factor(fields: NDArray[np.generic]) -> NDArray[np.float32]:
    """Structure factor of every field on a torus, in single precision.

    Args:
        fields: shape (n, L, L), any real dtype.

    Returns:
        S(k) with ky = 0, 1 .. -1 and kx = 0 .. L // 2 in the order of numpy.fft.rfft2, shape
        (n, L, L // 2 + 1), in the squared unit of the fields. S(0) is L^2 times the squared mean.

    Raises:
        InputError: another shape.
    """
    L = side_of_square(fields)
    out = np.empty((len(fields), L, L // 2 + 1), np.float32)

    def transform(part: slice) -> None:
        modes = fft.rfft2(fields[part].astype(np.float32))
        np.square(modes.real, out=out[part])
        out[part] += np.square(modes.imag)
        out[part] /= L**2

    _in_threads(transform, fields)
    return out


def second_moment_correlation_length(
    S0: NDArray[np.float64], S1: NDArray[np.float64], L: int
) -> NDArray[np.float64]:
    """Second-moment correlation length on a torus of side L, in lattice spacings.

    Args:
        S0: structure factor at k = 0.
        S1: its mean over the two axes at the smallest wavenumber 2 pi / L, of the same shape.
        L: side of the torus in lattice spacings.

    Returns:
        Of the shape of S0; nan where S0 < S1, which no propagator fits.

    Source: Cooper, Freedman and Preston, Nucl. Phys. B 210, 210 (1982).
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.sqrt(S0 / S1 - 1) / (2 * np.sin(np.pi / L)))
