"""Schedules of whole steps, as guided diffusion has them: abar_n is the product of 1 - beta.

    linear    beta grows linearly from 0.1 / T to 20 / T (arXiv 2006.11239)
    cosine    abar_n = f(n / T) / f(0), f(t) = cos^2(pi/2 (t + 0.008) / 1.008), with no beta above
              0.999 (arXiv 2102.09672)

Between whole steps -ln abar is linear. :class:`skild_physics.diffusion.schedule.LinearBetaSchedule`
is the limit of many steps of the first; with 1000 its abar_T is 7 % larger.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from skild_physics.diffusion.schedule import as_lambda, as_time
from skild_physics.files import InputError

_MOST = 0.999


def linear_betas(T: int) -> tuple[float, ...]:
    """beta of every step, the first one first."""
    return tuple(np.linspace(0.1 / T, 20 / T, T).tolist())


def cosine_betas(T: int) -> tuple[float, ...]:
    """beta of every step, the first one first."""
    f = np.cos(np.pi / 2 * (np.arange(T + 1) / T + 0.008) / 1.008) ** 2
    return tuple(np.minimum(1 - f[1:] / f[:-1], _MOST).tolist())


@dataclass(frozen=True)
class BetaSchedule:
    """lambda(n / T) = -factor sum over i <= n of ln(1 - beta_i), linear between whole steps n.

    Raises:
        InputError: a beta that does not lie between 0 and 1, or a factor that is not positive.
    """

    betas: tuple[float, ...]
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not self.betas or not all(0 < beta < 1 for beta in self.betas):
            raise InputError(
                f"betas must lie between 0 and 1, got {max(self.betas, default=0):g} of "
                f"{len(self.betas)} steps"
            )
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise InputError(f"factor must be positive, got {self.factor}")

    @cached_property
    @torch.inference_mode(False)
    def _reached(self) -> Tensor:
        """lambda at whole steps 0..T, shape (T + 1,)."""
        u = np.cumsum(-np.log1p(-np.array(self.betas)))
        return torch.as_tensor(self.factor * np.concatenate([[0.0], u]))

    def lam(self, t: Tensor | float) -> Tensor:
        """lambda at times t in [0, 1], in float64, any shape."""
        n = as_time(t) * len(self.betas)
        i = n.long().clamp(max=len(self.betas) - 1)
        reached = self._reached.to(n.device)
        return reached[i] + (n - i) * (reached[i + 1] - reached[i])

    def rate(self, t: Tensor | float) -> Tensor:
        """d lambda / dt at times t in [0, 1], that of the step which follows, any shape."""
        T = len(self.betas)
        i = (as_time(t) * T).long().clamp(max=T - 1)
        reached = self._reached.to(i.device)
        return T * (reached[i + 1] - reached[i])

    def time(self, lam: Tensor | float) -> Tensor:
        """t at which lambda(t) = lam, in float64, any shape.

        Raises:
            InputError: lam is negative or beyond the end of the schedule.
        """
        T, lam = len(self.betas), as_lambda(lam, float(self._reached[-1]))
        reached = self._reached.to(lam.device)
        i = torch.searchsorted(reached, lam.contiguous()).clamp(1, T) - 1
        n = i + (lam - reached[i]) / (reached[i + 1] - reached[i])
        return (n / T).clamp(max=1)

    def scaled(self, factor: float) -> "BetaSchedule":
        """The schedule factor * lambda(t), factor > 0."""
        return BetaSchedule(self.betas, factor * self.factor)
