"""SKILD that may be conditioned on a coarse field of any factor, made with any known kernel.

One network serves the process without a coarse field (generation, the paired protocol) and the
process given y = R x R^T. What it sees of y does not depend on how y was made,

    P x P,    P = R^+ R,

the part of x that y determines (R^+ is the pseudo-inverse; for averages over whole blocks, the
blocks at their averages), beside where each site lies in its coarse cell, and labels: the kernel
and the factor. With ``condition.consistent`` it sees P (x - x_n) P, too: what x_n lacks in every
block, which a network would have to learn to sum for each factor on its own. All of these are zero
where there is no coarse field, but for the label of the factor where M x M active modes of N x N
fields are shown, which is then that of M / N. Lambda in units of pixels may be the same for a
lattice of spins and for the low modes of a larger one, and these are not alike.

The posterior mean of x_0 given x_n and y has R D R^T = y exactly, so every estimate D is moved to
the nearest field that has,

    D <- D + P x P - P D P,

which brings it no farther from that mean (range-null space decomposition: Wang et al., DDNM, arXiv
2212.00490; here with a network that knows y, so that what it adds fits it). Of spins with averages
over whole blocks the uncertain ones take the change, as independent spins of means D and variances
1 - D^2 do to first order when a field is added to all of a block,

    D <- D + (1 - D^2) (P x P - P D P) / P (1 - D^2) P,

or, with ``condition.canonical``, D becomes the means of independent spins of means D given how many
of a block are up (:mod:`skild_physics.models.canonical`). Moved so, exact posterior means given x_n
alone lose a sixth of what they lose to first order, from R = 32 on. A constant added to all leaves
a few per cent of the blocks of the result with a spin too many, whatever is uncertain. With
``condition.consistent`` the loss is that of the moved estimate, so that the network need not learn
what the move knows.
"""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property, partial
from typing import ClassVar

import torch
from torch import Tensor

from skild_physics import kspace
from skild_physics.config.training import CoarseConfig
from skild_physics.diffusion.noise import Noise
from skild_physics.diffusion.observation import Observation, ObservedStart
from skild_physics.diffusion.prediction import Denoiser, Network, denoiser
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.reverse import Start
from skild_physics.fields.downsampling import DOWNSAMPLINGS, Downsampling, downsampling_matrix
from skild_physics.files import InputError
from skild_physics.kspace import Basis
from skild_physics.models.canonical import canonical_means, harmonics
from skild_physics.models.objective import (
    Loss,
    Objective,
    SkildObjective,
    squared_error,
    training_losses,
)
from skild_physics.models.skild import Skild

SMALLEST = 1e-3
"""Singular value of a kernel, over its largest, of what it is taken to leave out."""
ROUNDING = 0.1
"""Spins by which the sum of a block may be off, in coarse fields of low precision."""
FOCUSED = 0.5
"""Share of the steps that are drawn in the focus, where there is one."""
LEAST_FREE = 1e-3
"""Variance that every spin is taken to have at least, to first order."""


def pseudo_inverse(kernel: Downsampling, N: int, M: int, basis: Basis) -> Tensor:
    """R^+ of one axis, float64, shape (N, M)."""
    R = downsampling_matrix(kernel, N, M, basis)
    inverse: Tensor = torch.linalg.pinv(R, rtol=SMALLEST)
    return inverse


def phases(N: int, M: int) -> Tensor:
    """Cosine and sine of where each of N sites lies in its cell, float64, shape (2, N)."""
    phase = 2 * torch.pi * (torch.arange(N, dtype=torch.float64) + 0.5) * M / N
    return torch.stack([phase.cos(), phase.sin()])


def label_of_factor(factor: float) -> float:
    """Half its binary logarithm."""
    return math.log2(factor) / 2


def labels(condition: CoarseConfig, kernel: Downsampling, factor: float) -> Tensor:
    """The kernel, one-hot, and half the binary logarithm of the factor; float64."""
    chosen = [float(kernel == each) for each in condition.kernels]
    return torch.tensor([*chosen, label_of_factor(factor)], dtype=torch.float64)


