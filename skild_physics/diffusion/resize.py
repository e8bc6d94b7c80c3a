"""Linear degradations of N x N fields to M x M ones, separable: y = R x R^T, R of shape (M, N).

    bilinear   antialiased bilinear resize, that of Scale Space Diffusion (arXiv 2603.08709)
    box        block average, of spins the block-spin step of Kadanoff
    crop       the low modes of the basis, orthonormal: pixel values grow by the ratio of the sides

Since R R^T = 1 of a crop, the ratio of signal to white noise does not change in what is left, as in
SKILD. Averages take white noise to d^4 < 1 of its variance, d the singular values of R.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from skild_physics.fields.downsampling import downsampling_matrix
from skild_physics.files import InputError
from skild_physics.kspace import Basis

Degradation = Literal["bilinear", "box", "crop"]
DEGRADATIONS: tuple[str, ...] = get_args(Degradation)


@dataclass(frozen=True, eq=False)
class Resize:
    """The linear map R x R^T of fields (..., N, N) to (..., M, M), R of shape (M, N), float64."""

    R: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """R x R^T."""
        R = self.R.to(x)
        return R @ x @ R.T

    def adjoint(self, y: Tensor) -> Tensor:
        """R^T y R, shape (..., N, N)."""
        R = self.R.to(y)
        return R.T @ y @ R

    @cached_property
    @torch.inference_mode(False)
    def modes(self) -> tuple[Tensor, Tensor]:
        """Singular values d (N,), filled up with zeros, and their vectors in columns V (N, N)."""
        _, d, Vt = torch.linalg.svd(self.R, full_matrices=True)
        zeros = torch.zeros(self.R.shape[1] - len(d), dtype=d.dtype, device=d.device)
        return torch.cat([d, zeros]), Vt.T.contiguous()

    @property
    def gain(self) -> float:
        """lambda_max of the map times its adjoint: the largest factor on a variance."""
        return float(self.modes[0].max()) ** 4

    def then(self, after: "Resize") -> "Resize":
        """This map followed by another."""
        return Resize(after.R @ self.R)


def resize(kind: Degradation, N: int, M: int, basis: Basis) -> Resize:
    """The degradation of N x N fields to M x M ones.

    Raises:
        InputError: an unknown kind, or not 1 <= M <= N.
    """
    if kind not in DEGRADATIONS:
        raise InputError(f"degradation must be one of {DEGRADATIONS}, got {kind!r}")
    if kind == "crop":
        R = downsampling_matrix("spectral", N, M, basis)
        return Resize(R * (N / M) ** 0.5)
    return Resize(downsampling_matrix(kind, N, M, basis))
