"""Delete-one-block jackknife for functions of sample means (Efron and Stein, 1981).

With theta_b the statistic of the mean over all samples but block b,

    sigma^2 = (B - 1)/B sum_b (theta_b - mean theta)^2.

Consecutive samples share a block, so correlations shorter than a block are accounted for. Paired
differences between two ensembles are jackknifed on common blocks: what both share cancels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]

N_BLOCKS = 32


class Estimate(NamedTuple):
    """A value and its standard error, of equal shapes."""

    value: NDArray[np.float64]
    stderr: NDArray[np.float64]


def jackknife(
    samples: NDArray[np.float64], statistic: Statistic, n_blocks: int = N_BLOCKS
) -> Estimate:
    """A statistic of the mean over samples, with its jackknife error.

    Args:
        samples: shape (sample, ...); consecutive samples may be correlated.
        statistic: maps a mean, shape (...), to an array of any shape.
        n_blocks: number of blocks; at most the number of samples.

    Raises:
        ValueError: fewer than two samples or blocks.
    """
    n = len(samples)
    blocks = min(n_blocks, n)
    if blocks < 2:
        raise ValueError(f"a jackknife needs at least 2 samples and 2 blocks, got {n} samples")
    edges = np.linspace(0, n, blocks + 1).astype(int)
    sums = np.add.reduceat(samples, edges[:-1], axis=0)
    counts = np.diff(edges)
    total = sums.sum(axis=0)
    replicas = np.stack(
        [statistic((total - s) / (n - c)) for s, c in zip(sums, counts, strict=True)]
    )
    spread = np.square(replicas - replicas.mean(axis=0)).sum(axis=0)
    return Estimate(statistic(total / n), np.sqrt((blocks - 1) / blocks * spread))
