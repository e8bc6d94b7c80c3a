"""What training minimises: E |f(x_n, lambda_n) - target|^2 over fields, steps n and noise.

The target is defined in k-space; since the basis is orthonormal, the mean squared error over modes
equals that over sites (Parseval), and the network's output needs no transform unless modes are
weighed.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from skild_physics import kspace
from skild_physics.config.training import TrainingConfig
from skild_physics.diffusion.adaptive import active_intervals
from skild_physics.diffusion.loss import shell_weight
from skild_physics.diffusion.philox import key_words, normal_fields
from skild_physics.diffusion.prediction import Network, estimate_form, target
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.scale_space import ScaleSpace
from skild_physics.files import InputError

Loss = Callable[[Tensor, Tensor], Tensor]
"""(output, target), fields (B, C, M, M) -> the loss of each field, shape (B,)."""


def field_noise(seeds: Sequence[int], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Standard normal noise (B, *shape), each field's from its own seed, whatever the batch."""
    return normal_fields(key_words(seeds, device), shape)


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over sites and channels for each field of a batch, shape (B,)."""
    losses: Tensor = (output - target).square().mean(dim=(1, 2, 3))
    return losses


def training_losses(
    network: Network,
    process: Process,
    settings: TrainingConfig,
    fields: Tensor,
    n: Tensor,
    eps: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    conditioning: Callable[[Tensor], Tensor] | None = None,
    agree: Callable[[Tensor], Tensor] | None = None,
    means: Callable[[Tensor], Tensor] | None = None,
    loss: Loss = squared_error,
) -> Tensor:
    """The loss of the prediction for each field of a batch, shape (B,).

    Args:
        network: maps fields and lambda to fields.
        process: the forward process; of fewer modes than the fields have to train on the low ones.
        settings: says what is predicted, and how modes are weighed.
        fields: x_0 in pixel space, float32 (B, C, N, N), on the device of the process.
        n: steps in (0, T], float64, shape (B,).
        eps: standard normal modes, shape (B, C, M, M) with M modes per axis of the process.
        dtype: type the network computes in.
        conditioning: gives further channels of the network's input, (B, C', N, N), for x_n in pixel
            space.
        agree: moves estimates of x_0, in pixel space, to what is used of them; the loss is that of
            the moved ones.
        means: gives posterior means of x_0, in pixel space, for the modes x_n; the target is that
            of these, whose gradient is the same on average and scatters less.
        loss: of the output and the target, unless modes are weighed.
    """
    device = process.S0.device
    M, N = process.N, fields.shape[-1]
    x_0 = kspace.forward(fields, process.basis)[..., :M, :M] * (M / N)
    steps = n[:, None]
    alpha, sigma = (c.float() for c in process.marginal(steps))
    x_n = alpha * x_0 + sigma * eps
    if means is not None:
        x_0 = kspace.forward(means(x_n), process.basis)
        eps = (x_n - alpha * x_0) / sigma
    wanted = target(settings.prediction, process, steps, x_0, eps)
    inputs = kspace.inverse(x_n, process.basis)
    if conditioning is not None:
        inputs = torch.cat([inputs, conditioning(inputs)], dim=1)
    lam = (process.lam(n) * M**2).float().to(device)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        output = network(inputs.contiguous(memory_format=torch.channels_last), lam).float()
    if agree is not None:
        modes = kspace.forward(output, process.basis)
        form = estimate_form(settings.prediction, process, steps)
        on_output, on_xn = (c.float() for c in form)
        estimate = kspace.inverse(on_output * modes + on_xn * x_n, process.basis)
        change = kspace.forward(agree(estimate) - estimate, process.basis)
        # modes that are known whatever the output is change nothing in it
        of_output = on_output.reciprocal().masked_fill(on_output == 0, 0.0)
        output = output + kspace.inverse(of_output * change, process.basis)
    if settings.shell_weight:
        away = kspace.forward(output, process.basis) - wanted
        weight = shell_weight(process, steps)
        if settings.prediction == "w":
            # whitened, it is the error of v
            weight = weight * process.S0.reciprocal().masked_fill(process.empty, 0.0)
        weighted: Tensor = weight.float() * away.square()
        return weighted.mean(dim=(1, 2, 3))
    return loss(output, kspace.inverse(wanted, process.basis))


def snr_weight(settings: TrainingConfig, snr: Tensor) -> Tensor:
    """What the squared error of x_0 counts at these signal-to-noise ratios, in the same shape."""
    if settings.inverse_snr:
        return 1 / snr
    return snr.clamp(settings.max_snr, settings.min_snr)


def rows_of(at: Any, rows: Any) -> Any:
    """What an objective's ``at`` says of some fields of a batch: all, unless it can be indexed."""
    return at[rows] if hasattr(at, "__getitem__") else at


