"""What a training run shows of itself: held-out losses per band of t, and pictures of samples."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skild_physics import kspace
from skild_physics.baselines.sr3 import super_resolve_conditional
from skild_physics.diffusion.downsampling import downsample
from skild_physics.diffusion.prediction import Network
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.scalespace_sampling import generate_scale_space
from skild_physics.diffusion.superresolution import (
    Sampled,
    Sampling,
    generate,
    super_resolve_paired,
)
from skild_physics.observables.jackknife import MIN_BLOCKS
from skild_physics.spectrum.radial import radial_mean, shells
from skild_physics.training.checkpoint import Model
from skild_physics.training.objective import Objective, field_noise

BANDS = 8
FIELDS = 256
PICTURES = 8
CALLS = 10


@dataclass(frozen=True)
class HeldoutLoss:
    """Mean loss of held-out fields in equal bands of t, with its standard error over fields.

    The error is nan from fewer than eight fields.
    """

    loss: list[float]
    stderr: list[float]

    @property
    def mean(self) -> float:
        """Mean over bands, as training minimises it where steps are uniform."""
        return float(np.mean(self.loss))

    @property
    def mean_stderr(self) -> float:
        """Standard error of the mean, were bands independent."""
        return float(np.sqrt(np.square(self.stderr).sum()) / len(self.stderr))

    def to_json(self) -> dict[str, Any]:
        """Plain values; t runs over bands [i / BANDS, (i + 1) / BANDS]."""
        rounded = [[float(f"{x:.6g}") for x in row] for row in (self.loss, self.stderr)]
        return {"heldout_loss": rounded[0], "heldout_loss_stderr": rounded[1]}


@torch.no_grad()
def heldout_loss(
    network: Network,
    objective: Objective,
    process: Process,
    fields: Tensor,
    batch_size: int,
    dtype: torch.dtype = torch.float32,
) -> HeldoutLoss:
    """The training loss of fields that were not trained on, at the same n and noise every time.

    Args:
        network: maps fields and lambda to fields.
        objective: what training minimises.
        process: that of full fields.
        fields: shape (sample, C, N, N), at least two.
        batch_size: fields at a time.
        dtype: type the network computes in.
    """
    device, count = process.S0.device, len(fields)
    strata = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    means, errors = [], []
    for band in range(BANDS):
        n = (band + strata) * process.T / BANDS
        losses = torch.empty(count)
        for at, places in objective.split(n):
            for part in torch.split(places, batch_size):
                x = fields[part].to(device)
                seeds = [count * band + int(place) for place in part]
                eps = field_noise(seeds, (*x.shape[1:-2], at.N, at.N), device)
                losses[part] = objective.losses(network, at, x, n[part], eps, dtype).cpu()
        means.append(float(losses.double().mean()))
        known = count >= MIN_BLOCKS
        errors.append(float(losses.double().std() / count**0.5) if known else float("nan"))
    return HeldoutLoss(means, errors)


@torch.no_grad()
def error_variances(model: Model, fields: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """Mean squared error of the estimate at each change of level, mode by mode.

    The mean is over fields and over modes that the symmetries of the square make alike.

    Args:
        model: of Scale Space Diffusion.
        fields: held out, shape (sample, C, N, N).
        batch_size: fields at a time.

    Returns:
        Variances of orthonormal modes of the finer lattice, float64 (N, N), finest level first.
    """
    space, device = model.scale_space, model.process.S0.device
    assert space is not None
    estimate, found = model.estimate(), []
    for level in range(len(space.sizes) - 1):
        n, side = float(space.ends[level]), space.sizes[level]
        alpha, sigma = (float(c[0, 0]) for c in space.levels[level].marginal(n))
        total = torch.zeros(side, side, dtype=torch.float64)
        for first in range(0, len(fields), batch_size):
            wanted = space.degraded(fields[first : first + batch_size].to(device), level)
            coarse = space.resizes[level].apply(wanted)
            seeds = range(first, first + len(wanted))
            eps = field_noise(seeds, coarse.shape[1:], device)
            away = estimate(alpha * coarse + sigma * eps, n, side) - wanted
            modes = kspace.forward(away.double(), space.basis).cpu()
            total += modes.square().mean(dim=1).sum(dim=0)
        mean = radial_mean((total / len(fields)).numpy(), space.basis, "lattice")
        found.append(torch.as_tensor(mean[shells(side, space.basis, "lattice").of_mode]))
    return tuple(found)


def sample_pictures(model: Model, truth: Tensor) -> Sampled:
    """A few samples: of coarse fields if the model is conditional, from nothing if its schedule
    destroys everything, else of held-out fields.

    Args:
        model: what to sample with.
        truth: held-out fields, shape (sample, C, N, N).
    """
    process, tau, space = model.process, model.tau, model.scale_space
    sampling = Sampling(calls=CALLS, batch_size=PICTURES)
    if space is not None:
        calls = CALLS + 3 * len(space.sizes)
        sampling = replace(sampling, calls=calls, sampler="stochastic")
        return generate_scale_space(
            space,
            model.estimate(),
            len(truth),
            sampling,
            truth.shape[1],
            model.error_variance or None,
            truth.device,
        )
    told = model.config.condition
    if told is not None:
        coarse = downsample(truth, told.downsampling, process.N // told.factor, process.basis)
        return super_resolve_conditional(process, model.told, coarse, sampling)
    left = float(process.resolution(process.T, tau))
    if left < 1 and not bool(process.frozen.any()):
        return generate(process, model.denoiser(), len(truth), sampling, truth.shape[1])
    factor = max(1.0, process.N / left * (1 - 1e-9))
    return super_resolve_paired(process, model.denoiser(), truth, factor, tau, sampling)
