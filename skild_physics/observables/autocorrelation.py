"""Integrated autocorrelation time by the Gamma method (U. Wolff, CPC 156, 143 (2004)).

For R replica chains of n samples each, with Gamma(t) the autocovariance about the common mean,

    tau_int(W) = 1/2 + sum_{t=1..W} Gamma(t) / Gamma(0),

so that tau_int = 1/2 for independent samples and N of them have the effective size N / (2 tau_int).
The window W is the smallest one at which g(W) = exp(-W / tau) - tau / sqrt(W N) turns negative,
with 1 / tau = ln((2 tau_int + 1) / (2 tau_int - 1)) / S (eqs. 51, 52), S = 1.5. The bias of order
1/N is removed (eq. 49) and the error is tau_int sqrt(4 (W + 1/2 - tau_int) / N) (eq. 42).

Successive samples of opposite deviations have tau_int < 1/2. How long they remember is then in the
sum of |Gamma|, which sets the window, and the last term counts half, since the sums up to W and to
W - 1 lie on both sides of the limit. The variance of a mean cannot be negative, so tau_int is at
least that of an alternating series, 1/(2 N).
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
    tau_int = lasting = 0.5
    window = 0
    for window in range(1, n):
        rho = np.mean(deviation[:, :-window] * deviation[:, window:]) / variance
        tau_int, lasting = tau_int + rho, lasting + abs(rho)
        scale = tau_int if tau_int > 0.5 else lasting
        tau = S / np.log((2 * scale + 1) / (2 * scale - 1)) if scale > 0.5 else 0.0
        if np.exp(-window / tau if tau else -np.inf) - tau / np.sqrt(window * total) <= 0:
            break
    if tau_int <= 0.5:
        tau_int -= rho / 2
    tau_int = max(tau_int * (1 + (2 * window + 1) / total), 0.5 / total)
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
