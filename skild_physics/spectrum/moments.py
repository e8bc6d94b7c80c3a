"""Streaming per-mode mean and variance of a stack of fields.

Batches A and B of n_A and n_B fields merge without cancellation (Chan, Golub and LeVeque, 1979):

    delta = mean_B - mean_A,    n = n_A + n_B
    mean  = mean_A + delta n_B / n
    M2    = M2_A + M2_B + delta^2 n_A n_B / n,     variance = M2 / (n - 1).

The variance is that of a mode X or, as the published spectra of arXiv 2605.26032 have it, that of
its magnitude, Var|X| = E|X|^2 - (E|X|)^2, which is less: E[X^2] - (E|X|)^2 <= E[X^2] - (E X)^2. For
a Gaussian mode of zero mean it is 1 - 2/pi of the variance.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from skild_physics.files import InputError
from skild_physics.kspace import Basis, forward

Statistic = Literal["variance", "magnitude"]
"""Whose variance a spectrum is: that of a mode, or of its magnitude."""
STATISTICS: tuple[str, ...] = get_args(Statistic)


@dataclass(frozen=True)
class ModeMoments:
    """Count, mean and sum of squared deviations of every orthonormal mode, or of its magnitude.

    Attributes:
        count: number of fields.
        mean: shape (channel, N, N), float64.
        M2: shape (channel, N, N), float64.
        statistic: what they are moments of.
    """

    count: int
    mean: NDArray[np.float64]
    M2: NDArray[np.float64]
    statistic: Statistic = "variance"

    @classmethod
    def of(
        cls, fields: NDArray[np.generic], basis: Basis, statistic: Statistic = "variance"
    ) -> "ModeMoments":
        """Moments of one batch, shape (sample, channel, N, N), any real dtype.

        Raises:
            InputError: the batch is not of that shape, or is empty, or an unknown statistic.
        """
        if statistic not in STATISTICS:
            raise InputError(
                f"`statistic` must be one of {', '.join(STATISTICS)}, got {statistic!r}"
            )
        if fields.ndim != 4 or len(fields) == 0:
            raise InputError(f"fields must have shape (sample, channel, N, N), got {fields.shape}")
        modes = forward(fields.astype(np.float64), basis)
        if statistic == "magnitude":
            np.abs(modes, out=modes)
        mean = modes.mean(axis=0)
        modes -= mean
        M2 = np.einsum("scyx,scyx->cyx", modes, modes)
        return cls(len(modes), mean, M2, statistic)

    def merge(self, other: "ModeMoments") -> "ModeMoments":
        """Moments of both stacks together; the order of merging does not matter.

        Raises:
            InputError: the stacks have different channels, lattice sizes or statistics.
        """
        if self.statistic != other.statistic:
            raise InputError(f"moments of {self.statistic} and of {other.statistic}")
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
            self.statistic,
        )

    @property
    def variance(self) -> NDArray[np.float64]:
        """Unbiased variance of every mode or magnitude, shape (channel, N, N).

        Raises:
            InputError: fewer than two fields.
        """
        if self.count < 2:
            raise InputError(f"a variance needs at least 2 fields, got {self.count}")
        return self.M2 / (self.count - 1)
