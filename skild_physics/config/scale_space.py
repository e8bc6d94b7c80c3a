"""The part of a configuration that describes Scale Space Diffusion and, with one level, DDPM."""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt, Tag, model_validator
from torch import Tensor

from skild_physics.config.network import AnyNetwork
from skild_physics.config.process import AnyProcess
from skild_physics.config.schedule import BetasConfig, LinearBetaConfig
from skild_physics.config.section import MOST_LEVELS, Section, Side, Steps, kind_or
from skild_physics.config.training import AnyCondition, TrainingConfig
from skild_physics.diffusion.process import Process, white_k_c
from skild_physics.diffusion.resize import Degradation
from skild_physics.diffusion.scale_space import (
    SMALLEST,
    Decay,
    ScaleSpace,
    level_ends,
    level_ends_of_spectrum,
)
from skild_physics.files import InputError
from skild_physics.kspace import Basis
from skild_physics.spectrum import Spectrum


class DecayConfig(Section):
    """The published schedules of levels, see :mod:`skild_physics.diffusion.scale_space`."""

    kind: Decay = "convex-decay"
    gamma: PositiveFloat = 0.5
    """Of convex-decay: below 1 the finest level has the most steps; 1: all have the same number. Of
    sigmoid and tanh: 1 or more."""

    def check(self, process: "ScaleSpaceConfig") -> None:
        """Refuse levels without a step."""
        self.last_steps(process)

    def last_steps(self, process: "ScaleSpaceConfig") -> tuple[int, ...]:
        """Last step of each level, finest first."""
        return level_ends(len(process.sizes), process.T, self.gamma, self.kind)


class SpectrumLevelsConfig(Section):
    """A level ends where the first mode that the next one lacks is lost in the noise."""

    _RENAMED: ClassVar[dict[str, str]] = {"tau": "snr"}

    kind: Literal["spectrum"]
    file: Path
    """Spectrum written by fit-spectrum."""
    snr: PositiveFloat = 0.1
    """Signal-to-noise ratio that counts as lost."""

    def check(self, process: "ScaleSpaceConfig") -> None:
        """Nothing is known before the file is read."""

    def last_steps(self, process: "ScaleSpaceConfig") -> tuple[int, ...]:
        """Last step of each level, finest first.

        Raises:
            InputError: the file is missing, or its spectrum is of other fields.
        """
        spectrum = Spectrum.load(self.file)
        S0 = torch.as_tensor(spectrum.per_mode("measured"))
        if (len(S0), spectrum.basis) != (process.size, process.basis):
            raise InputError(
                f"{self.file} is for N = {len(S0)} in the {spectrum.basis} basis, the "
                f"process for {process.size} in the {process.basis} one"
            )
        schedule = process.schedule.exponent(process.T)
        return level_ends_of_spectrum(
            S0, process.basis, process.sizes, schedule, self.snr, process.T
        )


class StepLevelsConfig(Section):
    """Levels that end at given steps."""

    kind: Literal["steps"]
    ends: tuple[PositiveInt, ...]
    """Last step of each level, finest first; that of the coarsest is T."""

    def check(self, process: "ScaleSpaceConfig") -> None:
        """Refuse steps that are not those of the process.

        Raises:
            InputError: not one for each level, not growing, or not ending at T.
        """
        ends, count = self.ends, len(process.sizes)
        if len(ends) != count or ends[-1] != process.T or list(ends) != sorted(set(ends)):
            raise InputError(
                f"levels.ends must be {count} growing steps, the last T = {process.T}, got "
                f"{list(ends)}"
            )

    def last_steps(self, process: "ScaleSpaceConfig") -> tuple[int, ...]:
        """Last step of each level, finest first."""
        return self.ends


