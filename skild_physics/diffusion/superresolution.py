"""Super-resolution: start the reverse process where the effective resolution is the input's.

Paired protocol (arXiv 2605.26032): the start is the exact forward marginal of a held-out field at
full resolution, so the result can be compared with the truth field by field. It measures
reconstruction, and needs the answer to start from.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from skild_physics import kspace
from skild_physics.diffusion.prediction import Denoiser
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.sampler import (
    SAMPLERS,
    SampleNoise,
    SamplerName,
    ancestral,
    multistep,
    step_grid,
)
from skild_physics.diffusion.schedule import effective_resolution, lambda_at_resolution


class PairedResult(NamedTuple):
    """float32 fields (sample, channel, N, N): what the model started from, and what it made."""

    start: Tensor
    result: Tensor


def starting_step(process: Process, factor: float, tau: float) -> float:
    """The step whose effective resolution is N / factor.

    Raises:
        ValueError: factor < 1, or beyond what the schedule of the process destroys.
    """
    if not 1 <= factor < float("inf"):
        raise ValueError(f"factor must be at least 1, got {factor:g}")
    lam = lambda_at_resolution(process.N / factor, tau)
    lam_end = float(process.lam(process.T))
    if lam > lam_end * (1 + 1e-9):
        largest = process.N / float(effective_resolution(torch.tensor(lam_end), tau))
        raise ValueError(
            f"factor must be at most {largest:.3g}, where the schedule of this model ends, got "
            f"{factor:g}"
        )
    return process.step_at(lam)


def super_resolve_paired(
    process: Process,
    denoise: Denoiser,
    truth: Tensor,
    factor: float,
    tau: float,
    steps: int = 20,
    sampler: SamplerName = "multistep",
    seed: int = 0,
    batch_size: int = 64,
    progress: Callable[[int], None] = lambda done: None,
) -> PairedResult:
    """Fields reconstructed from the forward marginal of ``truth`` at resolution N / factor.

    Args:
        process: the forward process.
        denoise: estimate of x_0.
        truth: fields at full resolution, shape (sample, channel, N, N), of any real dtype.
        factor: ratio of the resolutions, any real number of at least 1.
        tau: signal-to-noise ratio that counts as resolved.
        steps: network calls per field.
        sampler: "multistep" (deterministic) or "ancestral".
        seed: root seed; field i draws from its own stream, whatever the batch.
        batch_size: fields at a time.
        progress: called with the number of fields done.

    Returns:
        The starts and the results.

    Raises:
        ValueError: factor out of range, sizes that differ, or an unknown sampler.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler must be one of {SAMPLERS}, got {sampler!r}")
    if truth.shape[-1] != process.N or truth.shape[-2] != process.N:
        raise ValueError(
            f"the fields are {truth.shape[-2]} x {truth.shape[-1]}, the model was trained on "
            f"{process.N} x {process.N}"
        )
    grid = step_grid(starting_step(process, factor, tau), steps)
    alpha, sigma = process.marginal(grid[0])
    starts, results = [], []
    for first in range(0, len(truth), batch_size):
        batch = truth[first : first + batch_size].float()
        x_0 = kspace.forward(batch.to(process.S0.device), process.basis)
        noise = SampleNoise(seed, range(first, first + len(batch)))
        x = alpha.to(x_0) * x_0 + sigma.to(x_0) * noise.like(x_0)
        starts.append(kspace.inverse(x, process.basis).cpu())
        if sampler == "multistep":
            x = multistep(process, denoise, x, grid)
        else:
            x = ancestral(process, denoise, x, grid, noise)
        results.append(kspace.inverse(x, process.basis).cpu())
        progress(first + len(batch))
    return PairedResult(torch.cat(starts), torch.cat(results))
