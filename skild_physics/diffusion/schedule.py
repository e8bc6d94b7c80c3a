"""How far the diffusion has proceeded at time t in [0, 1]: schedules lambda(t).

A mode of wavenumber k keeps the fraction abar = exp(-k^2 lambda) of its signal's variance, so
lambda sets a cutoff that moves from high to low k (SKILD, arXiv 2605.26032):

    linear        lambda(t) = theta t / (lambda_i (1 - t) + lambda_f)^2     cutoff linear in k
    log-linear    lambda(t) = t 10^(lambda_i + (lambda_f - lambda_i) t)     cutoff linear in log k

The signal-to-noise ratio abar / (1 - abar) of mode k falls to tau at k* = sqrt(ln(1 + 1/tau) /
lambda), which defines the effective resolution, in pixels per side,

    R(lambda) = k* / (sqrt(2) pi),    lambda(R) = ln(1 + 1/tau) / (2 pi^2 R^2).
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """A monotone lambda(t) with lambda(0) = 0."""

    def lam(self, t: Tensor) -> Tensor:
        """lambda at times t in [0, 1], in float64, any shape."""
        ...


def _as_time(t: Tensor) -> Tensor:
    t = torch.as_tensor(t, dtype=torch.float64)
    if bool(((t < 0) | (t > 1)).any()):
        raise ValueError(f"t must lie in [0, 1], got {t.min().item()} .. {t.max().item()}")
    return t


@dataclass(frozen=True)
class LinearSchedule:
    """lambda(t) = theta t / (lambda_i (1 - t) + lambda_f)^2, the paper's main schedule."""

    lambda_i: float
    lambda_f: float
    theta: float

    def __post_init__(self) -> None:
        for name in ("lambda_f", "theta"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive, got {value}")
        if not (math.isfinite(self.lambda_i) and self.lambda_i >= 0):
            raise ValueError(f"lambda_i must not be negative, got {self.lambda_i}")

    def lam(self, t: Tensor) -> Tensor:
        """lambda at times t in [0, 1], in float64, any shape."""
        t = _as_time(t)
        return self.theta * t / (self.lambda_i * (1 - t) + self.lambda_f) ** 2


@dataclass(frozen=True)
class LogLinearSchedule:
    """lambda(t) = t 10^(lambda_i + (lambda_f - lambda_i) t)."""

    lambda_i: float
    lambda_f: float

    def __post_init__(self) -> None:
        slope = (self.lambda_f - self.lambda_i) * math.log(10)
        if not (math.isfinite(slope) and slope > -1):
            raise ValueError(
                f"lambda_f must exceed lambda_i - 1/ln(10) for lambda(t) to grow, got "
                f"lambda_i = {self.lambda_i}, lambda_f = {self.lambda_f}"
            )

    def lam(self, t: Tensor) -> Tensor:
        """lambda at times t in [0, 1], in float64, any shape."""
        t = _as_time(t)
        exponent = self.lambda_i + (self.lambda_f - self.lambda_i) * t
        return t * torch.pow(10.0, exponent)


def effective_resolution(lam: Tensor, tau: float) -> Tensor:
    """Pixels per side whose modes still carry a signal-to-noise ratio above tau, at lambda."""
    k = torch.sqrt(math.log1p(1 / tau) / torch.as_tensor(lam, dtype=torch.float64))
    return k / (math.sqrt(2) * math.pi)


def lambda_at_resolution(resolution: float, tau: float) -> float:
    """The lambda at which the effective resolution is ``resolution`` pixels per side.

    Raises:
        ValueError: resolution or tau is not positive.
    """
    if not resolution > 0:
        raise ValueError(f"resolution must be positive, got {resolution}")
    if not tau > 0:
        raise ValueError(f"tau must be positive, got {tau}")
    return math.log1p(1 / tau) / (2 * math.pi**2 * resolution**2)


def linear_to_resolution(size: int, resolution: float, theta: float, tau: float) -> LinearSchedule:
    """The linear schedule that ends, at t = 1, at an effective resolution.

    As in the paper's configurations, lambda_i is the largest wavenumber sqrt(2) pi (size - 1) and
    lambda_f = sqrt(2) pi R / sqrt(ln(1 + 1/tau) / theta).

    Args:
        size: lattice size N in pixels per side.
        resolution: R at t = 1, in pixels per side; below 1 no mode survives and the reversed
            process generates from pure noise.
        theta: width of the transition; larger values start it earlier.
        tau: signal-to-noise ratio that counts as resolved.
    """
    lam_end = lambda_at_resolution(resolution, tau)
    return LinearSchedule(
        lambda_i=math.sqrt(2) * math.pi * (size - 1),
        lambda_f=math.sqrt(theta / lam_end),
        theta=theta,
    )
