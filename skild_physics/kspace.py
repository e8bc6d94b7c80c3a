"""Orthonormal harmonic bases of an N x N lattice: the only module that knows conventions.

A field x and its modes X are related by one orthogonal matrix B per axis,

    X = B x B^T,    x = B^T X B,    B B^T = 1,

    cosine    (DCT-II)        B_ui = c_u cos(pi u (i + 1/2) / N),       u = 0 .. N-1
    periodic  (real Fourier)  B_ui = c_m cos(2 pi m i / N)              u = 2m even
                              B_ui = c_m sin(2 pi m i / N)              u = 2m - 1 odd

with c = sqrt(2/N), except 1/sqrt(N) for the constant and for the Nyquist wave of an even N. Each
row has a number of half periods d (d = u for cosine waves, d = 2m for periodic ones) and mode
(u, v) has the wavenumber, in radians per side of the box,

    k = pi sqrt(d_u^2 + d_v^2).

A field whose covariance is invariant under translations and the symmetries of the square is
uncorrelated between the modes of the periodic basis; on a torus the cosine basis, which reflects
the field at its edges, is diagonal only approximately.

On a lattice the wave of momentum q has the Laplacian eigenvalue (2 sin(q/2))^2 instead of q^2, in
both bases; with one such factor per axis the lattice momentum, in the same units, is

    k_lattice = 2N sqrt(sin^2(pi d_u / 2N) + sin^2(pi d_v / 2N)),

which agrees with k at k << N and removes the leading artefact of the lattice above.

Up to N = LARGEST_MATRIX a transform is two matrix products, 4 N^3 operations, the fastest there is;
above, a fast Fourier transform along each axis gives the same modes but for rounding. A real
transform F_m = sum_i x_i exp(-2 pi i m i / N) / sqrt(N) holds the periodic waves as

    X_2m = sqrt(2) Re F_m,    X_2m-1 = -sqrt(2) Im F_m,

and the cosine waves after its sites are reordered, even ones first and then odd ones backwards
(Makhoul, IEEE Trans. Acoust. 28, 27 (1980)): X_u = sqrt(2) Re(exp(-i pi u / 2N) F_u).

Spectra are reported in the normalisation of SKILD (arXiv 2605.26032), X_paper = f X with
f_u = sqrt(2/N) per axis and f_0 = 2/sqrt(N) in the cosine basis. It lifts the variance of modes on
an axis (u = 0 or v = 0) to twice that of their neighbours, so that even white noise is not flat;
the isotropic normalisation, f = sqrt(2/N) for every wave, agrees with it elsewhere. In the periodic
basis, which the paper does not use, both are f = sqrt(2/N).
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from skild_physics.files import InputError

if TYPE_CHECKING:
    import torch

Basis = Literal["cosine", "periodic"]
BASES: tuple[str, ...] = get_args(Basis)
Momentum = Literal["continuum", "lattice"]
MOMENTA: tuple[str, ...] = get_args(Momentum)
Normalization = Literal["paper", "isotropic"]
NORMALIZATIONS: tuple[str, ...] = get_args(Normalization)

Array = TypeVar("Array", NDArray[np.floating], "torch.Tensor")

LARGEST_MATRIX = 256
"""Side up to which matrix products are as fast as a fast Fourier transform, on a CPU."""


def half_periods(N: int, basis: Basis) -> NDArray[np.int64]:
    """Number of half periods d of each of the N waves of one axis, shape (N,)."""
    if N < 1:
        raise InputError(f"N must be at least 1, got {N}")
    u = np.arange(N)
    if basis == "cosine":
        return u
    if basis == "periodic":
        return 2 * ((u + 1) // 2)
    raise InputError(f"basis must be one of {BASES}, got {basis!r}")


@lru_cache(maxsize=32)
def basis_matrix(N: int, basis: Basis) -> NDArray[np.float64]:
    """Orthogonal matrix B, shape (N, N), rows are waves; read-only.

    Raises:
        InputError: unknown basis, or N < 1.
    """
    d = half_periods(N, basis)[:, None]
    i = np.arange(N)
    if basis == "cosine":
        B = np.cos(np.pi * d * (2 * i + 1) / (2 * N))
    else:
        # reducing the integer phase modulo N keeps the argument, hence the wave, exact
        phase = 2 * np.pi * ((d // 2) * i % N) / N
        is_cosine = np.arange(N)[:, None] % 2 == 0
        if N % 2 == 0:
            is_cosine[N - 1] = True
        B = np.where(is_cosine, np.cos(phase), np.sin(phase))
    B /= np.linalg.norm(B, axis=1, keepdims=True)
    B.flags.writeable = False
    return B


# never let go: a CUDA graph may read one
@cache
def _torch_matrix(
    N: int, basis: Basis, dtype: "torch.dtype", device: "torch.device"
) -> "torch.Tensor":
    # imported here so that work without a network need not wait for torch
    import torch

    # a tensor made under inference_mode could never serve a transform that needs gradients
    with torch.inference_mode(False):
        return torch.tensor(basis_matrix(N, basis), dtype=dtype, device=device)


def _matrix_like(x: Array, basis: Basis) -> Array:
    if isinstance(x, np.ndarray):
        return basis_matrix(x.shape[-1], basis).astype(x.dtype, copy=False)
    return _torch_matrix(x.shape[-1], basis, x.dtype, x.device)


def _check_square(x: Array, basis: Basis) -> None:
    if x.ndim < 2 or x.shape[-2] != x.shape[-1]:
        raise InputError(f"fields must be square in their last two axes, got {tuple(x.shape)}")
    half_periods(x.shape[-1], basis)


def forward(x: Array, basis: Basis) -> Array:
    """Modes X = B x B^T of fields, shape (..., N, N), NumPy array or torch tensor of any device.

    Raises:
        InputError: unknown basis, or the last two axes differ.
    """
    _check_square(x, basis)
    if x.shape[-1] > LARGEST_MATRIX:
        return _both_axes(x, _waves_of, basis)
    B = _matrix_like(x, basis)
    X: Array = B @ x @ B.T
    return X


def inverse(X: Array, basis: Basis) -> Array:
    """Fields x = B^T X B of modes, shape (..., N, N); the exact inverse of :func:`forward`."""
    _check_square(X, basis)
    if X.shape[-1] > LARGEST_MATRIX:
        return _both_axes(X, _sites_of, basis)
    B = _matrix_like(X, basis)
    x: Array = B.T @ X @ B
    return x


def _both_axes(x: Array, one: Callable[[Any, Basis], Any], basis: Basis) -> Array:
    turned = one(one(x, basis).swapaxes(-1, -2), basis).swapaxes(-1, -2)
    done: Array = np.ascontiguousarray(turned) if isinstance(x, np.ndarray) else turned.contiguous()
    return done


def _library(x: Any) -> tuple[Any, Any]:
    """Functions of arrays, and those of transforms, for arrays like this one."""
    # imported here so that work without transforms need not wait for them
    if isinstance(x, np.ndarray):
        from scipy import fft

        return np, fft
    import torch

    return torch, torch.fft


def _turns(N: int, like: Any) -> Any:
    """sqrt(2) exp(-i pi u / 2N) for u = 0 .. N // 2, but 1 for the constant."""
    turns = np.sqrt(2) * np.exp(-0.5j * np.pi / N * np.arange(N // 2 + 1))
    turns[0] = 1
    if isinstance(like, np.ndarray):
        return turns.astype(like.dtype)
    return like.new_tensor(turns)


def _waves_of(x: Any, basis: Basis) -> Any:
    """B x of the last axis by a fast Fourier transform."""
    xp, fft = _library(x)
    N = x.shape[-1]
    pairs = (N + 1) // 2
    X = xp.empty_like(x)
    if basis == "cosine":
        F = fft.rfft(xp.concatenate([x[..., ::2], xp.flip(x[..., 1::2], (-1,))], -1), norm="ortho")
        F = F * _turns(N, F)
        X[..., : N // 2 + 1] = F.real
        X[..., N // 2 + 1 :] = xp.flip(-F.imag[..., 1:pairs], (-1,))
        return X
    F = fft.rfft(x, norm="ortho")
    X[..., ::2] = 2**0.5 * F.real[..., :pairs]
    X[..., 1 : 2 * pairs - 1 : 2] = -(2**0.5) * F.imag[..., 1:pairs]
    X[..., 0] = F.real[..., 0]
    if N % 2 == 0:
        X[..., -1] = F.real[..., -1]
    return X


def _sites_of(X: Any, basis: Basis) -> Any:
    """B^T X of the last axis, likewise."""
    xp, fft = _library(X)
    N = X.shape[-1]
    pairs = (N + 1) // 2
    re, im = (xp.zeros_like(X[..., : N // 2 + 1]) for _ in range(2))
    if basis == "cosine":
        re[...] = X[..., : N // 2 + 1]
        im[..., 1:] = -xp.flip(X[..., pairs:], (-1,))
        F = re + 1j * im
        reordered = fft.irfft(F / _turns(N, F), n=N, norm="ortho")
        x = xp.empty_like(X)
        x[..., ::2] = reordered[..., :pairs]
        x[..., 1::2] = xp.flip(reordered[..., pairs:], (-1,))
        return x
    re[..., :pairs] = 0.5**0.5 * X[..., ::2]
    im[..., 1:pairs] = -(0.5**0.5) * X[..., 1 : 2 * pairs - 1 : 2]
    re[..., 0] = X[..., 0]
    if N % 2 == 0:
        re[..., -1] = X[..., -1]
    return fft.irfft(re + 1j * im, n=N, norm="ortho")


def shell_index(N: int, basis: Basis) -> NDArray[np.int64]:
    """The integer d_u^2 + d_v^2 = (k/pi)^2 of every mode, shape (N, N)."""
    d = half_periods(N, basis)
    return d[:, None] ** 2 + d[None, :] ** 2


def wavenumbers(N: int, basis: Basis, momentum: Momentum = "continuum") -> NDArray[np.float64]:
    """k or the lattice momentum of every mode, shape (N, N), in radians per box side.

    Raises:
        InputError: unknown basis or momentum.
    """
    if momentum == "continuum":
        return np.pi * np.sqrt(shell_index(N, basis))
    if momentum == "lattice":
        s2 = (2 * N * np.sin(np.pi * half_periods(N, basis) / (2 * N))) ** 2
        k: NDArray[np.float64] = np.sqrt(s2[:, None] + s2[None, :])
        return k
    raise InputError(f"momentum must be one of {MOMENTA}, got {momentum!r}")


def normalization_factor(
    N: int, basis: Basis, normalization: Normalization = "paper"
) -> NDArray[np.float64]:
    """Amplitude factor f of every mode, shape (N, N): X_reported = f X_orthonormal.

    Raises:
        InputError: unknown basis or normalization, or N < 1.
    """
    if normalization not in NORMALIZATIONS:
        raise InputError(f"normalization must be one of {NORMALIZATIONS}, got {normalization!r}")
    half_periods(N, basis)
    f = np.full(N, np.sqrt(2 / N))
    if basis == "cosine" and normalization == "paper":
        f[0] = 2 / np.sqrt(N)
    return np.outer(f, f)