class ScaleSpaceConfig(AnyProcess):
    """The forward process of Scale Space Diffusion; with one level, DDPM."""

    snr: ClassVar[float] = 0.1
    """Signal-to-noise ratio that counts as resolved."""

    kind: Literal["scale-space"]
    size: Side
    """Pixels per side of the fields that it is for."""
    basis: Basis
    """periodic: kernels go around the torus; cosine: they are cut at the edges."""
    factors: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(max_length=MOST_LEVELS)] = ()
    """Ratio of the sides of each level and the next, finest first; none: DDPM."""
    coarse_sides: Annotated[tuple[Side, ...], Field(max_length=MOST_LEVELS)] = ()
    """Sides of the levels below the finest, in place of factors where these are no whole numbers:
    multiples of what the network takes, such as 40 and 28 of 64."""
    degradation: Degradation = "bilinear"
    """How one level is made of the one above."""
    levels: Annotated[
        Annotated[DecayConfig, Tag("convex-decay")]
        | Annotated[DecayConfig, Tag("sigmoid")]
        | Annotated[DecayConfig, Tag("tanh")]
        | Annotated[SpectrumLevelsConfig, Tag("spectrum")]
        | Annotated[StepLevelsConfig, Tag("steps")],
        kind_or("convex-decay"),
    ] = DecayConfig()
    schedule: Annotated[LinearBetaConfig | BetasConfig, Field(discriminator="kind")] = (
        LinearBetaConfig(kind="linear-beta", beta_0=0.1, beta_1=20.0)
    )
    """-ln abar; by default the limit of many steps of the published betas."""
    T: Steps = 1000
    change_takes: Literal[0, 1] = 0
    """Steps that a change of level takes: none, or, as published, one, from n + 1 to n."""
    ends_at: Literal[0, 1] = 0
    """Step at which sampling ends: at 0 with the estimate of x_0, or, as published, with x_1."""
    clip: bool = False
    """Clip estimates of x_0 to [-1, 1], as published."""
    draw: bool = True
    """Draw x_0 at changes of level with the variance of the error of its estimate, which is
    measured after the training; published models put the estimate in as it is."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side of each level, finest first."""
        sides = [self.size, *self.coarse_sides]
        for factor in self.factors:
            if sides[-1] % factor:
                raise InputError(
                    f"factors {list(self.factors)}: {factor} does not divide the side {sides[-1]}"
                )
            sides.append(sides[-1] // factor)
        return tuple(sides)

    @model_validator(mode="after")
    def _fitting(self) -> "ScaleSpaceConfig":
        if self.factors and self.coarse_sides:
            raise InputError("give factors or coarse_sides, not both")
        if any(M >= N for N, M in pairwise(self.sizes)):
            raise InputError(f"coarse_sides must fall from {self.size}, got {self.coarse_sides}")
        if self.sizes[-1] < SMALLEST:
            raise InputError(
                f"factors or coarse_sides leave {self.sizes[-1]} x {self.sizes[-1]} of "
                f"{self.size} x {self.size}, and levels must be at least {SMALLEST} x {SMALLEST}"
            )
        self.levels.check(self)
        self.schedule.exponent(self.T)
        return self

    def modes(self) -> tuple[Tensor, Basis]:
        """See :meth:`AnyProcess.modes`."""
        return torch.ones(self.size, self.size, dtype=torch.float64), self.basis

    def build(self, S0: Tensor, basis: Basis) -> Process:
        """See :meth:`AnyProcess.build`."""
        N = S0.shape[-1]
        k_c = white_k_c(N)
        schedule = self.schedule.exponent(self.T).scaled(1 / k_c**2)
        return Process(S0, schedule, basis, k_c, self.T)

    def space(self, ends: tuple[int, ...] | None = None) -> ScaleSpace:
        """See :meth:`AnyProcess.space`."""
        ends = self.levels.last_steps(self) if ends is None else ends
        schedule = self.schedule.exponent(self.T)
        return ScaleSpace(
            self.sizes, ends, schedule, self.degradation, self.basis, self.change_takes
        )

    @property
    def changes_level(self) -> bool:
        """Whether fields get smaller as they get noisier."""
        return len(self.sizes) > 1

    def sides(self, N: int) -> tuple[int, ...]:
        """See :meth:`AnyProcess.sides`."""
        return self.sizes

    def check(
        self, network: AnyNetwork, training: TrainingConfig, condition: AnyCondition | None
    ) -> None:
        """See :meth:`AnyProcess.check`."""
        others = {
            "condition": condition is not None,
            "training.snr_threshold": training.snr_threshold is not None,
            "training.shell_weight": training.shell_weight,
            "training.timesteps = 'second-moment'": training.timesteps != "uniform",
            "network.whitened": network.needs_spectrum,
        }
        for name in (name for name, given in others.items() if given):
            raise InputError(f"{name} goes with process.kind = 'skild', not with 'scale-space'")
        if self.changes_level and not network.takes_levels:
            raise InputError(
                f"network.kind = {network.kind!r} takes one level; several need 'flexi' or 'guided'"
            )
        if self.changes_level and training.prediction not in ("x0", "v"):
            raise InputError(
                f"training.prediction = {training.prediction!r}: changes of level need 'x0' or 'v'"
            )

    def unread(self) -> dict[str, str]:
        """See :meth:`AnyProcess.unread`."""
        if self.changes_level:
            return {}
        return dict.fromkeys(("degradation", "levels", "change_takes", "draw"), "process.factors")
