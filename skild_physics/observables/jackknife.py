"""Delete-one-block jackknife for functions of sample means (Efron and Stein, 1981).

With theta_b the statistic of the mean over all samples but block b,

    cov(theta) = (B - 1)/B sum_b (theta_b - mean theta) (theta_b - mean theta)^T.

Consecutive samples share a block, so correlations shorter than a block are accounted for. Paired
differences between two ensembles are jackknifed on common blocks: what both share cancels. An
error from few blocks is itself uncertain, by its 1/sqrt(2 (B - 1)), so there is none from fewer
than eight.

With p statistics of expectation zero, T^2 = theta^T cov^-1 theta says whether they are compatible
with it as a whole; since the covariance is itself estimated from B blocks, T^2 (B - p)/(p (B - 1))
has the F distribution of p and B - p degrees of freedom (Hotelling, 1931).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from skild_physics.files import InputError

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]

N_BLOCKS = 32
MIN_BLOCKS = 8
"""From fewer blocks, or independent samples, there is no error bar: it is nan."""
CONSISTENT = 0.05
"""p-value from which on results are called consistent."""


class Estimate(NamedTuple):
    """A value and its standard error, of equal shapes."""

    value: Array
    stderr: Array


class Replicas(NamedTuple):
    """A statistic of all samples, shape (...), and of all but one block each, (block, ...)."""

    value: Array
    replicas: Array

    @property
    def _weight(self) -> float:
        blocks = len(self.replicas)
        return (blocks - 1) / blocks if blocks >= MIN_BLOCKS else float("nan")

    @property
    def stderr(self) -> Array:
        """Jackknife standard error, of the shape of the value; nan below MIN_BLOCKS."""
        spread = np.square(self.replicas - self.replicas.mean(axis=0)).sum(axis=0)
        return np.asarray(np.sqrt(self._weight * spread))

    @property
    def covariance(self) -> Array:
        """Jackknife covariance of a vector of statistics, shape (p, p); nan below MIN_BLOCKS."""
        away = self.replicas - self.replicas.mean(axis=0)
        return np.asarray(self._weight * away.T @ away)

    def __sub__(self, other: "Replicas") -> "Replicas":
        """The difference, of two ensembles on common blocks."""
        return Replicas(self.value - other.value, self.replicas - other.replicas)


class ChiSquare(NamedTuple):
    """Hotelling's T^2 of a vector of statistics against zero, and its p-value."""

    chi_square: float
    degrees_of_freedom: int
    p_value: float


def replicas_of(
    sums: Mapping[str, Array],
    counts: NDArray[np.int64],
    statistics: Callable[[dict[str, Array]], Mapping[str, Array]],
) -> dict[str, Replicas]:
    """Statistics of means over samples, and of means that leave one block out.

    Args:
        sums: of each quantity over the samples of each block, shape (block, ...).
        counts: samples of each block, shape (block,).
        statistics: maps means of quantities to statistics of any shapes.

    Raises:
        InputError: fewer than two blocks.
    """
    if len(counts) < 2:
        raise InputError(f"a jackknife needs at least 2 blocks, got {len(counts)}")
    n = counts.sum()
    totals = {name: values.sum(axis=0) for name, values in sums.items()}
    whole = statistics({name: total / n for name, total in totals.items()})
    left_out = [
        statistics({name: (totals[name] - sums[name][b]) / (n - c) for name in sums})
        for b, c in enumerate(counts)
    ]
    return {
        name: Replicas(np.asarray(value), np.stack([each[name] for each in left_out]))
        for name, value in whole.items()
    }


def jackknife(samples: Array, statistic: Statistic, n_blocks: int = N_BLOCKS) -> Estimate:
    """A statistic of the mean over samples, with its jackknife error, nan below MIN_BLOCKS.

    Args:
        samples: shape (sample, ...); consecutive samples may be correlated.
        statistic: maps a mean, shape (...), to an array of any shape.
        n_blocks: number of blocks; at most the number of samples.

    Raises:
        InputError: fewer than two samples or blocks.
    """
    blocks = min(n_blocks, len(samples))
    edges = np.linspace(0, len(samples), blocks + 1).astype(int)
    sums = np.add.reduceat(samples, edges[:-1], axis=0)
    found = replicas_of({"x": sums}, np.diff(edges), lambda mean: {"x": statistic(mean["x"])})
    return Estimate(found["x"].value, found["x"].stderr)


def chi_square(value: Array, covariance: Array, blocks: int) -> ChiSquare:
    """Whether a vector of statistics, shape (p,), is compatible with zero.

    Args:
        value: the statistics.
        covariance: their jackknife covariance, shape (p, p).
        blocks: number of blocks behind it; chi-square is nan if there are not more than p, or fewer
            than MIN_BLOCKS.
    """
    p, scale = len(value), np.sqrt(np.diag(covariance))
    if p >= blocks or not (scale > 0).all():
        return ChiSquare(float("nan"), p, float("nan"))
    # in units of the errors, what is left to invert is the correlation matrix
    z = value / scale
    t2 = float(z @ np.linalg.solve(covariance / np.outer(scale, scale), z))
    return ChiSquare(t2, p, float(fdtrc(p, blocks - p, t2 * (blocks - p) / (p * (blocks - 1)))))
