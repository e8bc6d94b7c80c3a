"""What the network predicts, and how its output becomes an estimate of x_0.

With x_n = alpha x_0 + sigma eps per mode, alpha^2 = abar and sigma^2 = (1 - abar) S0
(SKILD, arXiv 2605.26032, section on prediction targets):

    eps   target eps                                     x_0 = (x_n - sigma eps) / alpha
    v     target alpha eps - sqrt(1 - abar) x_0/sqrt(S0) x_0 = alpha x_n - sigma v

v is whitened: every mode of the target has unit variance, and its coefficient in x_0 vanishes
where the signal is already known. That is preconditioning with the exact linear skip alpha x_n.
In the eps form alpha is floored at 1e-6, where the estimate is noise in any case.
"""

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor

from skild_physics import kspace
from skild_physics.diffusion.process import Marginal, Process

Prediction = Literal["eps", "v"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)

Network = Callable[[Tensor, Tensor], Tensor]
"""(fields (B, C, N, N), lambda (B,)) -> fields (B, C, N, N), all in pixel space."""

Denoiser = Callable[[Tensor, float], Tensor]
"""(modes x_n (B, C, N, N), step n) -> estimate of the modes x_0."""

ALPHA_FLOOR = 1e-6


def _check(prediction: str) -> None:
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction must be one of {PREDICTIONS}, got {prediction!r}")


def target(
    prediction: Prediction, x_0: Tensor, eps: Tensor, marginal: Marginal, S0: Tensor
) -> Tensor:
    """The network's target in k-space, shape (..., N, N), from the modes of x_0 and eps."""
    _check(prediction)
    if prediction == "eps":
        return eps
    alpha, sigma = marginal
    return alpha * eps - sigma / S0 * x_0


def estimate_x0(prediction: Prediction, output: Tensor, x_n: Tensor, marginal: Marginal) -> Tensor:
    """The estimate of the modes x_0 from the modes of the network's output and of x_n."""
    _check(prediction)
    alpha, sigma = marginal
    if prediction == "eps":
        return (x_n - sigma * output) / alpha.clamp(min=ALPHA_FLOOR)
    return alpha * x_n - sigma * output


def denoiser(network: Network, process: Process, prediction: Prediction) -> Denoiser:
    """The estimate of x_0 that a trained network gives, in k-space."""
    _check(prediction)

    def estimate(x_n: Tensor, n: float) -> Tensor:
        marginal = Marginal(*(c.to(x_n) for c in process.marginal(n)))
        lam = process.lam(n).to(x_n).expand(len(x_n))
        output = network(kspace.inverse(x_n, process.basis), lam)
        return estimate_x0(prediction, kspace.forward(output, process.basis), x_n, marginal)

    return estimate
