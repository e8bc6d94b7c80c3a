"""What training minimises: E |f(x_n, lambda_n) - target|^2 over fields, steps n and noise.

The target is defined in k-space; since the basis is orthonormal, the mean squared error over modes
equals that over sites (Parseval), and the network's output needs no transform unless modes are
weighed.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from skild_physics import kspace
from skild_physics.baselines.sr3 import coarse_part
from skild_physics.diffusion.adaptive import live_intervals
from skild_physics.diffusion.loss import shell_weight
from skild_physics.diffusion.prediction import Network, target
from skild_physics.diffusion.process import Process
from skild_physics.kspace import Basis
from skild_physics.training.config import Config, TrainingConfig


def field_noise(seeds: Sequence[int], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Standard normal noise (B, *shape), each field's from its own seed, whatever the batch."""
    eps = torch.empty(len(seeds), *shape, device=device)
    generator = torch.Generator(device)
    for one, seed in zip(eps, seeds, strict=True):
        torch.randn(shape, generator=generator.manual_seed(seed), out=one)
    return eps


def told_fields(config: Config, basis: Basis) -> Callable[[Tensor], Tensor] | None:
    """What the network of a conditional model is told of full fields (B, C, N, N), if it is one."""
    told = config.condition
    if told is None:
        return None
    return partial(coarse_part, factor=told.factor, downsampling=told.downsampling, basis=basis)


def training_losses(
    network: Network,
    process: Process,
    settings: TrainingConfig,
    fields: Tensor,
    n: Tensor,
    eps: Tensor,
    dtype: torch.dtype = torch.float32,
    told: Tensor | None = None,
) -> Tensor:
    """Mean squared error over modes of the prediction for each field of a batch, shape (B,).

    Args:
        network: maps fields and lambda to fields.
        process: the forward process; of fewer modes than the fields have to train on the low ones.
        settings: says what is predicted, and how modes are weighed.
        fields: x_0 in pixel space, float32 (B, C, N, N), on the device of the process.
        n: steps in (0, T], float64, shape (B,).
        eps: standard normal modes, shape (B, C, M, M) with M modes per axis of the process.
        dtype: type the network computes in.
        told: further channels of the network's input, shape (B, C', N, N), for conditional models.
    """
    device = process.S0.device
    M, N = process.N, fields.shape[-1]
    x_0 = kspace.forward(fields, process.basis)[..., :M, :M] * (M / N)
    steps = n[:, None]
    alpha, sigma = (c.float() for c in process.marginal(steps))
    wanted = target(settings.prediction, process, steps, x_0, eps)
    inputs = kspace.inverse(alpha * x_0 + sigma * eps, process.basis)
    if told is not None:
        inputs = torch.cat([inputs, told], dim=1)
    lam = (process.lam(n) * M**2).float().to(device)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        output = network(inputs.contiguous(memory_format=torch.channels_last), lam)
    if settings.shell_weight:
        away = kspace.forward(output.float(), process.basis) - wanted
        weighted = shell_weight(process, steps).float() * away.square()
    else:
        weighted = (output.float() - kspace.inverse(wanted, process.basis)).square()
    losses: Tensor = weighted.mean(dim=(1, 2, 3))
    return losses


class Levels:
    """Lattices of live modes to train on, each with the interval of steps that belongs to it.

    Args:
        process: the forward process.
        settings: says which modes are live; without a threshold there is one level, the process.
    """

    def __init__(self, process: Process, settings: TrainingConfig):
        ends = {process.N: float(process.T)}
        if settings.live_threshold is not None:
            multiple = settings.live_multiple_of(process.N)
            ends = live_intervals(process, settings.live_threshold, multiple)
        self._levels = [
            (process if M == process.N else process.cropped(M), start, end)
            for (M, end), start in zip(ends.items(), [0.0, *ends.values()], strict=False)
        ]

    def draw(self, count: int, generator: torch.Generator) -> tuple[Process, Tensor]:
        """A lattice, as often as its steps are drawn, and steps n uniform among these."""
        u = 1 - torch.rand(count + 1, generator=generator, dtype=torch.float64)
        chosen = float(u[0]) * self._levels[-1][2]
        at, start, end = next(level for level in self._levels if chosen <= level[2])
        return at, start + u[1:] * (end - start)

    def split(self, n: Tensor) -> list[tuple[Process, Tensor]]:
        """The lattices that steps n (B,) belong to, each with the places of its steps in n."""
        found = [
            (at, ((n > start) & (n <= end)).nonzero()[:, 0]) for at, start, end in self._levels
        ]
        return [(at, places) for at, places in found if len(places)]
