"""Exact results for the 2D Ising model on the square lattice, J = 1.

Kaufman's partition function of the L x L torus (Kaufman, Phys. Rev. 76, 1232 (1949); in the form
of Ferdinand and Fisher, Phys. Rev. 185, 832 (1969)), with K = beta:

    Z = 1/2 (2 sinh 2K)^(L^2/2) (Z1 + Z2 + Z3 + Z4)
    Z1 = prod_r 2 cosh(L g_{2r+1} / 2)     Z2 = prod_r 2 sinh(L g_{2r+1} / 2)
    Z3 = prod_r 2 cosh(L g_{2r} / 2)       Z4 = prod_r 2 sinh(L g_{2r} / 2)       r = 0 .. L-1
    cosh g_l = cosh 2K coth 2K - cos(pi l / L),    g_0 = 2K + ln tanh K.

g_0, hence Z4, is negative above the critical temperature. Products are kept as sums of logarithms,
so that no lattice size overflows. The energy per spin is e = -(1/L^2) d ln Z / dK.
"""

import numpy as np
from numpy.typing import NDArray

BETA_CRITICAL = float(np.log(1 + np.sqrt(2)) / 2)
"""Inverse critical temperature ln(1 + sqrt 2) / 2."""

ENERGY_CRITICAL = float(-np.sqrt(2))
"""Energy per spin of the infinite lattice at the critical point."""


def torus_energy(L: int, beta: float) -> float:
    """Exact mean energy per spin of the L x L torus at inverse temperature beta, J = 1.

    Raises:
        ValueError: L < 3 or beta not positive and finite.
    """
    if L < 3:
        raise ValueError(f"L must be at least 3, got {L}")
    if not (np.isfinite(beta) and beta > 0):
        raise ValueError(f"beta must be positive and finite, got {beta}")
    K = beta
    l = np.arange(1, 2 * L)
    # cosh g - 1 in a form without cancellation near the critical point, where g_1 ~ pi / L
    excess = (np.sinh(2 * K) - 1) ** 2 / np.sinh(2 * K) + 2 * np.sin(np.pi * l / (2 * L)) ** 2
    g = np.concatenate([[2 * K + np.log(np.tanh(K))], 2 * np.arcsinh(np.sqrt(excess / 2))])
    dcosh_dK = 2 * np.cosh(2 * K) * (1 - 1 / np.sinh(2 * K) ** 2)
    dg = np.concatenate([[2 + 2 / np.sinh(2 * K)], dcosh_dK / np.sinh(g[1:])])
    odd, even = slice(1, None, 2), slice(0, None, 2)
    terms = [
        _product(g[odd], dg[odd], L, sinh=False),
        _product(g[odd], dg[odd], L, sinh=True),
        _product(g[even], dg[even], L, sinh=False),
        _product(g[even], dg[even], L, sinh=True),
    ]
    largest = max(log for _, log, _ in terms)
    Z = sum(sign * np.exp(log - largest) for sign, log, _ in terms)
    dZ = sum(dterm * np.exp(log - largest) for _, log, dterm in terms)
    return float(-(1 / np.tanh(2 * K)) - dZ / Z / L**2)


def _product(
    g: NDArray[np.float64], dg: NDArray[np.float64], L: int, sinh: bool
) -> tuple[float, float, float]:
    """Sign, ln(scale) and (d/dK) / scale of prod 2 cosh(L g/2) or prod 2 sinh(L g/2).

    scale leaves out a factor sinh that vanishes (g_0 at the critical point), whose derivative
    does not.
    """
    x = L * g / 2
    dx = L * dg / 2
    tail = np.exp(-2 * np.abs(x))
    if not sinh:
        return 1.0, float(np.sum(np.abs(x) + np.log1p(tail))), float(np.sum(np.tanh(x) * dx))
    # g_0 is the only one that can vanish or be negative: treat its factor 2 sinh x_0 apart
    head, rest = 2 * np.sinh(np.clip(x[0], -1, 1)), x[1:]
    if abs(x[0]) >= 1:
        log = float(np.sum(np.abs(x) + np.log1p(-tail)))
        sign = float(np.sign(x[0]))
        return sign, log, sign * float(np.sum(dx / np.tanh(x)))
    log = float(np.sum(rest + np.log1p(-tail[1:])))
    derivative = 2 * np.cosh(x[0]) * dx[0] + head * np.sum(dx[1:] / np.tanh(rest))
    return float(head), log, float(derivative)
