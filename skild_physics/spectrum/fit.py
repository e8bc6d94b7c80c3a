"""Fits of the SKILD spectrum S0(k) = C (k^2 + k0^2)^(-alpha) to a radial variance profile.

paper        minimise sum_j (s_j - S0(k_j))^2 over all shells, DC included, unweighted on a linear
             scale, with pi/2 <= k0^2 <= 3 and 0 <= alpha <= 10 (arXiv 2605.26032). The few lowest
             shells decide it, and k0^2 often ends on a bound.
likelihood   the sample variance s_j of g_j Gaussian modes over n fields is Gamma distributed with
             nu_j = g_j (n - 1) degrees of freedom; maximise
             ln L = -sum_j nu_j/2 [ln S0(k_j) + s_j / S0(k_j)],
             which weighs every scale by what is known about it. The deviance
             D = sum_j nu_j [s_j/S0 - 1 - ln(s_j/S0)] is chi-square with (shells - 3) degrees of
             freedom if the law holds and the modes are Gaussian.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares, minimize
from scipy.special import chdtrc

Method = Literal["likelihood", "paper"]
METHODS: tuple[str, ...] = get_args(Method)

PAPER_BOUNDS = ((0.0, np.inf), (np.pi / 2, 3.0), (0.0, 10.0))
LIKELIHOOD_BOUNDS = ((np.log(1e-12), np.log(1e12)), (np.log(1e-6), np.log(1e6)), (-10.0, 10.0))


@dataclass(frozen=True)
class PowerLaw:
    """S0(k) = C (k^2 + k0_squared)^(-alpha), k in radians per box side."""

    C: float
    k0_squared: float
    alpha: float

    def __call__(self, k: ArrayLike) -> NDArray[np.float64]:
        """S0 at wavenumbers k, any shape."""
        return self.C * (np.square(k) + self.k0_squared) ** -self.alpha


@dataclass(frozen=True)
class Fit:
    """A fitted law, how well it describes the shells, and which parameters ended on a bound."""

    law: PowerLaw
    method: Method
    deviance: float
    degrees_of_freedom: int
    on_bound: tuple[str, ...]

    @property
    def p_value(self) -> float:
        """Probability of a deviance at least this large if the law is true."""
        return float(chdtrc(self.degrees_of_freedom, self.deviance))


def _deviance(
    S: NDArray[np.float64], law: PowerLaw, k: NDArray[np.float64], nu: NDArray[np.float64]
) -> float:
    ratio = S / law(k)
    return float(np.sum(nu * (ratio - 1 - np.log(ratio))))


def fit_power_law(
    k: NDArray[np.float64],
    S: NDArray[np.float64],
    modes: NDArray[np.int64],
    n_samples: int,
    method: Method = "likelihood",
) -> Fit:
    """Fit the law to shells.

    Args:
        k: wavenumber of each shell, radians per box side, shape (shell,).
        S: variance of each shell, shape (shell,).
        modes: number of modes (times channels) averaged in each shell, shape (shell,).
        n_samples: number of fields behind the variances.
        method: "likelihood" or "paper".

    Raises:
        ValueError: fewer than four shells, or variances that are not positive and finite.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    if len(k) < 4:
        raise ValueError(f"a fit of three parameters needs at least 4 shells, got {len(k)}")
    if not (np.isfinite(S).all() and (S > 0).all()):
        raise ValueError(
            "the variance must be positive and finite in every shell: is the data constant?"
        )
    nu = modes.astype(np.float64) * max(n_samples - 1, 1)
    if method == "paper":
        bounds = np.array(PAPER_BOUNDS)
        solution = least_squares(
            lambda p: PowerLaw(*p)(k) - S,
            x0=(1.0, 2.0, 1.0),
            bounds=bounds.T,
            x_scale=(1.0, 1.0, 0.1),
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
        )
        p = solution.x
        law = PowerLaw(*map(float, p))
    else:
        bounds = np.array(LIKELIHOOD_BOUNDS)
        ln_k2 = np.log(np.maximum(k, k[k > 0].min() / 2) ** 2)
        slope, intercept = np.polyfit(ln_k2, np.log(S), 1, w=np.sqrt(nu))

        def minus_log_likelihood(p: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            ln_C, ln_k02, alpha = p
            ln_q = np.log(k**2 + np.exp(ln_k02))
            r = S * np.exp(alpha * ln_q - ln_C)
            slope_of_ln_S = np.stack([np.ones_like(k), -alpha * np.exp(ln_k02 - ln_q), -ln_q])
            weight = nu / nu.sum()
            return (
                float(np.sum(weight * (ln_C - alpha * ln_q + r))),
                slope_of_ln_S @ (weight * (1 - r)),
            )

        start = np.clip([intercept, 0.0, -slope], bounds[:, 0], bounds[:, 1])
        solution = minimize(
            minus_log_likelihood,
            start,
            jac=True,
            bounds=bounds,
            method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-12, "maxiter": 2000},
        )
        p = solution.x
        law = PowerLaw(float(np.exp(p[0])), float(np.exp(p[1])), float(p[2]))
    on_bound = tuple(
        name
        for name, value, (low, high) in zip(("C", "k0_squared", "alpha"), p, bounds, strict=True)
        if np.isclose(value, low, rtol=1e-6, atol=1e-9) or np.isclose(value, high, rtol=1e-6)
    )
    return Fit(law, method, _deviance(S, law, k, nu), len(k) - 3, on_bound)
