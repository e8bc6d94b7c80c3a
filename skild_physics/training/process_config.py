"""The part of a configuration that describes the forward process."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from skild_physics.diffusion.process import white_k_c
from skild_physics.diffusion.resize import Degradation
from skild_physics.diffusion.scalespace import SMALLEST, level_ends
from skild_physics.diffusion.schedule import (
    LinearBetaSchedule,
    LinearSchedule,
    LogLinearSchedule,
    Schedule,
    linear_to_resolution,
)
from skild_physics.files import InputError
from skild_physics.kspace import Basis


class Section(BaseModel):
    """A table of the configuration: unknown keys are errors, with the nearest known one named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        unknown = [key for key in values if key not in cls.model_fields] if values else []
        if isinstance(values, dict) and unknown:
            raise InputError("; ".join(_unknown(key, list(cls.model_fields)) for key in unknown))
        return values


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"no key {key!r}, " + (f"did you mean {near[0]!r}?" if near else f"only {known}")


def kind_or(default: str) -> Discriminator:
    """Tells the members of a union apart by their kind, which may be left out of the default."""

    def kind(values: Any) -> str:
        return str(values.get("kind", default) if isinstance(values, dict) else values.kind)

    return Discriminator(kind)


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

    def build(self, N: int, tau: float) -> Schedule:
        """The schedule for N x N fields."""
        if self.resolution is not None:
            return linear_to_resolution(N, self.resolution, self.theta, tau)
        assert self.lambda_i is not None
        assert self.lambda_f is not None
        return LinearSchedule(self.lambda_i, self.lambda_f, self.theta)


class LogLinearConfig(Section):
    """lambda(t) = t 10^(lambda_i + (lambda_f - lambda_i) t)."""

    kind: Literal["log-linear"]
    lambda_i: float
    lambda_f: float

    def build(self, N: int, tau: float) -> Schedule:
        """The schedule, the same for every N."""
        return LogLinearSchedule(self.lambda_i, self.lambda_f)


class LinearBetaConfig(Section):
    """-ln abar = beta_0 t + (beta_1 - beta_0) t^2 / 2 of every mode, for white processes."""

    kind: Literal["linear-beta"]
    beta_0: float = Field(default=0.002, ge=0)
    """T beta of the first step; the defaults are those of SR3."""
    beta_1: PositiveFloat = 20.0
    """T beta of the last step."""

    def build(self, N: int, tau: float) -> Schedule:
        """The schedule for N x N fields all of whose modes are attenuated like the highest."""
        return self.exponent().scaled(1 / white_k_c(N) ** 2)

    def exponent(self) -> Schedule:
        """-ln abar as a function of t."""
        return LinearBetaSchedule(self.beta_0, self.beta_1)


class WhiteConfig(Section):
    """S0 = 1 for every orthonormal mode, all modes attenuated alike: the process of DDPM."""

    size: PositiveInt
    """Pixels per side of the fields that it is for."""
    basis: Basis


class LawConfig(Section):
    """S0(k) = C (k^2 + k0_squared)^(-alpha), in the normalisation of the paper."""

    size: PositiveInt
    """Pixels per side of the fields that it is for."""
    C: PositiveFloat
    k0_squared: PositiveFloat
    alpha: PositiveFloat
    basis: Basis


class ProcessConfig(Section):
    """The forward process of SKILD."""

    kind: Literal["skild"] = "skild"
    spectrum: Path | None = None
    """Spectrum written by fit-spectrum; sets S0 and the basis."""
    spectrum_kind: Literal["measured", "fit"] = "measured"
    """S0 from the measured radial profile, or from the fitted law."""
    law: LawConfig | None = None
    """S0 and basis without a file, for published models."""
    white: WhiteConfig | None = None
    """White noise, for the baselines."""
    schedule: Annotated[
        LinearConfig | LogLinearConfig | LinearBetaConfig, Field(discriminator="kind")
    ]
    tau: PositiveFloat = 0.1
    """Signal-to-noise ratio that counts as resolved."""
    k_c: float = Field(default=0.0, ge=0)
    """Modes below k_c are attenuated like k_c, in radians per box side."""
    T: PositiveInt = 1000

    @model_validator(mode="after")
    def _one_spectrum(self) -> "ProcessConfig":
        if sum(given is not None for given in (self.spectrum, self.law, self.white)) != 1:
            raise InputError("give one of spectrum, a file of fit-spectrum, law, and white")
        if (self.white is not None) != isinstance(self.schedule, LinearBetaConfig):
            raise InputError("white goes with schedule.kind = 'linear-beta', and no other does")
        return self


