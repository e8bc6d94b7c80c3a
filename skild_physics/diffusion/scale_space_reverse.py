"""Reversing Scale Space Diffusion: within levels with the samplers of DDPM, and across them.

Reversing a change of level with an estimate of x_0, as published, lacks the variance that x_0 has
given x_n. What small steps lack vanishes with their size, but this stays: a new mode starts as
noise alone. Given the variance of the error of the estimate, x_0 is drawn with that variance, which
gives Gaussian data their exact covariance, and other data the right second moments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from skild_physics import kspace
from skild_physics.diffusion.integrators import step_grid, steps_between
from skild_physics.diffusion.noise import Noise
from skild_physics.diffusion.prediction import Denoiser, Prediction, estimate_form
from skild_physics.diffusion.reverse import Start
from skild_physics.diffusion.sampler import Sampler
from skild_physics.diffusion.scale_space import ScaleSpace
from skild_physics.files import InputError


class Estimate(Protocol):
    """An estimate of x_0 on a lattice of ``side``, from fields x_n of that or a coarser level."""

    def __call__(self, x_n: Tensor, n: float, side: int) -> Tensor:
        """D(x_0), shape (B, C, side, side), from x_n (B, C, M, M)."""
        ...


def estimator(
    network: Callable[..., Tensor], space: ScaleSpace, prediction: Prediction, clip: bool = False
) -> Estimate:
    """The estimate of x_0 of a trained network f(x, lambda N^2, side of the output).

    It is that of the process within a level, x_0 = a f + b x_n, with x_n lifted to the side wanted.
    The network sees, and gives, fields of the scale of averages. With ``clip`` the estimate is
    clipped to [-1, 1] of that scale, as published.
    """
    scales = {side: space.scale(side) for side in space.sizes}

    def estimate(x_n: Tensor, n: float, side: int) -> Tensor:
        process = space.modes[space.sizes.index(side)]
        lam = x_n.new_full((len(x_n),), float(process.lam(n) * side**2))
        on_output, on_xn = (float(c[0, 0]) for c in estimate_form(prediction, process, n))
        M = x_n.shape[-1]
        output = network(x_n / scales[M], lam, *(() if side == M else (side,)))
        x_0 = on_output * scales[side] * output + on_xn * space.lifted(x_n, side)
        return x_0.clamp(-scales[side], scales[side]) if clip else x_0

    return estimate


class Segment(NamedTuple):
    """Steps within one level, descending; then, unless it is the finest, the change of level."""

    level: int
    steps: Tensor


def segments(
    space: ScaleSpace, start: float, level: int, sampler: Sampler, ends_at: int = 0
) -> list[Segment]:
    """The way from a state on a level at step ``start`` to x_0, with ``sampler.n_evals`` in all.

    Levels share the evaluations as steps spaced over the whole way would, at least one each, and
    every change of level takes one. The last step goes to ``ends_at``, if it begins beyond.

    Raises:
        InputError: fewer evaluations than that.
    """
    changes = [float(space.first(each)) for each in range(1, level + 1)]
    inner = [change for change in changes if change < start]
    n_evals = sampler.n_evals - len(changes) - len(inner)
    if n_evals < 1:
        raise InputError(
            f"`n_evals`: {len(changes)} changes of level need at least "
            f"{len(changes) + len(inner) + 1} evaluations, got {sampler.n_evals}"
        )
    finest, spacing, last_snr = space.levels[0], sampler.spacing, sampler.last_snr
    whole = step_grid(finest, start, sampler.n_evals, spacing, last_snr).numpy()
    # a grid that changes of level are steps of has room for them
    if not (space.gap and {*changes, *space.ends[:level]} <= {*whole.tolist()}):
        whole = step_grid(finest, start, n_evals, spacing, last_snr).numpy()
    found = []
    for each in range(level, -1, -1):
        low = changes[each - 1] if each else 0.0
        high = min(start, float(space.ends[each]))
        intervals = 1 + int(((whole > low) & (whole < high)).sum())
        if high == low:
            steps = torch.tensor([low], dtype=torch.float64)
        elif each:
            steps = steps_between(finest, high, low, intervals, spacing)
        else:
            steps = step_grid(finest, high, intervals, spacing, sampler.ends_at)
            steps = torch.cat([steps[steps > ends_at], steps.new_tensor([ends_at])])
        found.append(Segment(each, steps))
    return found


@dataclass(frozen=True, eq=False)
class LevelStart(Start):
    """The start on a level of Scale Space Diffusion; the state is fields, not modes.

    Attributes:
        space: the process.
        level: of the state.
        error_variance: of the estimate at each change of level, finest first: of every orthonormal
            mode of the finer lattice, shape (N, N). Empty: it is neglected, as published.
        ends_at: step at which the way ends, 0 or, as published, 1.
    """

    space: ScaleSpace | None = None
    level: int = 0
    error_variance: Sequence[Tensor] = ()
    ends_at: int = 0

    @property
    def _space(self) -> ScaleSpace:
        assert self.space is not None
        return self.space

    def shown(self, x: Tensor, given: Tensor) -> Tensor:
        """The state, smooth on the finest lattice."""
        return self._space.lifted(x, self._space.sizes[0]).cpu()

    def state(self, fields: Tensor, drawn: Tensor) -> Tensor:
        """See :meth:`Start.state`."""
        away = fields - self._space.lifted(drawn, fields.shape[-1])
        return drawn + self._space.lowered(away, self.level)

    @torch.no_grad()
    def reverse(self, x: Tensor, denoise: Denoiser, sampler: Sampler, noise: Noise) -> Tensor:
        """Fields (B, C, N, N) made of the state; ``denoise`` is the :class:`Estimate`."""
        space, estimate = self._space, cast(Estimate, denoise)
        for level, steps in segments(space, self.n, self.level, sampler, self.ends_at):
            side = space.sizes[level]
            if len(steps) > 1:
                at_level = partial(estimate, side=side)
                x = sampler.integrate(space.modes[level], at_level, x, steps, noise)
            if level:
                x_0 = estimate(x, float(steps[-1]), space.sizes[level - 1])
                if self.error_variance:
                    root = self.error_variance[level - 1].to(x_0).sqrt()
                    x_0 = x_0 + kspace.inverse(root * noise.like(x_0), space.basis)
                raising = space.raising(level - 1)
                x = raising.mean(x, x_0) + raising.noise(noise.like(x_0))
        return x.cpu()


def level_start(
    space: ScaleSpace,
    estimate: Estimate,
    n: float,
    level: int,
    given_level: int | None,
    *,
    error_variance: Sequence[Tensor] = (),
    ends_at: int = 0,
    device: torch.device | str = "cpu",
    gain: float = 1.0,
) -> Start:
    """The start at step n on a level.

    Args:
        space: the process.
        estimate: of x_0.
        n: step at which fields live on the level.
        level: that of the state.
        given_level: that of the fields given to start from, in which x_n = sqrt(abar_n) y +
            sqrt(1 - abar_n) eps is the exact forward marginal, y those on ``level``; None: nothing
            is given, the state is white noise.
        error_variance: with ``ends_at``, see :class:`LevelStart`.
        ends_at: where the way ends.
        device: where to sample.
        gain: what given fields are multiplied with.
    """
    M, u = space.sizes[level], space.u(n)
    alpha, sigma = float(np.exp(-u / 2)), float(np.sqrt(-np.expm1(-u)))

    def draw(given: Tensor, noise: Noise) -> tuple[Tensor, Any]:
        if given_level is None:
            return noise.like(torch.empty(*given.shape[:2], M, M, device=device)), estimate
        side = space.sizes[given_level]
        if given.shape[-2:] != (side, side):
            raise InputError(
                f"the fields are {given.shape[-2]} x {given.shape[-1]}, the model takes {side} x "
                f"{side}"
            )
        y = given.float() if given_level == level else space.degraded(given.float(), level)
        y = (y * gain).to(device)
        return alpha * y + sigma * noise.like(y), estimate

    return LevelStart(
        space.levels[0],
        n,
        float(M),
        draw,
        space=space,
        level=level,
        error_variance=error_variance,
        ends_at=ends_at,
    )
