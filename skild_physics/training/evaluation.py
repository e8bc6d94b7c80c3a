"""What a training run says of itself: held-out losses per band of t."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skild_physics.diffusion.prediction import Network
from skild_physics.diffusion.process import Process
from skild_physics.models.objective import Objective, field_noise
from skild_physics.observables.jackknife import MIN_BLOCKS

BANDS = 8
FIELDS = 256
PICTURES = 8


@dataclass(frozen=True)
class HeldoutLoss:
    """Mean loss of held-out fields in equal bands of t, with its standard error over fields.

    The error is nan from fewer than eight fields.
    """

    loss: list[float]
    stderr: list[float]

    @property
    def mean(self) -> float:
        """Mean over bands, which training minimises where the steps of all fields are uniform."""
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
