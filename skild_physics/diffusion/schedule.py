"""How far the diffusion has proceeded at time t in [0, 1]: schedules lambda(t).

A mode of wavenumber k keeps the fraction abar = exp(-k^2 lambda) of its signal's variance, so
lambda sets a cutoff that moves from high to low k (SKILD, arXiv 2605.26032):

    linear        lambda(t) = theta t / (lambda_i (1 - t) + lambda_f)^2     cutoff linear in k
    log-linear    lambda(t) = t 10^(lambda_i + (lambda_f - lambda_i) t)     cutoff linear in log k
    linear-beta   lambda(t) = beta_0 t + (beta_1 - beta_0) t^2 / 2          rate linear in t

the last for white processes (DDPM, arXiv 2006.11239). All can be inverted in closed form. With
s = lambda_i + lambda_f the linear one solves lambda (s - lambda_i t)^2 = theta t; of the two roots
the one in [0, 1], without cancellation, is

    t = 2 lambda s^2 / (2 lambda s lambda_i + theta + sqrt(theta^2 + 4 theta lambda s lambda_i)).

The log-linear one, with b = (lambda_f - lambda_i) ln 10, is t = W(b lambda 10^(-lambda_i)) / b,
where W is Lambert's function; the last, t = 2 lambda / (beta_0 + sqrt(beta_0^2 + 2 (beta_1 -
beta_0) lambda)).

The signal-to-noise ratio abar / (1 - abar) of mode k falls to tau at k* = sqrt(ln(1 + 1/tau) /
lambda), which defines the effective resolution, in pixels per side,

    R(lambda) = k* / (sqrt(2) pi),    lambda(R) = ln(1 + 1/tau) / (2 pi^2 R^2).
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from scipy.special import lambertw
from torch import Tensor

from skild_physics.files import InputError


class Schedule(Protocol):
    """A growing lambda(t) with lambda(0) = 0."""

    def lam(self, t: Tensor | float) -> Tensor:
        """lambda at times t in [0, 1], in float64, any shape."""
        ...

    def rate(self, t: Tensor | float) -> Tensor:
        """d lambda / dt at times t in [0, 1], in float64, any shape."""
        ...

    def time(self, lam: Tensor | float) -> Tensor:
        """The inverse: t at which lambda(t) = lam, in float64, any shape."""
        ...

    def scaled(self, factor: float) -> "Schedule":
        """The schedule factor * lambda(t)."""
        ...


def as_time(t: Tensor | float) -> Tensor:
    """Times as float64; InputError if one of the CPU lies outside [0, 1]."""
    t = torch.as_tensor(t, dtype=torch.float64)
    if t.device.type == "cpu" and not bool(((t >= 0) & (t <= 1)).all()):
        raise InputError(f"t must lie in [0, 1], got {t.min().item()} .. {t.max().item()}")
    return t


def as_lambda(lam: Tensor | float, end: float) -> Tensor:
    """Values of lambda as float64; InputError if one lies outside 0..end, but for rounding."""
    lam = torch.as_tensor(lam, dtype=torch.float64)
    if not bool(((lam >= 0) & (lam <= end * (1 + 1e-9))).all()):
        raise InputError(
            f"lam must lie in 0 .. {end:g}, where the schedule ends, got {lam.min().item():g} .. "
            f"{lam.max().item():g}"
        )
    return lam


@dataclass(frozen=True)
class LinearSchedule:
    """lambda(t) = theta t / (lambda_i (1 - t) + lambda_f)^2, the paper's main schedule.

    Raises:
        InputError: lambda_f or theta is not positive, or lambda_i is negative.
    """

    lambda_i: float
    lambda_f: float
    theta: float

    def __post_init__(self) -> None:
        for name in ("lambda_f", "theta"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be positive, got {value}")
        if not (math.isfinite(self.lambda_i) and self.lambda_i >= 0):
            raise InputError(f"lambda_i must not be negative, got {self.lambda_i}")

    def lam(self, t: Tensor | float) -> Tensor:
        """lambda at times t in [0, 1], in float64, any shape."""
        t = as_time(t)
        return self.theta * t / (self.lambda_i * (1 - t) + self.lambda_f) ** 2

    def rate(self, t: Tensor | float) -> Tensor:
        """d lambda / dt at times t in [0, 1], in float64, any shape."""
        t = as_time(t)
        s = self.lambda_i + self.lambda_f
        return self.theta * (s + self.lambda_i * t) / (s - self.lambda_i * t) ** 3

    def time(self, lam: Tensor | float) -> Tensor:
        """t at which lambda(t) = lam, in float64, any shape.

        Raises:
            InputError: lam is negative or beyond the end of the schedule.
        """
        lam = as_lambda(lam, self.theta / self.lambda_f**2)
        s = self.lambda_i + self.lambda_f
        b = 2 * lam * s * self.lambda_i + self.theta
        root = torch.sqrt(self.theta**2 + 4 * self.theta * lam * s * self.lambda_i)
        return (2 * lam * s**2 / (b + root)).clamp(max=1.0)

    def scaled(self, factor: float) -> "LinearSchedule":
        """The schedule factor * lambda(t), factor > 0."""
        root = math.sqrt(factor)
        return LinearSchedule(self.lambda_i / root, self.lambda_f / root, self.theta)


@dataclass(frozen=True)
class LogLinearSchedule:
    """lambda(t) = t 10^(lambda_i + (lambda_f - lambda_i) t).

    Raises:
        InputError: lambda(t) would not grow everywhere.
    """

    lambda_i: float
    lambda_f: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self._b) and self._b > -1):
            raise InputError(
                f"lambda_f must exceed lambda_i - 1/ln(10) for lambda(t) to grow, got "
                f"lambda_i = {self.lambda_i}, lambda_f = {self.lambda_f}"
            )

    @property
    def _b(self) -> float:
        return (self.lambda_f - self.lambda_i) * math.log(10)

    def lam(self, t: Tensor | float) -> Tensor:
        """lambda at times t in [0, 1], in float64, any shape."""
        t = as_time(t)
        lam: Tensor = t * 10.0**self.lambda_i * torch.exp(self._b * t)
        return lam

    def rate(self, t: Tensor | float) -> Tensor:
        """d lambda / dt at times t in [0, 1], in float64, any shape."""
        t = as_time(t)
        rate: Tensor = (1 + self._b * t) * 10.0**self.lambda_i * torch.exp(self._b * t)
        return rate

    def time(self, lam: Tensor | float) -> Tensor:
        """t at which lambda(t) = lam, in float64, any shape.

        Raises:
            InputError: lam is negative or beyond the end of the schedule.
        """
        lam = as_lambda(lam, 10.0**self.lambda_f)
        x: Tensor = lam * 10.0**-self.lambda_i
        if abs(self._b) < 1e-12:
            return x.clamp(max=1.0)
        w = torch.as_tensor(lambertw((self._b * x).cpu().numpy()).real).to(lam)
        return (w / self._b).clamp(max=1.0)

    def scaled(self, factor: float) -> "LogLinearSchedule":
        """The schedule factor * lambda(t), factor > 0."""
        shift = math.log10(factor)
        return LogLinearSchedule(self.lambda_i + shift, self.lambda_f + shift)


@dataclass(frozen=True)
class LinearBetaSchedule:
    """lambda(t) = beta_0 t + (beta_1 - beta_0) t^2 / 2, whose rate grows linearly.

    Raises:
        InputError: beta_0 is negative, or beta_1 is not positive.
    """

    beta_0: float
    beta_1: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta_0) and self.beta_0 >= 0):
            raise InputError(f"beta_0 must not be negative, got {self.beta_0}")
        if not (math.isfinite(self.beta_1) and self.beta_1 > 0):
            raise InputError(f"beta_1 must be positive, got {self.beta_1}")

    def lam(self, t: Tensor | float) -> Tensor:
        """lambda at times t in [0, 1], in float64, any shape."""
        t = as_time(t)
        return t * (self.beta_0 + (self.beta_1 - self.beta_0) * t / 2)

    def rate(self, t: Tensor | float) -> Tensor:
        """d lambda / dt at times t in [0, 1], in float64, any shape."""
        return self.beta_0 + (self.beta_1 - self.beta_0) * as_time(t)

    def time(self, lam: Tensor | float) -> Tensor:
        """t at which lambda(t) = lam, in float64, any shape.

        Raises:
            InputError: lam is negative or beyond the end of the schedule.
        """
        lam = as_lambda(lam, (self.beta_0 + self.beta_1) / 2)
        root = torch.sqrt((self.beta_0**2 + 2 * (self.beta_1 - self.beta_0) * lam).clamp(min=0))
        # 0 / 0 at lambda = 0 if beta_0 = 0
        return (2 * lam / (self.beta_0 + root).clamp(min=torch.finfo(lam.dtype).tiny)).clamp(max=1)

    def scaled(self, factor: float) -> "LinearBetaSchedule":
        """The schedule factor * lambda(t), factor > 0."""
        return LinearBetaSchedule(factor * self.beta_0, factor * self.beta_1)


def effective_resolution(lam: Tensor | float, tau: float) -> Tensor:
    """Pixels per side whose modes still carry a signal-to-noise ratio above tau, at lambda."""
    if not 0 < tau < math.inf:
        raise InputError(f"tau must be positive and finite, got {tau}")
    k = torch.sqrt(math.log1p(1 / tau) / torch.as_tensor(lam, dtype=torch.float64))
    return k / (math.sqrt(2) * math.pi)


def lambda_at_resolution(resolution: float, tau: float) -> float:
    """The lambda at which the effective resolution is ``resolution`` pixels per side.

    Raises:
        InputError: resolution or tau is not positive.
    """
    if not 0 < resolution < math.inf:
        raise InputError(f"resolution must be positive and finite, got {resolution}")
    if not 0 < tau < math.inf:
        raise InputError(f"tau must be positive and finite, got {tau}")
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

    Raises:
        InputError: size < 1, or resolution, theta or tau is not positive.
    """
    if size < 1:
        raise InputError(f"size must be at least 1, got {size}")
    lam_end = lambda_at_resolution(resolution, tau)
    if not theta > 0:
        raise InputError(f"theta must be positive, got {theta}")
    return LinearSchedule(
        lambda_i=math.sqrt(2) * math.pi * (size - 1),
        lambda_f=math.sqrt(theta / lam_end),
        theta=theta,
    )


def log_linear_to_resolution(first: float, resolution: float, tau: float) -> LogLinearSchedule:
    """The log-linear schedule between two effective resolutions, in pixels per side.

    Args:
        first: resolution whose lambda is 10^lambda_i, the scale of the first steps.
        resolution: R at t = 1.
        tau: signal-to-noise ratio that counts as resolved.

    Raises:
        InputError: a resolution or tau is not positive, or ``first`` is too small.
    """
    return LogLinearSchedule(
        math.log10(lambda_at_resolution(first, tau)),
        math.log10(lambda_at_resolution(resolution, tau)),
    )
