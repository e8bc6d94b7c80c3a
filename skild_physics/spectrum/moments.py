"""Streaming per-mode mean and variance of a stack of fields.

Batches A and B of n_A and n_B fields merge without cancellation (Chan, Golub and LeVeque, 1979):

    delta = mean_B - mean_A,    n = n_A + n_B
    mean  = mean_A + delta n_B / n
    M2    = M2_A + M2_B + delta^2 n_A n_B / n,     variance = M2 / (n - 1).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skild_physics.files import InputError
from skild_physics.kspace import Basis, forward


@dataclass(frozen=True)
class ModeMoments:
    """Count, mean and sum of squared deviations of every orthonormal mode.

    Attributes:
        count: number of fields.
        mean: shape (channel, N, N), float64.
        M2: shape (channel, N, N), float64.
    """

    count: int
    mean: NDArray[np.float64]
    M2: NDArray[np.float64]

    @classmethod
    def of(cls, fields: NDArray[np.generic], basis: Basis) -> "ModeMoments":
        """Moments of one batch, shape (sample, channel, N, N), any real dtype.

        Raises:
            InputError: the batch is not of that shape, or is empty.
        """
        if fields.ndim != 4 or len(fields) == 0:
            raise InputError(f"fields must have shape (sample, channel, N, N), got {fields.shape}")
        modes = forward(fields.astype(np.float64), basis)
        mean = modes.mean(axis=0)
        modes -= mean
        M2 = np.einsum("scyx,scyx->cyx", modes, modes)
        return cls(len(modes), mean, M2)

    def merge(self, other: "ModeMoments") -> "ModeMoments":
        """Moments of both stacks together; the order of merging does not matter.

        Raises:
            InputError: the stacks have different channels or lattice sizes.
        """
        if self.mean.shape != other.mean.shape:
            raise InputError(
                f"moments of different shapes: {self.mean.shape} and {other.mean.shape}"
            )
        count = self.count + other.count
        delta = other.mean - self.mean
        return ModeMoments(
            count,
            self.mean + delta * (other.count / count),
            self.M2 + other.M2 + delta**2 * (self.count * other.count / count),
        )

    @property
    def variance(self) -> NDArray[np.float64]:
        """Unbiased variance of every orthonormal mode, shape (channel, N, N).

        Raises:
            InputError: fewer than two fields.
        """
        if self.count < 2:
            raise InputError(f"a variance needs at least 2 fields, got {self.count}")
        return self.M2 / (self.count - 1)
