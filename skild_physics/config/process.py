"""The part of a configuration that describes the forward process: any, and that of SKILD."""

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor

from skild_physics import kspace
from skild_physics.config.network import AnyNetwork
from skild_physics.config.schedule import LinearBetaConfig, LinearConfig, LogLinearConfig
from skild_physics.config.section import Section, Side, Steps
from skild_physics.config.training import AnyCondition, TrainingConfig
from skild_physics.diffusion.process import Process, white_k_c
from skild_physics.diffusion.scale_space import ScaleSpace
from skild_physics.files import InputError
from skild_physics.kspace import Basis
from skild_physics.spectrum import PowerLaw, Spectrum


class AnyProcess(Section):
    """A kind of forward process, and what a run can ask of it."""

    kind: str

    @abstractmethod
    def modes(self) -> tuple[Tensor, Basis]:
        """Variance of every orthonormal mode, float64 (N, N), and the basis.

        Raises:
            InputError: the file is missing or not a spectrum.
        """

    @abstractmethod
    def build(self, S0: Tensor, basis: Basis) -> Process:
        """The process of full fields, for a spectrum of orthonormal modes (N, N)."""

    def space(self, ends: tuple[int, ...] | None = None) -> ScaleSpace | None:
        """The process of Scale Space Diffusion, if it is one.

        Args:
            ends: last step of every level, where these are known already.

        Raises:
            InputError: no such levels, or a spectrum that is missing or of other fields.
        """
        return None

    @property
    def is_white(self) -> bool:
        """Whether all modes are attenuated alike, so that none is lost before the others."""
        return True

    @property
    def is_measured(self) -> bool:
        """Whether S0 is the spectrum of fields, or a law fitted to it, and no formula."""
        return False

    @property
    def changes_level(self) -> bool:
        """Whether fields get smaller as they get noisier."""
        return False

    @property
    def name(self) -> str:
        """What to call it when it does not fit."""
        return "the process"

    @abstractmethod
    def check(
        self, network: AnyNetwork, training: TrainingConfig, condition: AnyCondition | None
    ) -> None:
        """Refuse networks and options that do not go with this process.

        Raises:
            InputError: naming the option.
        """

    def sides(self, N: int) -> tuple[int, ...]:
        """Side of N x N fields on every level, finest first."""
        return (N,)

    def unread(self) -> dict[str, str]:
        """Keys that a run does not read, each with the key that would make it do so."""
        return {}


class WhiteConfig(Section):
    """S0 = 1 for every orthonormal mode, all modes attenuated alike: the process of DDPM."""

    size: Side
    """Pixels per side of the fields that it is for."""
    basis: Basis

    def modes(self) -> tuple[Tensor, Basis]:
        """See :meth:`AnyProcess.modes`."""
        return torch.ones(self.size, self.size, dtype=torch.float64), self.basis


class LawConfig(Section):
    """S0(k) = C (k^2 + k0_squared)^(-alpha), in the normalisation of the paper."""

    size: Side
    """Pixels per side of the fields that it is for."""
    C: PositiveFloat
    k0_squared: PositiveFloat
    alpha: PositiveFloat
    basis: Basis

    def modes(self) -> tuple[Tensor, Basis]:
        """See :meth:`AnyProcess.modes`."""
        k = kspace.wavenumbers(self.size, self.basis)
        factor = kspace.normalization_factor(self.size, self.basis)
        law = PowerLaw(self.C, self.k0_squared, self.alpha)
        return torch.as_tensor(law(k) / factor**2), self.basis


class SkildConfig(AnyProcess):
    """The forward process of SKILD."""

    _RENAMED: ClassVar[dict[str, str]] = {"tau": "snr"}

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
    snr: PositiveFloat = 0.1
    """Signal-to-noise ratio that counts as resolved."""
    k_c: float = Field(default=0.0, ge=0)
    """Modes below k_c are attenuated like k_c, in radians per box side."""
    T: Steps = 1000
    floor: PositiveFloat = 1e-6
    """Smallest sqrt(abar) that an estimate of x_0 divides by, from predictions of eps and xprev."""

    @model_validator(mode="after")
    def _one_spectrum(self) -> "SkildConfig":
        if sum(given is not None for given in (self.spectrum, self.law, self.white)) != 1:
            raise InputError("give one of spectrum, a file of fit-spectrum, law, and white")
        if (self.white is not None) != (self.schedule.kind == "linear-beta"):
            raise InputError("white goes with schedule.kind = 'linear-beta', and no other does")
        return self

    def modes(self) -> tuple[Tensor, Basis]:
        """See :meth:`AnyProcess.modes`."""
        formula = self.white or self.law
        if formula is not None:
            return formula.modes()
        assert self.spectrum is not None
        spectrum = Spectrum.load(self.spectrum)
        return torch.as_tensor(spectrum.per_mode(self.spectrum_kind)), spectrum.basis

    def build(self, S0: Tensor, basis: Basis) -> Process:
        """See :meth:`AnyProcess.build`."""
        N = S0.shape[-1]
        k_c = white_k_c(N) if self.is_white else self.k_c
        return Process(S0, self.schedule.build(N, self.snr), basis, k_c, self.T, self.floor)

    @property
    def is_white(self) -> bool:
        """Whether all modes are attenuated alike, so that none is lost before the others."""
        return self.white is not None

    @property
    def is_measured(self) -> bool:
        """Whether S0 is the spectrum of fields, or a law fitted to it, and no formula."""
        return self.spectrum is not None

    @property
    def name(self) -> str:
        """What to call it when it does not fit."""
        return str(self.spectrum or super().name)

    def check(
        self, network: AnyNetwork, training: TrainingConfig, condition: AnyCondition | None
    ) -> None:
        """See :meth:`AnyProcess.check`."""
        for name in training.snr_weights:
            raise InputError(f"training.{name}: goes with process.kind = 'scale-space'")
        if training.snr_threshold is not None and condition is not None and not condition.optional:
            raise InputError("training.snr_threshold: is for fields without a coarse one")
        if training.timesteps != "uniform" and condition is not None and condition.fixed_steps:
            raise InputError("condition.factors: needs training.timesteps = 'uniform'")
        if training.snr_threshold is not None and self.is_white:
            raise InputError("training.snr_threshold: a white process has no scale to leave out")

    def unread(self) -> dict[str, str]:
        """See :meth:`AnyProcess.unread`."""
        return ({} if self.spectrum else {"spectrum_kind": "process.spectrum"}) | (
            {"k_c": "process.spectrum or process.law"} if self.is_white else {}
        )
