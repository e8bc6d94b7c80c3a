"""Fits of the SKILD spectrum S0(k) = C (k^2 + k0^2)^(-alpha) to a radial variance profile.

paper        minimise sum_j (s_j - S0(k_j))^2 over all shells, DC included, unweighted on a linear
             scale, with pi/2 <= k0^2 <= 3 and 0 <= alpha <= 10 (arXiv 2605.26032). The few lowest
             shells decide it, and k0^2 often ends on a bound.
likelihood   the sample variance s_j of g_j Gaussian modes over n fields is Gamma distributed with
             nu_j = g_j (n - 1) degrees of freedom; maximise, over theta = (ln C, ln k0^2, alpha),
             ln L = -sum_j nu_j/2 [ln S0(k_j) + s_j / S0(k_j)],
             which weighs every scale by what is known about it. With y = ln S0, J = dy/dtheta, the
             observed information is
             I = sum_j nu_j/2 [(s/S0) J J^T + (1 - s/S0) d^2y/dtheta^2],  cov theta = I^(-1).
             The deviance D = sum_j nu_j [s_j/S0 - 1 - ln(s_j/S0)] is chi-square with (shells - free
             parameters) degrees of freedom if the law holds and the modes are Gaussian.

Channels of an image are nearly the same field, so they are averaged but not counted in nu.

Real fields are not Gaussian: shells fluctuate more than sqrt(2/nu), and together. Given the
covariance Gamma of the whitened residuals r_j = sqrt(nu_j/2) (s_j/S0 - 1), measured from blocks of
samples, and the projector P that takes the fitted directions out of them, D has mean tr(P Gamma)
and variance 2 tr(P Gamma P Gamma); D tr(P Gamma)/tr(P Gamma P Gamma) is then close to chi-square
with tr(P Gamma)^2 / tr(P Gamma P Gamma) degrees of freedom (Satterthwaite 1946; Satorra and Bentler
1994). :func:`goodness_of_fit` estimates both traces.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares, minimize
from scipy.special import chdtrc

from skild_physics.files import InputError

Method = Literal["likelihood", "paper"]
METHODS: tuple[str, ...] = get_args(Method)

PARAMETERS = ("C", "k0_squared", "alpha")
PAPER_BOUNDS = np.array([(0.0, np.inf), (np.pi / 2, 3.0), (0.0, 10.0)])
LIKELIHOOD_BOUNDS = np.array(
    [(np.log(1e-12), np.log(1e12)), (np.log(1e-6), np.log(1e8)), (-10.0, 10.0)]
)


@dataclass(frozen=True)
class PowerLaw:
    """S0(k) = C (k^2 + k0_squared)^(-alpha), k in radians per box side."""

    C: float
    k0_squared: float
    alpha: float

    def __call__(self, k: ArrayLike) -> NDArray[np.float64]:
        """S0 at wavenumbers k, any shape; a pure power of k is infinite at 0."""
        with np.errstate(divide="ignore"):
            return self.C * (np.square(k) + self.k0_squared) ** -self.alpha


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted law and how far it is known if the modes are Gaussian.

    Attributes:
        law: the optimum.
        method: how it was found.
        covariance: of (ln C, ln k0^2, alpha), shape (3, 3), the inverse observed information; rows
            of parameters that are fixed or on a bound are zero; nan for the paper's fit.
        deviance: D of the module's header.
        degrees_of_freedom: shells minus free parameters.
        on_bound: names of the parameters that ended on a bound.
        scatter: root mean square of s/S0 - 1 over modes: how far the data lie from the law.
    """

    law: PowerLaw
    method: Method
    covariance: NDArray[np.float64]
    deviance: float
    degrees_of_freedom: int
    on_bound: tuple[str, ...]
    scatter: float


class Goodness(NamedTuple):
    """A chi-square statistic and its degrees of freedom, which need not be whole."""

    chi_square: float
    degrees_of_freedom: float

    @property
    def p_value(self) -> float:
        """Probability of a value at least this large if the law is true."""
        return float(chdtrc(self.degrees_of_freedom, self.chi_square))


