"""Where the reverse process starts, and the loop that runs it, a batch of fields at a time.

    prior      x_T ~ N(0, S0), if the schedule destroys everything
    diffused   the exact forward marginal of a field at full resolution (the paired protocol of
               arXiv 2605.26032), so that the result can be compared with the truth field by field.
               It measures reconstruction, and needs the answer to start from.

Starts from real coarse fields are in :mod:`skild_physics.diffusion.observation`, those from smaller
critical lattices in :mod:`skild_physics.diffusion.renormalization`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from skild_physics import kspace
from skild_physics.diffusion.noise import Noise, SampleNoise, Twice
from skild_physics.diffusion.prediction import Denoiser
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.sampler import Sampler
from skild_physics.diffusion.schedule import effective_resolution, lambda_at_resolution
from skild_physics.files import InputError

BATCH_SIZE = 64
Draw = Callable[[Tensor, Noise], tuple[Tensor, Denoiser]]
"""(given fields (B, C, M, M), noise) -> modes x_n (B, C, N, N), and the denoiser for them."""


class Sampled(NamedTuple):
    """float32 fields (sample, channel, N, N) on the CPU: where they started, and what was made."""

    start: Tensor
    result: Tensor


@dataclass(frozen=True, eq=False)
class Start:
    """Where the reverse process starts, and with what it goes on.

    Attributes:
        process: to reverse.
        n: the step.
        resolution: effective resolution there, in pixels per side.
        draw: the state at step n of given fields; where nothing is given, the fields say no more
            than how many there are, and of how many channels.
        snr: signal-to-noise ratio that counts as resolved; None: it means nothing here.
        residual: of results (B, C, N, N) and given fields, how far they are from agreeing; None:
            they need not agree.
        expected: variance of every mode of the given fields, (M, M), as the process has it; None:
            it does not say.
    """

    process: Process
    n: float
    resolution: float
    draw: Draw
    snr: float | None = None
    residual: Callable[[Tensor, Tensor], float] | None = None
    expected: Tensor | None = None

    @property
    def size(self) -> int:
        """Side of the fields made."""
        return self.process.N

    def shown(self, x: Tensor, given: Tensor) -> Tensor:
        """The state as fields."""
        return kspace.inverse(x, self.process.basis).cpu()

    def check_states(self) -> None:
        """Refuse states that are given as fields, if fields do not tell them.

        Raises:
            InputError: why they do not.
        """

    def state(self, fields: Tensor, drawn: Tensor) -> Tensor:
        """The state that is shown as these fields (B, C, N, N), in what is not shown as drawn."""
        return kspace.forward(fields, self.process.basis)

    def reverse(self, x: Tensor, denoise: Denoiser, sampler: Sampler, noise: Noise) -> Tensor:
        """Fields made of the state."""
        x_0 = sampler(self.process, denoise, x, self.n, noise)
        return kspace.inverse(x_0, self.process.basis).cpu()

    def finished(self, fields: Tensor, given: Tensor) -> Tensor:
        """The fields, made to agree with the given ones if they have to."""
        return fields


@torch.no_grad()
def run(
    start: Start, given: Tensor, sampler: Sampler, noise: Noise, begin: Tensor | None = None
) -> Sampled:
    """The reverse process of one batch of given fields (B, C, M, M).

    Args:
        start: where it starts.
        given: the fields.
        sampler: how it goes on.
        noise: of all draws.
        begin: states to start from, as fields (B, C, N, N), or as pictures (B, 3, N, N) of lattices
            where the network is one of these; None: they are drawn.
    """
    if len(given) == 1:
        # alone it would be transformed and convolved in another order than among others
        twice = None if begin is None else begin.expand(2, -1, -1, -1)
        two = run(start, given.expand(2, -1, -1, -1), sampler, Twice(noise), twice)
        return Sampled(two.start[:1], two.result[:1])
    # drawn in any case, so that later noise is the same
    x, denoise = start.draw(given, noise)
    if begin is not None:
        x = start.state(begin.to(x), x)
    made = start.reverse(x, denoise, sampler, noise)
    shown = start.shown(x, given)
    if begin is not None and begin.shape[1] == given.shape[1]:
        # to the last digit
        shown = begin
    return Sampled(shown, start.finished(made, given))


def sample(
    start: Start,
    given: Tensor,
    sampler: Sampler,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], None] = lambda done: None,
) -> Sampled:
    """The reverse process of many fields, a batch at a time; neither depends on the batch.

    Args:
        start: where it starts.
        given: fields (sample, C, M, M) of any real dtype; see :func:`nothing`.
        sampler: how it goes on.
        seed: integer root; field i draws from its own stream.
        batch_size: fields at a time.
        progress: called with the number of fields done.

    Raises:
        InputError: batch_size < 1, no fields, or what the sampler raises.
    """
    if batch_size < 1:
        raise InputError(f"`batch_size` must be at least 1, got {batch_size}")
    if len(given) < 1:
        raise InputError(f"the number of samples must be at least 1, got {len(given)}")
    made = []
    for first in range(0, len(given), batch_size):
        batch = given[first : first + batch_size]
        made.append(run(start, batch, sampler, SampleNoise(seed, range(first, first + len(batch)))))
        progress(first + len(batch))
    starts, results = zip(*made, strict=True)
    return Sampled(torch.cat(starts), torch.cat(results))


def nothing(count: int, channels: int = 1) -> Tensor:
    """What is given for so many unconditional samples: fields of no sites."""
    return torch.empty(count, channels, 0, 0)


def prior(process: Process, denoise: Denoiser) -> Start:
    """The end of a schedule that destroys everything: unconditional samples."""
    root = process.S0.sqrt().float()

    def draw(given: Tensor, noise: Noise) -> tuple[Tensor, Denoiser]:
        like = torch.empty(*given.shape[:2], process.N, process.N, device=root.device)
        return root * noise.like(like), denoise

    return Start(process, float(process.T), float(process.resolution(process.T, 0.1)), draw)


def starting_step(process: Process, factor: float, snr: float) -> float:
    """The step whose effective resolution is N / factor.

    Raises:
        InputError: factor < 1, or beyond what the schedule of the process destroys, or so large
            that k_c leaves nothing of the fields there.
    """
    if not 1 <= factor < float("inf"):
        raise InputError(f"`factor` must be at least 1, got {factor:g}")
    lam = lambda_at_resolution(process.N / factor, snr)
    lam_end = float(process.lam(process.T))
    if lam > lam_end * (1 + 1e-9):
        largest = process.N / float(effective_resolution(lam_end, snr))
        raise InputError(
            f"`factor` must be at most {largest:.3g}, where the schedule of this model ends, got "
            f"{factor:g}"
        )
    n = process.step_at(lam)
    lost = process.k_c / (math.sqrt(2) * math.pi)
    # a white process, whose k_c is above all wavenumbers, loses all modes at once at any factor
    if lost < process.N and process.N / factor < lost:
        raise InputError(
            f"`factor` must be at most {process.N / lost:.3g}, beyond which k_c leaves nothing of "
            f"the fields, got {factor:g}"
        )
    return n


def diffused(process: Process, denoise: Denoiser, factor: float, snr: float) -> Start:
    """The forward marginal of given fields (B, C, N, N) at the effective resolution N / factor.

    Args:
        process: the forward process.
        denoise: the estimate of x_0.
        factor: ratio of the resolutions, any real number of at least 1.
        snr: signal-to-noise ratio that counts as resolved.

    Raises:
        InputError: factor out of range; in drawing, fields of another size.
    """
    n = starting_step(process, factor, snr)
    alpha, sigma = (c.float() for c in process.marginal(n))

    def draw(given: Tensor, noise: Noise) -> tuple[Tensor, Denoiser]:
        if given.shape[-2:] != (process.N, process.N):
            raise InputError(
                f"the fields are {given.shape[-2]} x {given.shape[-1]}, the model is for "
                f"{process.N} x {process.N}"
            )
        x_0 = kspace.forward(given.to(alpha), process.basis)
        return alpha * x_0 + sigma * noise.like(x_0), denoise

    resolution = float(process.resolution(n, snr))
    return Start(process, n, resolution, draw, snr, expected=process.S0)
