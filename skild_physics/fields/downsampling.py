"""Known coarse-grainings of N x N fields to M x M ones, separable: y = R x R^T.

    box        mean over cells of N/M sites, a real number: Kadanoff's block average of spins
    spectral   the low modes of the basis, at equal pixel values: B_M^T P B_N sqrt(M/N) per axis
    gaussian   Gaussian blur of half a coarse pixel's standard deviation, sampled
    bilinear   the linear kernel widened to the coarse pixel ("antialiased"), as image libraries do
    bicubic    Keys' cubic kernel (a = -1/2), likewise
    lanczos    Lanczos' kernel of three lobes, likewise

Kernels wrap around on a torus (periodic basis); elsewhere they are cut at the edge and normalised,
the convention of Pillow.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_physics.files import InputError
from skild_physics.kspace import Basis, basis_matrix

Downsampling = Literal["box", "spectral", "gaussian", "bilinear", "bicubic", "lanczos"]
DOWNSAMPLINGS: tuple[str, ...] = get_args(Downsampling)

Kernel = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _gaussian(s: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.exp(-0.5 * (s / 0.5) ** 2))


def _bilinear(s: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.clip(1 - np.abs(s), 0, None))


def _bicubic(s: NDArray[np.float64]) -> NDArray[np.float64]:
    s, a = np.abs(s), -0.5
    inner = (a + 2) * s**3 - (a + 3) * s**2 + 1
    outer = a * (s**3 - 5 * s**2 + 8 * s - 4)
    return np.where(s < 1, inner, np.where(s < 2, outer, 0.0))


def _lanczos(s: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(s) < 3, np.sinc(s) * np.sinc(s / 3), 0.0)


_KERNELS: dict[str, tuple[Kernel, float]] = {
    "gaussian": (_gaussian, 4.0),
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}


def downsampling_matrix(kind: Downsampling, N: int, M: int, basis: Basis) -> Tensor:
    """R of one axis, float64, shape (M, N); every row sums to 1.

    Raises:
        InputError: an unknown kind, or not 1 <= M <= N.
    """
    if kind not in DOWNSAMPLINGS:
        raise InputError(f"downsampling must be one of {DOWNSAMPLINGS}, got {kind!r}")
    if not 1 <= M <= N:
        raise InputError(f"the coarse size must lie in 1..{N}, got {M}")
    f = N / M
    if kind == "box":
        edges = np.arange(M) * f
        low = np.maximum(edges[:, None], np.arange(N))
        high = np.minimum(edges[:, None] + f, np.arange(N) + 1)
        return torch.as_tensor(np.clip(high - low, 0, None) / f)
    if kind == "spectral":
        B_M, B_N = basis_matrix(M, basis).copy(), basis_matrix(N, basis)[:M]
        if basis == "periodic" and M % 2 == 0 and M < N:
            B_M[-1] = 0.0
        return torch.as_tensor(math.sqrt(M / N) * B_M.T @ B_N)
    kernel, support = _KERNELS[kind]
    away = (np.arange(N) + 0.5) / f - (np.arange(M)[:, None] + 0.5)
    if basis == "periodic":
        wraps = math.ceil(support / M) + 1
        R = np.sum([kernel(away + j * M) for j in range(-wraps, wraps + 1)], axis=0)
    else:
        R = kernel(away)
    return torch.as_tensor(R / R.sum(axis=1, keepdims=True))


def downsample(fields: Tensor, kind: Downsampling, M: int, basis: Basis) -> Tensor:
    """y = R x R^T of fields (..., N, N), shape (..., M, M).

    Raises:
        InputError: as :func:`downsampling_matrix`.
    """
    R = downsampling_matrix(kind, fields.shape[-1], M, basis).to(fields)
    coarse: Tensor = R @ fields @ R.T
    return coarse