def parts_of_task(at: Any) -> tuple[Hashable, list[Tensor]]:
    """What an objective's ``at`` is whatever the batch, and the tensors that it says of a batch."""
    return (at.process, [at.numbers]) if hasattr(at, "with_tensors") else (at, [])


class Objective(Protocol):
    """What a step of training draws and minimises; ``at`` says on which lattice, of side at.N.

    What else it may say, of each field, is found by indexing it; see :func:`rows_of`.
    """

    def draw(self, count: int, generator: torch.Generator) -> tuple[Any, Tensor]:
        """A lattice, and a step n on it for each of ``count`` fields, float64 (count,)."""
        ...

    def examples(self, count: int) -> list[tuple[Any, Tensor]]:
        """Every lattice that may be drawn, the largest first, with ``count`` steps n on it."""
        ...

    def split(self, n: Tensor) -> list[tuple[Any, Tensor]]:
        """The lattices that steps n (B,) belong to, each with the places of its steps in n."""
        ...

    def losses(
        self,
        network: Network,
        at: Any,
        fields: Tensor,
        n: Tensor,
        eps: Tensor,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The loss of each full field (B, C, N, N), given noise (B, C, at.N, at.N), shape (B,)."""
        ...


class SkildObjective:
    """SKILD: lattices of active modes, each with the interval of steps that belongs to it.

    Attributes:
        lattices: each with the ends of its interval, the largest first.

    Args:
        process: the forward process.
        settings: says which modes are active; without a threshold there is one lattice.
        conditioning: gives what conditions a network on full fields (B, C, N, N).
        loss: of the network's output and its target.

    Raises:
        InputError: a loss of one's own where modes are weighed.
    """

    def __init__(
        self,
        process: Process,
        settings: TrainingConfig,
        conditioning: Callable[[Tensor], Tensor] | None = None,
        loss: Loss = squared_error,
    ):
        if settings.shell_weight and loss is not squared_error:
            raise InputError("`loss`: goes without training.shell_weight, which weighs squares")
        self._settings, self._conditioning, self._loss = settings, conditioning, loss
        ends = {process.N: float(process.T)}
        if settings.snr_threshold is not None:
            multiple = settings.active_multiple_of(process.N)
            ends = active_intervals(process, settings.snr_threshold, multiple)
        self.lattices: list[tuple[Process, float, float]] = [
            (process if M == process.N else process.cropped(M), start, end)
            for (M, end), start in zip(ends.items(), [0.0, *ends.values()], strict=False)
        ]

    @property
    def is_fixed(self) -> bool:
        """Whether a loss needs nothing but tensors that stay where they are."""
        return self._conditioning is None

    def draw(self, count: int, generator: torch.Generator) -> tuple[Process, Tensor]:
        """A lattice, as often as its steps are drawn, and steps n uniform among these."""
        u = 1 - torch.rand(count + 1, generator=generator, dtype=torch.float64)
        chosen = float(u[0]) * self.lattices[-1][2]
        at, start, end = next(level for level in self.lattices if chosen <= level[2])
        return at, start + u[1:] * (end - start)

    def examples(self, count: int) -> list[tuple[Process, Tensor]]:
        """Every lattice, the largest first, with steps from the middle of its interval."""
        return [
            (at, torch.full((count,), (start + end) / 2, dtype=torch.float64))
            for at, start, end in self.lattices
        ]

    def split(self, n: Tensor) -> list[tuple[Process, Tensor]]:
        """The lattices that steps n (B,) belong to, each with the places of its steps in n."""
        found = [
            (at, ((n > start) & (n <= end)).nonzero()[:, 0]) for at, start, end in self.lattices
        ]
        return [(at, places) for at, places in found if len(places)]

    def losses(
        self,
        network: Network,
        at: Process,
        fields: Tensor,
        n: Tensor,
        eps: Tensor,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """See :func:`training_losses`."""
        shown = self._conditioning
        return training_losses(
            network,
            at,
            self._settings,
            fields,
            n,
            eps,
            dtype=dtype,
            conditioning=None if shown is None else lambda x_n: shown(fields),
            loss=self._loss,
        )


@dataclass(frozen=True)
class Task:
    """What the network of a scale-space process learns: fields of one level to those of another.

    Attributes:
        level: of the input.
        end: of the output; the same, or the next finer one.
        N: sites per side of the input.
    """

    level: int
    end: int
    N: int


class ScaleSpaceObjective:
    """Scale space: to denoise on each level, and to change it.

    The target is the one that gives x_0 on the level of the output through the prediction's form
    x_0 = a f + b x_n, x_n lifted to that level where it changes; see
    :func:`skild_physics.diffusion.scale_space_reverse.estimator`.

    Args:
        space: the forward process.
        settings: what is predicted, how it is weighed, how often the level changes.
        loss: of the network's output and its target.
    """

    def __init__(self, space: ScaleSpace, settings: TrainingConfig, loss: Loss = squared_error):
        self._space, self._settings, self._loss = space, settings, loss
        self._scales = [space.scale(side) for side in space.sizes]

    def _within(self, level: int) -> Task:
        return Task(level, level, self._space.sizes[level])

    def _raising(self, level: int, count: int) -> tuple[Task, Tensor]:
        n = torch.full((count,), float(self._space.first(level)), dtype=torch.float64)
        return Task(level, level - 1, self._space.sizes[level]), n

    def examples(self, count: int) -> list[tuple[Task, Tensor]]:
        """Every level, the finest first, and every change of it, with steps of them."""
        ends = self._space.ends
        within = [
            (
                self._within(level),
                torch.full((count,), (self._space.first(level) + end) / 2, dtype=torch.float64),
            )
            for level, end in enumerate(ends)
        ]
        return within + [self._raising(level, count) for level in range(1, len(ends))]

    def draw(self, count: int, generator: torch.Generator) -> tuple[Task, Tensor]:
        """A level, as often as its steps are drawn, and n uniform on it; or a change of level."""
        space, coarser = self._space, len(self._space.sizes) - 1
        u = 1 - torch.rand(count + 2, generator=generator, dtype=torch.float64)
        if coarser and float(u[0]) <= self._settings.level_changes:
            level = min(int(float(u[1]) * coarser), coarser - 1) + 1
            return self._raising(level, count)
        level = space.level(float(u[1]) * space.T)
        start, end = space.first(level), space.ends[level]
        return self._within(level), start + u[2:] * (end - start)

    def split(self, n: Tensor) -> list[tuple[Task, Tensor]]:
        """The levels that steps n (B,) belong to, each with the places of its steps in n."""
        found = []
        for level, end in enumerate(self._space.ends):
            start = self._space.ends[level - 1] if level else 0
            found.append((self._within(level), ((n > start) & (n <= end)).nonzero()[:, 0]))
        return [(task, places) for task, places in found if len(places)]

    def losses(
        self,
        network: Callable[..., Tensor],
        at: Task,
        fields: Tensor,
        n: Tensor,
        eps: Tensor,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The mean squared error of the output over its sites, or that of x_0, weighed by SNR."""
        space, settings, device = self._space, self._settings, fields.device
        process, side = space.modes[at.end], space.sizes[at.end]
        wanted = space.degraded(fields, at.end)
        alpha, sigma = (c.to(fields) for c in process.marginal(n[:, None]))
        x_n = alpha * space.between(at.end, at.level).apply(wanted) + sigma * eps
        form = estimate_form(settings.prediction, process, n[:, None])
        on_output, on_xn = (c.to(fields) for c in form)
        on_output = on_output * self._scales[at.end]
        wanted = (wanted - on_xn * space.lifted(x_n, side)) / on_output
        lam = (process.lam(n) * side**2).float().to(device)
        raised = () if at.end == at.level else (side,)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            seen = (x_n / self._scales[at.level]).contiguous(memory_format=torch.channels_last)
            output = network(seen, lam, *raised)
        losses = self._loss(output.float(), wanted)
        if settings.snr_weights:
            weight = snr_weight(settings, (alpha / sigma).square())
            losses = losses * (weight * on_output.square())[:, 0, 0, 0]
        return losses
