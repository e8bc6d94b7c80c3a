"""Exact results for the 2D Ising model on the square lattice, J = 1, K = beta.

Torus of L x L spins (Kaufman, Phys. Rev. 76, 1232 (1949); in the form of Ferdinand and Fisher,
Phys. Rev. 185, 832 (1969)):

    Z = 1/2 (2 sinh 2K)^(L^2/2) (Z1 + Z2 + Z3 + Z4)
    Z1 = prod_r 2 cosh(L g_{2r+1} / 2)     Z2 = prod_r 2 sinh(L g_{2r+1} / 2)
    Z3 = prod_r 2 cosh(L g_{2r} / 2)       Z4 = prod_r 2 sinh(L g_{2r} / 2)       r = 0 .. L-1
    cosh g_l = cosh 2K coth 2K - cos(pi l / L),    g_0 = 2K + ln tanh K
    e = -(1/L^2) d ln Z / dK,    c = (K^2/L^2) d^2 ln Z / dK^2.

g_0, hence Z4, changes sign at the critical temperature. Products are kept as logarithms, so no
lattice size overflows. At K = 0 all states are equally likely; turning every other spin over turns
the sign of K if L is even, so Z(-K) = Z(K), e(-K) = -e(K) and c(-K) = c(K).

Infinite lattice (Onsager 1944; Yang 1952; McCoy and Wu 1973), with k = sinh^2 2K:

    e  = -coth 2K [1 + (2/pi) (2 tanh^2 2K - 1) K(kappa)],    kappa = 2 sinh 2K / cosh^2 2K
    m  = (1 - k^-2)^(1/8) below the critical temperature, 0 above
    <s_00 s_nn> = det a_{i-j} (n x n),
    a_n = 1/(2 pi) int dq e^(-i n q) [(k - e^(-i q)) / (k - e^(i q))]^(1/2),
    and at the critical point (2/pi)^n prod_{l<n} (1 - 1/(4 l^2))^(l-n).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import toeplitz
from scipy.special import ellipkm1

from skild_physics.files import InputError

BETA_CRITICAL = float(np.log(1 + np.sqrt(2)) / 2)
"""Inverse critical temperature ln(1 + sqrt 2) / 2."""


def _check(beta: float) -> None:
    if not np.isfinite(beta):
        raise InputError(f"beta must be finite, got {beta}")


def has_exact_torus(L: int, beta: float) -> bool:
    """Whether exact values of the L x L torus are known: not of a frustrated antiferromagnet."""
    return L >= 3 and bool(np.isfinite(beta)) and (beta >= 0 or L % 2 == 0)


def enumerated_torus(L: int, beta: float) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """All states of the L x L torus, int8 (2^(L^2), L, L), and their probabilities.

    Raises:
        InputError: L outside 1..4, or beta not finite.
    """
    if not 1 <= L <= 4:
        raise InputError(f"only tori of up to 4 x 4 spins are enumerated, got L = {L}")
    _check(beta)
    number = np.arange(2 ** (L * L))
    bits = (number[:, None] >> np.arange(L * L)) & 1
    states = (1 - 2 * bits).reshape(-1, L, L).astype(np.int8)
    bonds = states * (np.roll(states, 1, axis=1) + np.roll(states, 1, axis=2))
    log_weight = beta * bonds.sum(axis=(1, 2))
    weight = np.exp(log_weight - log_weight.max())
    return states, weight / weight.sum()


def torus_log_partition(L: int, beta: float) -> float:
    """ln Z of the L x L torus.

    Raises:
        InputError: L < 3, beta not finite, or negative where L is odd.
    """
    return _log_partition_derivatives(L, beta)[0]


def torus_energy(L: int, beta: float) -> float:
    """Mean energy per spin of the L x L torus.

    Raises:
        InputError: L < 3, beta not finite, or negative where L is odd.
    """
    # no minus zero
    return 0.0 - float(np.sign(beta) * _log_partition_derivatives(L, beta)[1] / L**2)


def torus_specific_heat(L: int, beta: float) -> float:
    """Specific heat per spin beta^2 (<E^2> - <E>^2) / L^2 of the L x L torus.

    Raises:
        InputError: L < 3, beta not finite, or negative where L is odd.
    """
    return beta**2 * _log_partition_derivatives(L, beta)[2] / L**2


def _log_partition_derivatives(L: int, K: float) -> tuple[float, float, float]:
    """ln Z and its first and second derivative, at |K| by |K|."""
    if L < 3:
        raise InputError(f"L must be at least 3, got {L}")
    _check(K)
    if not has_exact_torus(L, K):
        raise InputError(f"L must be even for negative beta, got {L}: the torus is frustrated")
    if not K:
        return L**2 * float(np.log(2)), 0.0, 2.0 * L**2
    K = abs(K)
    s, c = np.sinh(2 * K), np.cosh(2 * K)
    # (C - 1) + (1 - cos) has no cancellation near the critical point, where g_1 ~ pi / L
    excess = (s - 1) ** 2 / s + 2 * np.sin(np.pi * np.arange(1, 2 * L) / (2 * L)) ** 2
    g = 2 * np.arcsinh(np.sqrt(excess / 2))
    dC, ddC = 2 * c * (1 - 1 / s**2), 4 * (s - 1 / s) + 8 * c**2 / s**3
    dg = dC / np.sinh(g)
    ddg = (ddC - np.cosh(g) * dg**2) / np.sinh(g)
    waves = np.array([g, dg, ddg]) * L / 2
    zero = np.array([2 * K + np.log(np.tanh(K)), 2 + 2 / s, -4 * c / s**2]) * L / 2
    odd, even = waves[:, 0::2], waves[:, 1::2]
    with_zero = np.concatenate([zero[:, None], even], axis=1)
    one = (1.0, 0.0, 0.0)
    sign, x0 = np.sign(zero[0]), abs(zero[0])
    if x0 > 1:
        last = ((sign, 0.0, 0.0), _log_product(np.column_stack([sign * zero, even]), True))
    else:
        # sinh(x_0) vanishes at the critical point: keep it out of the logarithm
        head = 2 * np.sinh(zero[0])
        slope = 2 * np.cosh(zero[0])
        curvature = slope * zero[2] + head * zero[1] ** 2
        last = ((head, slope * zero[1], curvature), _log_product(even, True))
    terms = [
        (one, _log_product(odd, False)),
        (one, _log_product(odd, True)),
        (one, _log_product(with_zero, False)),
        last,
    ]
    # every term is h R; derivatives are taken relative to exp(shift K) so that none is large
    largest = max(log for _, (log, _, _) in terms)
    shift = terms[0][1][1]
    Z = dZ = ddZ = 0.0
    for (h, dh, ddh), (log, d, dd) in terms:
        R = np.exp(log - largest)
        Z += h * R
        dZ += (dh + h * (d - shift)) * R
        ddZ += (ddh + 2 * dh * (d - shift) + h * (dd + (d - shift) ** 2)) * R
    N = L**2
    return (
        float(-np.log(2) + N / 2 * np.log(2 * s) + largest + np.log(Z)),
        float(N * c / s + shift + dZ / Z),
        float(-2 * N / s**2 + ddZ / Z - (dZ / Z) ** 2),
    )


def _log_product(x: NDArray[np.float64], sinh: bool) -> tuple[float, float, float]:
    """ln of prod 2 cosh x or prod 2 sinh x and two derivatives, from x, x', x'' as rows."""
    value, first, second = x
    tail = np.exp(-2 * np.abs(value))
    slope = np.tanh(value)
    if sinh:
        tail, slope = -tail, 1 / slope
    return (
        float(np.sum(np.abs(value) + np.log1p(tail))),
        float(np.sum(slope * first)),
        float(np.sum(slope * second + (1 - slope**2) * first**2)),
    )