def log_parameters(law: PowerLaw) -> NDArray[np.float64]:
    """(ln C, ln k0^2, alpha), shape (3,); ln k0^2 is -inf for a pure power law."""
    with np.errstate(divide="ignore"):
        return np.array([np.log(law.C), np.log(law.k0_squared), law.alpha])


def _jacobian(law: PowerLaw, k: NDArray[np.float64]) -> NDArray[np.float64]:
    """d ln S0 / d(ln C, ln k0^2, alpha), shape (3, shell)."""
    q = k**2 + law.k0_squared
    return np.stack([np.ones_like(k), -law.alpha * law.k0_squared / q, -np.log(q)])


def fit_power_law(
    k: NDArray[np.float64],
    S: NDArray[np.float64],
    modes: NDArray[np.int64],
    n_samples: int,
    method: Method = "likelihood",
    k0_squared: float | None = None,
) -> Fit:
    """Fit the law to shells.

    Args:
        k: wavenumber of each shell, radians per box side, shape (shell,).
        S: variance of each shell, shape (shell,).
        modes: number of modes averaged in each shell, shape (shell,).
        n_samples: number of fields behind the variances.
        method: "likelihood" or "paper".
        k0_squared: hold k0^2 at this value, (radians per box side)^2; 0 is a pure power law.

    Raises:
        InputError: fewer than four shells, variances that are not positive and finite, a negative
            k0_squared, 0 where the zero mode is fitted, or any with the paper's method.
    """
    if method not in METHODS:
        raise InputError(f"method must be one of {METHODS}, got {method!r}")
    if len(k) < 4:
        raise InputError(
            f"a fit of three parameters needs at least 4 shells, got {len(k)}: widen its range"
        )
    if not (np.isfinite(S).all() and (S > 0).all()):
        raise InputError(
            "the variance must be positive and finite in every shell: is the data constant?"
        )
    if k0_squared is not None:
        if method == "paper":
            raise InputError("`k0_squared` cannot be held in the paper's fit, which fits it")
        if not 0 <= k0_squared < np.inf or (k0_squared == 0 and k.min() == 0):
            raise InputError(
                f"`k0_squared` must not be negative, nor 0 where k = 0 is fitted, which `k_min` "
                f"leaves out; got {k0_squared}"
            )
    nu = modes.astype(np.float64) * max(n_samples - 1, 1)
    if method == "paper":
        law, bounded = _least_squares(k, S)
        covariance = np.full((3, 3), np.nan)
    else:
        law, bounded = _maximum_likelihood(k, S, nu, k0_squared)
        free = ~bounded
        if k0_squared is not None:
            free[1] = False
        covariance = _inverse_information(law, k, S, nu, free)
    ratio = S / law(k)
    return Fit(
        law=law,
        method=method,
        covariance=covariance,
        deviance=float(np.sum(nu * (ratio - 1 - np.log(ratio)))),
        degrees_of_freedom=len(k) - (3 if k0_squared is None else 2),
        on_bound=tuple(np.array(PARAMETERS)[bounded].tolist()),
        scatter=float(np.sqrt(np.average((ratio - 1) ** 2, weights=nu))),
    )


def _on_bound(p: NDArray[np.float64], bounds: NDArray[np.float64]) -> NDArray[np.bool_]:
    near: NDArray[np.bool_] = np.isclose(p[:, None], bounds, rtol=1e-6, atol=1e-9).any(axis=1)  # type: ignore[assignment]
    return near


def _least_squares(
    k: NDArray[np.float64], S: NDArray[np.float64]
) -> tuple[PowerLaw, NDArray[np.bool_]]:
    p = least_squares(
        lambda p: PowerLaw(*p)(k) - S,
        x0=(1.0, 2.0, 1.0),
        bounds=PAPER_BOUNDS.T,
        x_scale=(1.0, 1.0, 0.1),
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    ).x
    return PowerLaw(*map(float, p)), _on_bound(p, PAPER_BOUNDS)


