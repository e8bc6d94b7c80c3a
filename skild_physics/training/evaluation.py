"""What a training run shows of itself: held-out losses per band of t, and pictures of samples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skild_physics.baselines.sr3 import super_resolve_conditional
from skild_physics.diffusion.downsampling import downsample
from skild_physics.diffusion.prediction import Network
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.superresolution import (
    Sampled,
    Sampling,
    generate,
    super_resolve_paired,
)
from skild_physics.training.checkpoint import Model
from skild_physics.training.config import TrainingConfig
from skild_physics.training.objective import Levels, field_noise, training_losses

BANDS = 8
FIELDS = 256
PICTURES = 8
CALLS = 10


@dataclass(frozen=True)
class HeldoutLoss:
    """Mean loss of held-out fields in equal bands of t, with its standard error over fields."""

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
    process: Process,
    settings: TrainingConfig,
    fields: Tensor,
    batch_size: int,
    dtype: torch.dtype = torch.float32,
    told: Callable[[Tensor], Tensor] | None = None,
) -> HeldoutLoss:
    """The training loss of fields that were not trained on, at the same n and noise every time.

    Args:
        network: maps fields and lambda to fields.
        process: the forward process.
        settings: says what is predicted, and how modes are weighed.
        fields: shape (sample, C, N, N), at least two.
        batch_size: fields at a time.
        dtype: type the network computes in.
        told: gives what a conditional network is told of fields.
    """
    device, count = process.S0.device, len(fields)
    levels = Levels(process, settings)
    strata = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    means, errors = [], []
    for band in range(BANDS):
        n = (band + strata) * process.T / BANDS
        losses = torch.empty(count)
        for at, places in levels.split(n):
            for part in torch.split(places, batch_size):
                x = fields[part].to(device)
                seeds = [count * band + int(place) for place in part]
                eps = field_noise(seeds, (*x.shape[1:-2], at.N, at.N), device)
                also = told(x) if told else None
                losses[part] = training_losses(
                    network, at, settings, x, n[part], eps, dtype, also
                ).cpu()
        means.append(float(losses.double().mean()))
        errors.append(float(losses.double().std() / count**0.5))
    return HeldoutLoss(means, errors)


@torch.no_grad()
def sample_pictures(model: Model, truth: Tensor) -> Sampled:
    """A few samples: of coarse fields if the model is conditional, from nothing if its schedule
    destroys everything, else of held-out fields.

    Args:
        model: what to sample with.
        truth: held-out fields, shape (sample, C, N, N).
    """
    process, tau = model.process, model.config.process.tau
    sampling = Sampling(calls=CALLS, batch_size=PICTURES)
    told = model.config.condition
    if told is not None:
        coarse = downsample(truth, told.downsampling, process.N // told.factor, process.basis)
        return super_resolve_conditional(process, model.told, coarse, sampling)
    left = float(process.resolution(process.T, tau))
    if left < 1 and not bool(process.frozen.any()):
        return generate(process, model.denoiser(), len(truth), sampling, truth.shape[1])
    factor = max(1.0, process.N / left * (1 - 1e-9))
    return super_resolve_paired(process, model.denoiser(), truth, factor, tau, sampling)
