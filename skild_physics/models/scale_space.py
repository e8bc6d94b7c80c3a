"""Scale Space Diffusion: noise and resolution fall together (arXiv 2603.08709); one level: DDPM."""

import json
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from skild_physics import kspace
from skild_physics.config import Config
from skild_physics.config.scale_space import ScaleSpaceConfig
from skild_physics.diffusion.reverse import Start
from skild_physics.diffusion.sampler import Sampler, Stochastic
from skild_physics.diffusion.scale_space import ScaleSpace
from skild_physics.diffusion.scale_space_reverse import Estimate, estimator, level_start
from skild_physics.fields.downsampling import Downsampling
from skild_physics.files import InputError
from skild_physics.models.base import Model
from skild_physics.models.objective import (
    Loss,
    Objective,
    ScaleSpaceObjective,
    field_noise,
    squared_error,
)
from skild_physics.spectrum.radial import radial_mean, shells

CLOSE = 1e-3
"""Relative difference of factors that counts as none: 64 sites are 2.286 times 28."""


@dataclass(frozen=True, eq=False, repr=False)
class ScaleSpaceModel(Model):
    """A model of Scale Space Diffusion.

    Attributes:
        space: the process.
        error_variance: of its estimate at each change of level, finest first; see
            :class:`skild_physics.diffusion.scale_space_reverse.LevelStart`.
    """

    _: KW_ONLY
    space: ScaleSpace
    error_variance: tuple[Tensor, ...] = ()

    name: ClassVar[str] = "a scale-space model"
    # errors of the deterministic sampler stay, above all those of a change of level
    default_sampler: ClassVar[Sampler] = Stochastic(40)

    @classmethod
    def own_parts(cls, config: Config, ends: tuple[int, ...] | None) -> dict[str, Any]:
        """See :meth:`Model.own_parts`."""
        return {"space": config.process.space(ends)}

    def estimate(self) -> Estimate:
        """The estimate of x_0, on the level of x_n or a finer one."""
        clip = self._chain.clip
        return estimator(self.output, self.space, self.config.training.prediction, clip)

    @property
    def _chain(self) -> ScaleSpaceConfig:
        process = self.config.process
        assert isinstance(process, ScaleSpaceConfig)
        return process

    def start(self, n: float, level: int, given_level: int | None, gain: float = 1.0) -> Start:
        """See :func:`skild_physics.diffusion.scale_space_reverse.level_start`."""
        device = self.process.S0.device
        return level_start(
            self.space,
            self.estimate(),
            n,
            level,
            given_level,
            error_variance=self.error_variance,
            ends_at=self._chain.ends_at,
            device=device,
            gain=gain,
        )

    def prior(self, L: int) -> Start:
        """See :meth:`Model.prior`."""
        if self.size != L:
            raise InputError(f"`L`: a scale-space model makes {self.size} x {self.size}, got {L}")
        return self.start(float(self.space.T), len(self.space.sizes) - 1, None)

    def _level(self, M: int, factor: float, is_coarse: bool) -> int:
        """The level of fields ``factor`` times coarser, from fields of side M."""
        sizes = self.space.sizes
        offered = [sizes[0] / side for side in sizes[1:]]
        levels = [i for i, each in enumerate(offered, 1) if abs(factor / each - 1) < CLOSE]
        if not levels:
            raise InputError(
                f"this scale-space model has levels for the factors "
                f"{', '.join(f'{each:g}' for each in offered) or 'none (DDPM)'}, got {factor:g}"
            )
        level = levels[0]
        side = sizes[level] if is_coarse else sizes[0]
        if side != M:
            raise InputError(
                f"this scale-space model takes fields of {side} x {side} at the factor "
                f"{factor:g} here, got {M} x {M}"
            )
        return level

    def diffused(self, M: int, factor: float) -> Start:
        """See :meth:`Model.diffused`: it goes on from the level of size N / factor."""
        level = self._level(M, factor, is_coarse=False)
        return self.start(float(self.space.first(level)), level, 0)

    def observed(self, M: int, factor: float, kernel: Downsampling | None) -> Start:
        """See :meth:`Model.observed`."""
        level, degradation = self._level(M, factor, is_coarse=True), self.space.degradation
        own = "spectral" if degradation == "crop" else degradation
        if kernel not in (None, own):
            raise InputError(
                f"this scale-space model was trained on fields coarse-grained by {own}, not "
                f"{kernel}"
            )
        # a crop keeps the amplitudes of modes, coarse-grained fields those of pixels
        gain = factor if degradation == "crop" else 1.0
        return self.start(float(self.space.first(level)), level, level, gain)

    def objective(self, loss: Loss = squared_error) -> Objective:
        """See :meth:`Model.objective`."""
        return ScaleSpaceObjective(self.space, self.config.training, loss)

    def errors(self) -> tuple[Tensor, ...]:
        """See :meth:`Model.errors`."""
        return self.error_variance

    def about(self) -> dict[str, Any]:
        """See :meth:`Model.about`."""
        if not self._chain.changes_level:
            return {}
        return {"x0_at_changes": "drawn" if self.error_variance else "estimate"}

    def extra_header(self) -> dict[str, str]:
        """See :meth:`Model.extra_header`."""
        return {"ends": json.dumps(self.space.ends)}

    @property
    def extra_evals(self) -> int:
        """See :attr:`Model.extra_evals`."""
        return 3 * len(self.space.sizes)

    @torch.no_grad()
    def calibrated(self, heldout: Tensor, batch_size: int) -> Self:
        """The model with the error of its estimate at each change of level, mode by mode.

        The mean is over fields and over modes that the symmetries of the square make alike.

        Args:
            heldout: fields that were not trained on, shape (sample, C, N, N).
            batch_size: fields at a time.
        """
        if not self._chain.draw:
            return self
        space, device = self.space, self.process.S0.device
        estimate, found = self.estimate(), []
        for level in range(len(space.sizes) - 1):
            n, side = float(space.first(level + 1)), space.sizes[level]
            alpha, sigma = (float(c[0, 0]) for c in space.modes[level].marginal(n))
            total = torch.zeros(side, side, dtype=torch.float64)
            for first in range(0, len(heldout), batch_size):
                wanted = space.degraded(heldout[first : first + batch_size].to(device), level)
                coarse = space.resizes[level].apply(wanted)
                seeds = range(first, first + len(wanted))
                eps = field_noise(seeds, coarse.shape[1:], device)
                away = estimate(alpha * coarse + sigma * eps, n, side) - wanted
                modes = kspace.forward(away.double(), space.basis).cpu()
                total += modes.square().mean(dim=1).sum(dim=0)
            mean = radial_mean((total / len(heldout)).numpy(), space.basis, "lattice")
            found.append(torch.as_tensor(mean[shells(side, space.basis, "lattice").of_mode]))
        return replace(self, error_variance=tuple(found))