class ConvexDecayConfig(Section):
    """level = floor(K (1 - (1 - tau)^gamma)), the published schedule of levels."""

    kind: Literal["convex-decay"] = "convex-decay"
    gamma: PositiveFloat = 0.5
    """Below 1 the finest level has the most steps; 1: all have the same number."""


class SpectrumLevelsConfig(Section):
    """A level ends where the first mode that the next one lacks is lost in the noise."""

    kind: Literal["spectrum"]
    file: Path
    """Spectrum written by fit-spectrum."""
    tau: PositiveFloat = 0.1
    """Signal-to-noise ratio that counts as lost."""


class StepLevelsConfig(Section):
    """Levels that end at given steps."""

    kind: Literal["steps"]
    ends: tuple[PositiveInt, ...]
    """Last step of each level, finest first; that of the coarsest is T."""


class ScaleSpaceConfig(Section):
    """The forward process of Scale Space Diffusion; with one level, DDPM."""

    kind: Literal["scale-space"]
    size: PositiveInt
    """Pixels per side of the fields that it is for."""
    basis: Basis
    """periodic: kernels go around the torus; cosine: they are cut at the edges."""
    factors: tuple[Annotated[int, Field(ge=2)], ...]
    """Ratio of the sides of each level and the next, finest first; none: DDPM."""
    degradation: Degradation = "bilinear"
    """How one level is made of the one above."""
    levels: Annotated[
        Annotated[ConvexDecayConfig, Tag("convex-decay")]
        | Annotated[SpectrumLevelsConfig, Tag("spectrum")]
        | Annotated[StepLevelsConfig, Tag("steps")],
        kind_or("convex-decay"),
    ] = ConvexDecayConfig()
    schedule: LinearBetaConfig = LinearBetaConfig(kind="linear-beta", beta_0=0.1, beta_1=20.0)
    """-ln abar; by default the published betas, 1e-4 to 0.02 over 1000 steps."""
    T: PositiveInt = 1000

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side of each level, finest first."""
        sides = [self.size]
        for factor in self.factors:
            if sides[-1] % factor:
                raise InputError(
                    f"factors {list(self.factors)}: {factor} does not divide the side {sides[-1]}"
                )
            sides.append(sides[-1] // factor)
        return tuple(sides)

    @model_validator(mode="after")
    def _fitting(self) -> "ScaleSpaceConfig":
        if self.sizes[-1] < SMALLEST:
            raise InputError(
                f"factors {list(self.factors)} leave {self.sizes[-1]} x {self.sizes[-1]} of "
                f"{self.size} x {self.size}, and levels must be at least {SMALLEST} x {SMALLEST}"
            )
        count = len(self.sizes)
        if isinstance(self.levels, StepLevelsConfig):
            ends = self.levels.ends
            if len(ends) != count or ends[-1] != self.T or list(ends) != sorted(set(ends)):
                raise InputError(
                    f"levels.ends must be {count} growing steps, the last T = {self.T}, got "
                    f"{list(ends)}"
                )
        elif isinstance(self.levels, ConvexDecayConfig):
            level_ends(count, self.T, self.levels.gamma)
        return self


AnyProcessConfig = Annotated[
    Annotated[ProcessConfig, Tag("skild")] | Annotated[ScaleSpaceConfig, Tag("scale-space")],
    kind_or("skild"),
]
