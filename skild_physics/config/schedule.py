"""The part of a configuration that describes the schedule of a process."""

from typing import Literal

from pydantic import Field, PositiveFloat, model_validator

from skild_physics.config.section import Section
from skild_physics.diffusion.betas import BetaSchedule, cosine_betas, linear_betas
from skild_physics.diffusion.process import white_k_c
from skild_physics.diffusion.schedule import (
    LinearBetaSchedule,
    LinearSchedule,
    LogLinearSchedule,
    Schedule,
    linear_to_resolution,
)
from skild_physics.files import InputError


class LinearConfig(Section):
    """lambda(t) = theta t / (lambda_i (1 - t) + lambda_f)^2."""

    kind: Literal["linear"] = "linear"
    theta: PositiveFloat = 9.0
    resolution: PositiveFloat | None = None
    """Effective resolution at t = 1, in pixels per side; sets lambda_i and lambda_f."""
    lambda_i: PositiveFloat | None = None
    lambda_f: PositiveFloat | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "LinearConfig":
        explicit = (self.lambda_i is not None) + (self.lambda_f is not None)
        if (self.resolution is None) != (explicit == 2) or explicit == 1:
            raise InputError("give either resolution, or both lambda_i and lambda_f")
        return self

    def build(self, N: int, snr: float) -> Schedule:
        """The schedule for N x N fields, given the signal-to-noise ratio that is resolved."""
        if self.resolution is not None:
            return linear_to_resolution(N, self.resolution, self.theta, snr)
        assert self.lambda_i is not None
        assert self.lambda_f is not None
        return LinearSchedule(self.lambda_i, self.lambda_f, self.theta)


class LogLinearConfig(Section):
    """lambda(t) = t 10^(lambda_i + (lambda_f - lambda_i) t)."""

    kind: Literal["log-linear"]
    lambda_i: float
    lambda_f: float

    def build(self, N: int, snr: float) -> Schedule:
        """The schedule, the same for every N."""
        return LogLinearSchedule(self.lambda_i, self.lambda_f)


class LinearBetaConfig(Section):
    """-ln abar = beta_0 t + (beta_1 - beta_0) t^2 / 2 of every mode, for white processes."""

    kind: Literal["linear-beta"]
    beta_0: float = Field(default=0.002, ge=0)
    """T beta of the first step; the defaults are those of SR3."""
    beta_1: PositiveFloat = 20.0
    """T beta of the last step."""

    def build(self, N: int, snr: float) -> Schedule:
        """The schedule for N x N fields all of whose modes are attenuated like the highest."""
        return self.exponent(1).scaled(1 / white_k_c(N) ** 2)

    def exponent(self, T: int) -> Schedule:
        """-ln abar as a function of t, the same for any number of steps T."""
        return LinearBetaSchedule(self.beta_0, self.beta_1)


class BetasConfig(Section):
    """abar as the product of 1 - beta over whole steps, as guided diffusion has it."""

    kind: Literal["betas"]
    betas: Literal["linear", "cosine"] = "linear"
    """linear: from 0.1 / T to 20 / T; cosine: those of arXiv 2102.09672."""

    def exponent(self, T: int) -> Schedule:
        """-ln abar as a function of t, for T steps."""
        return BetaSchedule(linear_betas(T) if self.betas == "linear" else cosine_betas(T))
