"""Integrated autocorrelation time by the Gamma method (U. Wolff, CPC 156, 143 (2004)).

For R replica chains of n samples each, with Gamma(t) the autocovariance about the common mean,

    tau_int(W) = 1/2 + sum_{t=1..W} Gamma(t) / Gamma(0),

so that tau_int = 1/2 for independent samples and N of them have the effective size N / (2 tau_int).
The window W is the smallest one at which g(W) = exp(-W / tau) - tau / sqrt(W N) turns negative,
with 1 / tau = ln((2 tau_int + 1) / (2 tau_int - 1)) / S (eqs. 51, 52), S = 1.5. The bias of order
1/N is removed (eq. 49) and the error is tau_int sqrt(4 (W + 1/2 - tau_int) / N) (eq. 42).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skild_physics.files import InputError

S = 1.5


class AutocorrelationTime(NamedTuple):
    """tau_int and its standard error, in units of the spacing of the samples, and the window."""

    tau_int: float
    stderr: float
    window: int


def integrated_autocorrelation_time(samples: NDArray[np.float64]) -> AutocorrelationTime:
    """tau_int of replica chains of equal length, shape (chain, sample).

    Raises:
        InputError: not of that shape, or fewer than two samples in a chain.
    """
    if samples.ndim != 2 or samples.shape[1] < 2:
        raise InputError(
            f"samples must have shape (chain, sample) with 2 samples or more, got {samples.shape}"
        )
    n, total = samples.shape[1], samples.size
    deviation = samples - samples.mean()
    variance = np.mean(deviation**2)
    if variance == 0:
        return AutocorrelationTime(0.5, 0.0, 0)
    tau_int = 0.5
    window = 0
    for window in range(1, n):
        rho = np.mean(deviation[:, :-window] * deviation[:, window:]) / variance
        tau_int += rho
        if tau_int <= 0.5:
            break
        tau = S / np.log((2 * tau_int + 1) / (2 * tau_int - 1))
        if np.exp(-window / tau) - tau / np.sqrt(window * total) < 0:
            break
    tau_int = max(tau_int, 0.5) * (1 + (2 * window + 1) / total)
    stderr = tau_int * np.sqrt(4 * max(window + 0.5 - tau_int, 0) / total)
    return AutocorrelationTime(float(tau_int), float(stderr), window)


def tau_int_of_chains(series: NDArray[np.float64], chain: NDArray[np.integer]) -> float:
    """tau_int of a series (sample,) of several chains, in samples of a chain.

    Chains are cut to the length of the shortest; if that is a single sample, tau_int is taken to be
    1/2, that of independent ones.

    Args:
        series: shape (sample,), each chain in the order of its time.
        chain: the chain of each sample, shape (sample,).
    """
    counts = np.unique(chain, return_counts=True)[1]
    length = counts.min()
    if length < 2:
        return 0.5
    chains = np.split(series[np.argsort(chain, kind="stable")], np.cumsum(counts)[:-1])
    return integrated_autocorrelation_time(np.stack([own[:length] for own in chains])).tau_int
