"""Models that are conditioned on a coarse field; with a white process this is SR3.

SR3 (Saharia et al., arXiv 2104.07636),

    x_n = sqrt(abar_n) x_0 + sqrt(1 - abar_n) eps,    eps ~ N(0, 1) per site,

is the process of this package with S0 = 1 and one k_eff for all modes, so every sampler here serves
it, too. All scales are destroyed together; what is known of the coarse ones, a field y of M x M
pixels, conditions the network instead: f(x_n, c, lambda) with

    c = U y U^T,

the bicubic interpolation of y on the full lattice (around the torus in the periodic basis), as
further channels of its input. The reversed process starts from noise, whatever y is. One network
serves one factor N / M, the one it was trained for.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from skild_physics.config.training import ConditionConfig
from skild_physics.diffusion.noise import Noise
from skild_physics.diffusion.prediction import Denoiser, denoiser
from skild_physics.diffusion.reverse import Start
from skild_physics.fields.downsampling import Downsampling, downsample
from skild_physics.files import InputError
from skild_physics.kspace import Basis
from skild_physics.models.base import Model
from skild_physics.models.objective import Loss, Objective, SkildObjective, squared_error

# sites that the cubic kernel reaches
_REACH = 2


def interpolated(coarse: Tensor, factor: int, basis: Basis) -> Tensor:
    """Bicubic interpolation (Keys' kernel, a = -0.75) on a lattice ``factor`` times finer.

    Args:
        coarse: fields (B, C, M, M).
        factor: ratio of the sides.
        basis: "periodic" goes on around the torus, "cosine" repeats the outermost pixels.

    Returns:
        Fields (B, C, factor M, factor M).
    """
    padding = (_REACH,) * 4
    mode = "circular" if basis == "periodic" else "replicate"
    wide = F.interpolate(F.pad(coarse, padding, mode=mode), scale_factor=factor, mode="bicubic")
    edge = _REACH * factor
    return wide[..., edge:-edge, edge:-edge]


def coarse_part(fields: Tensor, factor: int, downsampling: Downsampling, basis: Basis) -> Tensor:
    """The conditioning of full fields (B, C, N, N): made coarse, and interpolated again."""
    coarse = downsample(fields, downsampling, fields.shape[-1] // factor, basis)
    return interpolated(coarse, factor, basis)


@dataclass(frozen=True, eq=False)
class ConditionalStart(Start):
    """Noise, with the conditioning on coarse fields, which is what it shows of the start."""

    factor: int = 1
    downsampling: Downsampling | None = None

    def coarse(self, given: Tensor) -> Tensor:
        """The coarse fields: given, or made of full ones."""
        if self.downsampling is None:
            return given.float()
        M = self.process.N // self.factor
        return downsample(given.float(), self.downsampling, M, self.process.basis)

    def shown(self, x: Tensor, given: Tensor) -> Tensor:
        """The conditioning."""
        return interpolated(self.coarse(given), self.factor, self.process.basis).cpu()

    def check_states(self) -> None:
        """See :meth:`Start.check_states`."""
        raise InputError(
            "`start`: a conditional model starts from white noise, and shows its conditioning"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Conditional(Model):
    """A model conditioned on coarse fields, one factor coarser and made in one way."""

    name: ClassVar[str] = "a conditional model"

    @property
    def condition(self) -> ConditionConfig:
        """The factor, and how fields are made coarse."""
        condition = self.config.condition
        assert isinstance(condition, ConditionConfig)
        return condition

    def denoiser(self, conditioning: Tensor) -> Denoiser:
        """The estimate of x_0 that is conditioned on fields (B, C, N, N)."""

        def network(x: Tensor, lam: Tensor) -> Tensor:
            return self.output(torch.cat([x, conditioning], dim=1), lam)

        return denoiser(network, self.process, self.config.training.prediction)

    def _start(self, M: int, side: int, factor: float, downsampling: Downsampling | None) -> Start:
        own, process = self.condition, self.process
        if factor != own.factor:
            raise InputError(
                f"this model is conditional and serves the factor {own.factor} only, got {factor:g}"
            )
        if side != M:
            raise InputError(
                f"this model is conditional and takes fields of {side} x {side} here, got {M} x {M}"
            )
        root = process.S0.sqrt().float()

        def draw(given: Tensor, noise: Noise) -> tuple[Tensor, Denoiser]:
            if given.shape[-2:] != (side, side):
                raise InputError(
                    f"the fields are {given.shape[-2]} x {given.shape[-1]}, the model takes "
                    f"{side} x {side}"
                )
            y = start.coarse(given).to(root)
            conditioning = interpolated(y, own.factor, process.basis)
            return root * noise.like(conditioning), self.denoiser(conditioning)

        start = ConditionalStart(
            process,
            float(process.T),
            process.N / own.factor,
            draw,
            factor=own.factor,
            downsampling=downsampling,
        )
        return start

    def diffused(self, M: int, factor: float) -> Start:
        """See :meth:`Model.diffused`; fields are made coarse as in training, not diffused."""
        return self._start(M, self.process.N, factor, self.condition.downsampling)

    def observed(self, M: int, factor: float, kernel: Downsampling | None) -> Start:
        """See :meth:`Model.observed`."""
        own = self.condition
        start = self._start(M, self.process.N // own.factor, factor, None)
        if kernel not in (None, own.downsampling):
            raise InputError(
                f"this model was trained on fields coarse-grained by {own.downsampling}, not "
                f"{kernel}"
            )
        return start

    def objective(self, loss: Loss = squared_error) -> Objective:
        """See :meth:`Model.objective`."""
        own = self.condition
        conditioning = partial(
            coarse_part, factor=own.factor, downsampling=own.downsampling, basis=self.basis
        )
        return SkildObjective(self.process, self.config.training, conditioning, loss)

    def preview_start(self) -> Start:
        """See :meth:`Model.preview_start`."""
        return self.diffused(self.size, self.condition.factor)