def _maximum_likelihood(
    k: NDArray[np.float64],
    S: NDArray[np.float64],
    nu: NDArray[np.float64],
    k0_squared: float | None,
) -> tuple[PowerLaw, NDArray[np.bool_]]:
    weight = nu / nu.sum()

    def law_of(p: NDArray[np.float64]) -> PowerLaw:
        k02 = np.exp(p[1]) if k0_squared is None else k0_squared
        return PowerLaw(float(np.exp(p[0])), float(k02), float(p[2]))

    def minus_log_likelihood(p: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        law = law_of(p)
        ln_S0 = p[0] - p[2] * np.log(k**2 + law.k0_squared)
        ratio = S * np.exp(-ln_S0)
        gradient = _jacobian(law, k) @ (weight * (1 - ratio))
        if k0_squared is not None:
            gradient[1] = 0.0
        return float(np.sum(weight * (ln_S0 + ratio))), gradient

    positive = k > 0
    ln_k2 = np.log(k[positive] ** 2)
    slope, intercept = np.polyfit(ln_k2, np.log(S[positive]), 1, w=np.sqrt(nu[positive]))
    start = [intercept, ln_k2.min() - 1, -slope]
    bounds = LIKELIHOOD_BOUNDS
    p = minimize(
        minus_log_likelihood,
        np.clip(start, bounds[:, 0], bounds[:, 1]),
        jac=True,
        bounds=bounds,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-12, "maxiter": 2000},
    ).x
    bounded = _on_bound(p, bounds)
    if k0_squared is not None:
        bounded[1] = False
    return law_of(p), bounded


def _inverse_information(
    law: PowerLaw,
    k: NDArray[np.float64],
    S: NDArray[np.float64],
    nu: NDArray[np.float64],
    free: NDArray[np.bool_],
) -> NDArray[np.float64]:
    J = _jacobian(law, k)
    ratio = S / law(k)
    information = (J * (nu / 2 * ratio)) @ J.T
    q = k**2 + law.k0_squared
    rest = nu / 2 * (1 - ratio)
    information[1, 1] += np.sum(rest * -law.alpha * law.k0_squared * k**2 / q**2)
    mixed = np.sum(rest * -law.k0_squared / q)
    information[1, 2] += mixed
    information[2, 1] += mixed
    covariance = np.zeros((3, 3))
    kept = np.ix_(free, free)
    covariance[kept] = np.linalg.pinv(information[kept], hermitian=True)
    return covariance


def goodness_of_fit(
    fit: Fit,
    k: NDArray[np.float64],
    modes: NDArray[np.int64],
    n_samples: int,
    replicas: NDArray[np.float64],
) -> Goodness:
    """The deviance against chi-square, allowing for non-Gaussian and correlated shells.

    Args:
        fit: a likelihood fit to these shells.
        k: wavenumber of each shell, radians per box side, shape (shell,).
        modes: number of modes of each shell, shape (shell,).
        n_samples: number of fields.
        replicas: variance of each shell with one block of fields left out, shape (block, shell);
            with fewer than four blocks the modes are taken to be Gaussian.
    """
    B = len(replicas)
    if B < 4:
        return Goodness(fit.deviance, fit.degrees_of_freedom)
    root = np.sqrt(modes * (n_samples - 1) / 2)
    w = (replicas - replicas.mean(axis=0)) * (root / fit.law(k))
    free = np.diag(fit.covariance) > 0
    Q, _ = np.linalg.qr((_jacobian(fit.law, k)[free] * root).T)
    w -= (w @ Q) @ Q.T
    gram = (B - 1) / B * (w @ w.T)
    trace = float(np.trace(gram))
    # the square of a sample covariance overestimates: Bai and Saranadasa (1996), eq. 3.16
    excess = float(np.sum(gram**2)) - trace**2 / (B - 1)
    trace_of_square = (B - 1) ** 2 / ((B - 2) * (B + 1)) * excess
    limit = float(fit.degrees_of_freedom)
    dof = trace**2 / trace_of_square if trace_of_square > 0 else limit
    dof = min(max(dof, 1.0), limit)
    return Goodness(fit.deviance * dof / trace, dof)