def conditioning(lifted: Tensor, where: Tensor, known: Tensor) -> Tensor:
    """Channels of the network's input.

    Args:
        lifted: P x P, and what x_n lacks of it if that is shown, shape (B, C or 2 C, N, N).
        where: see :func:`phases`, shape (B or 1, 2, N).
        known: see :func:`labels`, shape (B or 1, labels).
    """
    B, _, N, _ = lifted.shape
    rows, columns = where[..., :, None], where[..., None, :]
    maps = (rows, columns, known[..., None, None])
    return torch.cat([lifted, *(each.to(lifted).expand(B, -1, N, N) for each in maps)], dim=1)


def without_conditions(channels: int, N: int, fields: Tensor) -> Tensor:
    """The channels that condition on nothing.

    Args:
        channels: their number.
        N: side of the full fields.
        fields: of their active modes, (B, C, M, M).
    """
    B, _, M, _ = fields.shape
    nothing = fields.new_zeros(B, channels, M, M)
    nothing[:, -1] = label_of_factor(M / N)
    return nothing


def in_blocks(fields: Tensor, f: int) -> Tensor:
    """Fields (B, C, N, N) by blocks of f x f sites, shape (B, C, N / f, N / f, f^2)."""
    B, C, N, _ = fields.shape
    return fields.reshape(B, C, N // f, f, N // f, f).transpose(3, 4).flatten(4)


def out_of_blocks(blocks: Tensor, f: int) -> Tensor:
    """The inverse of :func:`in_blocks`."""
    B, C, M, _, _ = blocks.shape
    return blocks.reshape(B, C, M, M, f, f).transpose(3, 4).reshape(B, C, M * f, M * f)


def by_rank(fields: Tensor, y: Tensor, f: int) -> Tensor:
    """Spins, in each block of f x f as many up as its average y says, those of the largest values.

    Args:
        fields: (B, C, N, N).
        y: averages, (B, C, N / f, N / f).
        f: side of the blocks.
    """
    blocks = in_blocks(fields, f)
    order = blocks.argsort(dim=-1, descending=True, stable=True)
    up = ((1 + y) / 2 * f**2).round()[..., None] > torch.arange(f**2)
    return out_of_blocks(torch.empty_like(blocks).scatter_(-1, order, 2.0 * up - 1), f)


def variances(means: Tensor) -> Tensor:
    """Of spins of given means."""
    return (1 - means.square()).clamp(min=LEAST_FREE)


@dataclass(frozen=True, eq=False)
class Conditions:
    """All that N x N fields can be conditioned on; number 0 is nothing.

    Args:
        condition: which kernels and factors.
        N: side of the fields.
        basis: how kernels go on beyond their edges.
        device: of the tables.
        spins: whether the fields are.
    """

    condition: CoarseConfig
    N: int
    basis: Basis
    device: torch.device
    spins: bool = False

    @property
    def all(self) -> list[tuple[Downsampling, int]]:
        """Kernel and side of the coarse fields, from number 1 on."""
        return [(kernel, M) for kernel in self.condition.kernels for M in self.sides]

    @property
    def sides(self) -> tuple[int, ...]:
        """Of the coarse fields."""
        return self.condition.sides(self.N)

    @cached_property
    @torch.inference_mode(False)
    def shares(self) -> Tensor:
        """How often each is drawn, float64."""
        condition = self.condition
        every = torch.tensor([1 / M for M in self.sides], dtype=torch.float64)
        whole = torch.tensor([float(self.N % M == 0) for M in self.sides], dtype=torch.float64)
        of_side = every / every.sum()
        if whole.any():
            of_side = condition.whole * whole / whole.sum() + (1 - condition.whole) * of_side
        of_kernel = torch.tensor(list(condition.kernels.values()), dtype=torch.float64)
        coarse = torch.outer(of_kernel / of_kernel.sum(), of_side).flatten()
        nothing = torch.tensor([condition.unconditional], dtype=torch.float64)
        return torch.cat([nothing, (1 - condition.unconditional) * coarse])

    @cached_property
    @torch.inference_mode(False)
    def _tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """P, the phases, and the labels of each."""
        N, found = self.N, []
        for kernel, M in self.all:
            P = pseudo_inverse(kernel, N, M, self.basis)
            P = P @ downsampling_matrix(kernel, N, M, self.basis)
            found.append((P, phases(N, M), labels(self.condition, kernel, N / M)))
        lifts, where, known = (
            torch.stack([torch.zeros_like(table[0]), *table]).float().to(self.device)
            for table in zip(*found, strict=True)
        )
        return lifts, where, known

    def steps(self, process: Process) -> list[float]:
        """The step where sampling given coarse fields starts, of each of :attr:`all`."""
        return [
            Observation(process, kernel, M).step(self.condition.start_snr) for kernel, M in self.all
        ]

    def channels(self, fields: Tensor, numbers: Tensor, x_n: Tensor) -> Tensor:
        """What conditions the network on fields (B, C, N, N), given numbers (B,) or (1,).

        Args:
            fields: x_0.
            numbers: of their conditions.
            x_n: in pixel space.
        """
        lifts, where, known = (table[numbers.to(self.device)] for table in self._tables)
        P = lifts[:, None]
        lifted = P @ fields @ P.mT
        if self.condition.consistent:
            lifted = torch.cat([lifted, P @ (fields - x_n) @ P.mT], dim=1)
        return conditioning(lifted, where, known)

    def agreeing(
        self, fields: Tensor, numbers: Tensor, estimates: Tensor, compiled: bool = False
    ) -> Tensor:
        """Estimates of fields (B, C, N, N), moved so that their coarse fields are theirs.

        Args:
            fields: x_0.
            numbers: of their conditions.
            estimates: of x_0.
            compiled: by torch.compile what is trained on a GPU, where all batches are alike.
        """
        chosen = numbers.to(self.device).expand(len(estimates))
        P, sites = self._tables[0][chosen][:, None], self._sites[chosen]
        lacking = P @ (fields - estimates) @ P.mT
        if not self.condition.canonical:
            is_block = (sites > 0)[:, None, None, None]
            free = torch.where(is_block, variances(estimates), 1.0)
            of_block = torch.where(is_block, P @ free @ P.mT, 1.0)
            return estimates + lacking * free / of_block
        moved = estimates + lacking
        # numbers on a GPU are not waited for
        on_cpu = sites.device.type == "cpu"
        rows = (sites > 0).nonzero()[:, 0] if on_cpu else slice(None)
        sites = sites[rows, None, None, None]
        P, given = P[rows] * (sites > 0), estimates[rows]
        ups = ((P @ fields[rows] @ P.mT + 1) / 2 * sites).round()
        compiled &= given.requires_grad and not on_cpu
        means = canonical_means(given, P, ups, sites.clamp(min=1), self._harmonics, compiled)
        means = torch.where(sites > 0, means, moved[rows])
        return moved.index_put((rows,), means) if isinstance(rows, Tensor) else means

    @cached_property
    @torch.inference_mode(False)
    def _sites(self) -> Tensor:
        """Of the whole blocks of spins whose averages each is, or 0."""
        return torch.tensor([0, *(b**2 for b in self._blocks)]).to(self.device)

    @property
    def _blocks(self) -> list[int]:
        """Sites a side of these blocks, or 0, from number 1 on."""
        return [
            self.N // M if self.spins and kernel == "box" and self.N % M == 0 else 0
            for kernel, M in self.all
        ]

    @property
    def _harmonics(self) -> int:
        return harmonics(max(self._blocks))


@dataclass(frozen=True, eq=False)
class CoarseTask:
    """What a batch learns: the process, and the number of each field's condition, or of all."""

    process: Process
    numbers: Tensor

    @property
    def N(self) -> int:
        """Sites per side."""
        return self.process.N

    def __getitem__(self, rows: slice) -> "CoarseTask":
        return CoarseTask(self.process, self.numbers[rows])

    def with_tensors(self, numbers: Tensor) -> "CoarseTask":
        """The same with other numbers of conditions, of any device."""
        return CoarseTask(self.process, numbers)


class CoarseObjective:
    """That of SKILD, each field conditioned on a coarse one of its own kind, or on nothing.

    Fields that are conditioned are shown whole, at the steps that sampling given their coarse field
    passes; those that are not may be shown as active modes on smaller lattices.

    Attributes:
        conditions: all that fields can be conditioned on.
        ends: the last step of each on the full lattice, float64.
        shares: how often each is drawn there, float64.
        compiled: whether a training compiles what it can.

    Args:
        model: whose process, conditions and settings.
        loss: of the network's output and its target.
    """

    compiled = False

    def __init__(self, model: "CoarseSkild", loss: Loss = squared_error):
        self._settings, self._loss, process = model.config.training, loss, model.process
        self._steps = SkildObjective(process, self._settings, loss=loss)
        self.conditions = Conditions(
            model.condition,
            process.N,
            process.basis,
            process.S0.device,
            model.channels == ("spin",),
        )
        _, _, end = self._steps.lattices[0]
        self.ends = torch.tensor([end, *self.conditions.steps(process)], dtype=torch.float64)
        self.shares = self.conditions.shares.clone()
        # fields without a coarse one have their other steps on the smaller lattices
        self.shares[0] *= end / process.T
        self._focus = self._steps_of_focus(model)

    @staticmethod
    def _steps_of_focus(model: "CoarseSkild") -> list[float] | None:
        if model.condition.focus is None:
            return None
        try:
            high_R_first = model.condition.focus[::-1]
            return [model.process.step_at_resolution(R, model.snr) for R in high_R_first]
        except InputError as error:
            raise InputError(f"condition.focus: {error}") from None

    @property
    def is_fixed(self) -> bool:
        """See :attr:`SkildObjective.is_fixed`."""
        return True

    def draw(self, count: int, generator: torch.Generator) -> tuple[CoarseTask, Tensor]:
        """A condition of each field, and steps n uniform among those where it may be."""
        (full, _, _), unconditional = self._steps.lattices[0], self.conditions.shares[0]
        at, n = self._steps.draw(count, generator)
        u = torch.rand(count + 1, generator=generator, dtype=torch.float64)
        if at.N < full.N and float(u[0]) < float(unconditional):
            return CoarseTask(at, torch.zeros(count, dtype=torch.long)), n
        numbers = torch.multinomial(self.shares, count, replacement=True, generator=generator)
        start, end = torch.zeros(count, dtype=torch.float64), self.ends[numbers]
        if self._focus is not None:
            low, high = self._focus
            chosen = torch.rand(count, generator=generator) < FOCUSED
            chosen &= end > low
            start = torch.where(chosen, low, start)
            end = torch.where(chosen, end.clamp(max=high), end)
        return CoarseTask(full, numbers), start + (1 - u[1:]) * (end - start)

    def examples(self, count: int) -> list[tuple[CoarseTask, Tensor]]:
        """Every lattice, with steps from the middle of its interval, and conditions in turns."""
        (full, n), *smaller = self._steps.examples(count)
        numbers = torch.arange(count) % len(self.ends)
        alone = [(CoarseTask(at, torch.zeros_like(numbers)), steps) for at, steps in smaller]
        return [(CoarseTask(full, numbers), n.minimum(self.ends[numbers])), *alone]

    def split(self, n: Tensor) -> list[tuple[CoarseTask, Tensor]]:
        """In turns: no condition, and each kernel at the middle factor, where it may be."""
        (full, _, _), sides = self._steps.lattices[0], len(self.conditions.sides)
        chosen = [0, *range(1 + sides // 2, len(self.ends), sides)]
        numbers = torch.tensor(chosen)[torch.arange(len(n)) % len(chosen)]
        numbers[n > self.ends[numbers]] = 0
        found = [
            (CoarseTask(full, torch.tensor([number])), (numbers == number).nonzero()[:, 0])
            for number in chosen[1:]
        ]
        alone = (numbers == 0).nonzero()[:, 0]
        found += [
            (CoarseTask(at, torch.tensor([0])), alone[places])
            for at, places in self._steps.split(n[alone])
        ]
        return [(at, places) for at, places in found if len(places)]

    def losses(
        self,
        network: Network,
        at: CoarseTask,
        fields: Tensor,
        n: Tensor,
        eps: Tensor,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """See :func:`training_losses`."""
        conditions, agree = self.conditions, None
        conditioning = partial(conditions.channels, fields, at.numbers)
        # numbers on a GPU are not waited for
        known = at.numbers.device.type == "cpu"
        if fields.shape[-1] > at.N or (known and not at.numbers.any()):
            channels = conditions.condition.inputs(fields.shape[1])
            conditioning = partial(without_conditions, channels, fields.shape[-1])
        elif conditions.condition.consistent:
            agree = partial(conditions.agreeing, fields, at.numbers, compiled=self.compiled)
        return training_losses(
            network,
            at.process,
            self._settings,
            fields,
            n,
            eps,
            dtype=dtype,
            conditioning=conditioning,
            agree=agree,
            means=self.means(at, fields, n),
            loss=self._loss,
        )

    def means(self, at: CoarseTask, fields: Tensor, n: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Gives posterior means of the fields for their modes x_n, if any are known.

        Training on them in place of the fields has the same average gradient, with less scatter.
        Here none are.
        """
        return None


@dataclass(frozen=True, eq=False)
class CoarseStart(ObservedStart):
    """The start from coarse fields of a network that sees them.

    Attributes:
        matrix: R.
        inverse: R^+.
        spins: results are +-1 where the coarse fields are averages over whole blocks: so many spins
            up in each as there have to be, those whose estimates are the largest.
        canonical: how estimates of these are moved, see :mod:`skild_physics.models.coarse`.
    """

    _: KW_ONLY
    matrix: Tensor
    inverse: Tensor
    spins: bool
    canonical: bool

    @property
    def block(self) -> int | None:
        """Sites per side of the blocks that coarse fields are averages over, if these are whole."""
        assert self.coarse is not None
        N, M = self.process.N, self.coarse.M
        return N // M if self.coarse.kernel == "box" and N % M == 0 else None

    def made_coarse(self, fields: Tensor) -> Tensor:
        """The coarse fields of full ones."""
        R = self.matrix.to(fields)
        return R @ fields @ R.T

    def lifted(self, y: Tensor) -> Tensor:
        """The nearest field to zero whose coarse field is y."""
        inverse = self.inverse.to(y)
        return inverse @ y @ inverse.T

    def agreeing(self, fields: Tensor, y: Tensor) -> Tensor:
        """Estimates, moved so that their coarse fields are y."""
        b = self.block if self.spins else None
        if b and self.canonical:
            P, ups = (self.inverse @ self.matrix).to(fields), (self.lifted(y) + 1) / 2 * b**2
            return canonical_means(fields, P, ups.round(), b**2, harmonics(b))
        lacking = self.lifted(y - self.made_coarse(fields))
        if b:
            free = variances(fields)
            lacking = lacking * free / self.lifted(self.made_coarse(free))
        return fields + lacking

    def guided(self, denoise: Denoiser, y: Tensor) -> Denoiser:
        """The denoiser whose estimates have the coarse fields y."""
        basis = self.process.basis

        def estimate(x_n: Tensor, n: float) -> Tensor:
            fields = kspace.inverse(denoise(x_n, n), basis)
            return kspace.forward(self.agreeing(fields, y), basis)

        return estimate

    def check(self, y: Tensor) -> None:
        """Refuse coarse fields that no spins have.

        Raises:
            InputError: there are such.
        """
        assert self.coarse is not None
        most = float(self.matrix.abs().sum(dim=1).max()) ** 2
        worst = float(y.abs().max())
        if not worst <= most + ROUNDING / self.process.N:
            raise InputError(
                f"coarse fields: values reach {worst:.4g}, and no spins +-1 give more than "
                f"{most:.4g} by `kernel` {self.coarse.kernel}"
            )
        if self.block is None:
            return
        up = (1 + y.double()) / 2 * self.block**2
        away = (up - up.round()).abs()
        if float(away.max()) > ROUNDING:
            value = float(y.flatten()[away.argmax()])
            raise InputError(
                f"coarse fields: {value:.4g} is the average of no {self.block} x {self.block} "
                "block of spins +-1; is `kernel` box right, and are these averages?"
            )

    def finished(self, fields: Tensor, given: Tensor) -> Tensor:
        """The fields, made to agree with the coarse ones."""
        y = given.to(fields)
        if not (self.spins and self.block):
            return self._cropped(self.agreeing(fields, y))
        return by_rank(fields, y, self.block)


@dataclass(frozen=True, eq=False, repr=False)
class CoarseSkild(Skild):
    """A SKILD model that may be conditioned on a coarse field."""

    name: ClassVar[str] = "a SKILD model that may be conditioned on coarse fields"

    @property
    def condition(self) -> CoarseConfig:
        """The coarse fields that it was trained on."""
        condition = self.config.condition
        assert isinstance(condition, CoarseConfig)
        return condition

    def output(self, x: Tensor, *others: Tensor) -> Tensor:
        """See :meth:`Model.output`; fields alone are full ones without a coarse field."""
        channels = len(self.channels)
        if x.shape[1] == channels:
            return self.of_active_modes(x.shape[-1])(x, *others)
        return super().output(x, *others)

    def of_active_modes(self, N: int) -> Network:
        """See :meth:`Skild.of_active_modes`."""
        channels = self.condition.inputs(len(self.channels))

        def network(x: Tensor, lam: Tensor) -> Tensor:
            return self.output(torch.cat([x, without_conditions(channels, N, x)], dim=1), lam)

        return network

    def observed(self, M: int, factor: float, kernel: Downsampling | None) -> Start:
        """See :meth:`Model.observed`."""
        condition, (low, high) = self.condition, self.condition.factors
        names = ", ".join(condition.kernels)
        if kernel is None:
            raise InputError(
                "the input does not say how it was coarse-grained: pass `kernel`, one of " + names
            )
        if kernel not in condition.kernels:
            unknown = "" if kernel in DOWNSAMPLINGS else ", and there is none of that name"
            raise InputError(f"`kernel`: this model was trained on {names}, not {kernel}{unknown}")
        if not low <= factor <= high:
            raise InputError(
                f"`factor`: this model was trained on {low:g} to {high:g}, got {factor:g}"
            )
        N, size = self.lattice(M, factor)
        process = self.process.resized(N)
        seen = Observation(process, kernel, M)
        where, labelled = phases(N, M)[None], labels(condition, kernel, N / M)[None]

        def draw(given: Tensor, noise: Noise) -> tuple[Tensor, Denoiser]:
            if given.shape[-2:] != (M, M):
                raise InputError(
                    f"coarse fields must be {M} x {M}, got {given.shape[-2]} x {given.shape[-1]}"
                )
            y = given.to(process.S0.device, torch.float32)
            if start.spins:
                start.check(y)
            shown = conditioning(start.lifted(y), where.to(y), labelled.to(y))
            known, maps = shown[:, : y.shape[1]], shown[:, y.shape[1] :]

            def network(x: Tensor, lam: Tensor) -> Tensor:
                lacking = [start.lifted(y - start.made_coarse(x))] if condition.consistent else []
                return self.output(torch.cat([x, known, *lacking, maps], dim=1), lam)

            denoise = denoiser(network, process, self.config.training.prediction)
            return seen.start(y, start.n, noise), start.guided(denoise, y)

        n = seen.step(condition.start_snr)
        start = CoarseStart(
            process,
            n,
            float(process.resolution(n, self.snr)),
            draw,
            self.snr,
            seen.residual if size == N else None,
            seen.variance,
            coarse=seen,
            wanted=size,
            matrix=downsampling_matrix(kernel, N, M, self.basis),
            inverse=pseudo_inverse(kernel, N, M, self.basis),
            spins=self.channels == ("spin",),
            canonical=condition.canonical,
        )
        return start

    def objective(self, loss: Loss = squared_error) -> Objective:
        """See :meth:`Model.objective`."""
        return CoarseObjective(self, loss)
