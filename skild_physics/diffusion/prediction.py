"""What the network predicts, and how its output becomes an estimate of x_0.

With x_n = alpha x_0 + sigma eps per mode, alpha^2 = abar, sigma^2 = (1 - abar) S0, every target is
a linear form in (x_0, eps), and x_0 a linear form in (target, x_n) (SKILD, arXiv 2605.26032,
section on prediction targets):

            target                                          x_0
    eps     eps                                             (x_n - sigma eps) / alpha
    x0      x_0                                             x_0
    xprev   mean of q(x_(n-1) | x_n, x_0) = A x_0 + C x_n   (xprev - C x_n) / A
    w       alpha sqrt(S0) eps - sqrt(1 - abar) x_0         alpha x_n - sqrt(1 - abar) w
    v       alpha eps - sqrt(1 - abar) x_0 / sqrt(S0)       alpha x_n - sigma v

v is whitened: every mode of the target has unit variance, and its coefficient in x_0 vanishes
where the signal is already known. That is preconditioning with the exact linear skip alpha x_n.
Divisors alpha and A are floored at ``process.floor``, where the estimate is noise in any case. A
mode that nothing attenuates is known: x_0 = x_n, whatever the network says. So is one without
variance: its target and its x_0 are 0.

The network works in pixel space, on fields of any size M, and is given how far the diffusion has
proceeded in units of its own pixels, lambda M^2: what it sees of a lattice does not depend on how
large the lattice is.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from skild_physics import kspace
from skild_physics.diffusion.process import Process
from skild_physics.files import InputError

Prediction = Literal["eps", "x0", "xprev", "w", "v"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)

Network = Callable[[Tensor, Tensor], Tensor]
"""(fields (B, C, M, M), lambda M^2 (B,)) -> fields (B, C, M, M), all in pixel space."""

Denoiser = Callable[[Tensor, float], Tensor]
"""(modes x_n (B, C, N, N), step n) -> estimate of the modes x_0."""


class TargetForm(NamedTuple):
    """target = on_x0 x_0 + on_eps eps, per mode, shape (..., N, N)."""

    on_x0: Tensor
    on_eps: Tensor


class EstimateForm(NamedTuple):
    """x_0 = on_output output + on_xn x_n, per mode, shape (..., N, N)."""

    on_output: Tensor
    on_xn: Tensor


def _check(prediction: str) -> None:
    if prediction not in PREDICTIONS:
        raise InputError(f"prediction must be one of {PREDICTIONS}, got {prediction!r}")


def _previous(n: Tensor | float) -> Tensor:
    return (torch.as_tensor(n, dtype=torch.float64) - 1).clamp(min=0)


def target_form(prediction: Prediction, process: Process, n: Tensor | float) -> TargetForm:
    """Coefficients of the target at steps n > 0, float64, shape n.shape + (N, N).

    Raises:
        InputError: unknown prediction, or a step outside 0..T.
    """
    _check(prediction)
    alpha, sigma = process.marginal(n)
    root = process.S0.sqrt()
    match prediction:
        case "eps":
            form = TargetForm(torch.zeros_like(alpha), torch.ones_like(alpha))
        case "x0":
            form = TargetForm(torch.ones_like(alpha), torch.zeros_like(alpha))
        case "xprev":
            A, C, _ = process.posterior(n, _previous(n))
            form = TargetForm(A + C * alpha, C * sigma)
        case "w":
            form = TargetForm(-sigma / root, alpha * root)
        case "v":
            form = TargetForm(-sigma / process.S0, alpha)
    return TargetForm(*(c.masked_fill(process.empty, 0.0) for c in form))


def estimate_form(prediction: Prediction, process: Process, n: Tensor | float) -> EstimateForm:
    """Coefficients of the estimate of x_0 at steps n > 0, float64, shape n.shape + (N, N).

    Raises:
        InputError: unknown prediction, or a step outside 0..T.
    """
    _check(prediction)
    alpha, sigma = process.marginal(n)
    match prediction:
        case "eps":
            floored = alpha.clamp(min=process.floor)
            form = EstimateForm(-sigma / floored, 1 / floored)
        case "x0":
            form = EstimateForm(torch.ones_like(alpha), torch.zeros_like(alpha))
        case "xprev":
            A, C, _ = process.posterior(n, _previous(n))
            A = A.clamp(min=process.floor)
            form = EstimateForm(1 / A, -C / A)
        case "w":
            form = EstimateForm(-sigma / process.S0.sqrt(), alpha)
        case "v":
            form = EstimateForm(-sigma, alpha)
    known = process.frozen | process.empty
    return EstimateForm(
        form.on_output.masked_fill(known, 0.0),
        form.on_xn.masked_fill(process.empty, 0.0).masked_fill(process.frozen, 1.0),
    )


def target(
    prediction: Prediction, process: Process, n: Tensor | float, x_0: Tensor, eps: Tensor
) -> Tensor:
    """The network's target in k-space, from the modes of x_0 and eps, shape (..., N, N)."""
    on_x0, on_eps = target_form(prediction, process, n)
    return on_x0.to(x_0) * x_0 + on_eps.to(x_0) * eps


def estimate_x0(
    prediction: Prediction, process: Process, n: Tensor | float, output: Tensor, x_n: Tensor
) -> Tensor:
    """The estimate of the modes x_0 from the modes of the network's output and of x_n."""
    on_output, on_xn = estimate_form(prediction, process, n)
    return on_output.to(x_n) * output + on_xn.to(x_n) * x_n


def convert(
    prediction: Prediction,
    other: Prediction,
    process: Process,
    n: Tensor | float,
    output: Tensor,
    x_n: Tensor,
) -> Tensor:
    """An output of one prediction type as the output of another, in k-space, shape (..., N, N).

    Where a mode is not attenuated at all, eps has no value and is taken to be 0.
    """
    x_0 = estimate_x0(prediction, process, n, output, x_n)
    alpha, sigma = process.marginal(n)
    eps = (x_n - alpha.to(x_n) * x_0) / sigma.to(x_n)
    return target(other, process, n, x_0, eps.masked_fill(process.frozen, 0.0))


def denoiser(network: Network, process: Process, prediction: Prediction) -> Denoiser:
    """The estimate of x_0 that a trained network gives, in k-space."""
    _check(prediction)

    def estimate(x_n: Tensor, n: float) -> Tensor:
        lam = x_n.new_full((len(x_n),), float(process.lam(n) * process.N**2))
        output = network(kspace.inverse(x_n, process.basis), lam)
        return estimate_x0(prediction, process, n, kspace.forward(output, process.basis), x_n)

    return estimate