def energy(beta: float) -> float:
    """Energy per spin of the infinite lattice; -sqrt 2 at the critical point.

    Raises:
        InputError: beta not finite.
    """
    _check(beta)
    if not beta:
        return 0.0
    offset = 2 * np.tanh(2 * beta) ** 2 - 1
    # 1 - kappa^2 = offset^2: the elliptic integral diverges logarithmically, the product vanishes
    term = 2 / np.pi * offset * ellipkm1(offset**2) if offset else 0.0
    return float(-(1 + term) / np.tanh(2 * beta))


def spontaneous_magnetization(beta: float) -> float:
    """Magnetisation per spin of the infinite lattice in a vanishing field; 0 for beta < 0.

    Raises:
        InputError: beta not finite.
    """
    _check(beta)
    if beta <= BETA_CRITICAL:
        return 0.0
    return float((-np.expm1(-4 * np.log(np.sinh(2 * beta)))) ** 0.125)


def diagonal_correlator(n: int, beta: float) -> float:
    """<s_00 s_nn> of the infinite lattice; 2/pi for n = 1 at the critical point.

    Raises:
        InputError: n < 0 or beta not finite.
    """
    _check(beta)
    if n < 0:
        raise InputError(f"n must not be negative, got {n}")
    # sites on a diagonal are of one sublattice
    beta = abs(beta)
    if not beta:
        return float(n == 0)
    if abs(beta - BETA_CRITICAL) < 1e-12:
        l = np.arange(1, n)
        return float(np.exp(n * np.log(2 / np.pi) + np.sum((l - n) * np.log1p(-0.25 / l**2))))
    if n == 0:
        return 1.0
    k = np.sinh(2 * beta) ** 2
    # the trapezoidal rule converges like min(k, 1/k)^points for this analytic periodic integrand
    points = int(np.clip(50 / abs(np.log(k)), 64, 2**22)) + 2 * n
    q = 2 * np.pi * np.arange(points) / points
    if k > 1:
        symbol = np.sqrt((1 - np.exp(-1j * q) / k) / (1 - np.exp(1j * q) / k))
    else:
        symbol = -np.exp(-1j * q) * np.sqrt((1 - k * np.exp(1j * q)) / (1 - k * np.exp(-1j * q)))
    a = np.fft.fft(symbol).real / points
    return float(np.linalg.det(toeplitz(a[:n], a[-np.arange(n)])))
