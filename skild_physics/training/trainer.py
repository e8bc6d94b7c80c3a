"""The step of a training: the optimiser on the objective, and an average of the weights.

Step i of a run draws everything it needs from seeds that depend on (seed, i) alone, and each
field's noise from a seed of its own. So an interrupted and resumed run is the same run, and the
same global batch gives the same loss however many processes and accumulated parts share it.
"""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from skild_physics.config import Config
from skild_physics.config.training import TrainingConfig
from skild_physics.diffusion.loss import LossSecondMomentSteps
from skild_physics.diffusion.philox import key_words, normal_fields
from skild_physics.fields.lazy import digest
from skild_physics.fields.sources import Opening
from skild_physics.files import InputError
from skild_physics.kspace import LARGEST_MATRIX
from skild_physics.machine import World
from skild_physics.models.base import Model
from skild_physics.models.checkpoint import build_model
from skild_physics.models.coarse import CoarseObjective
from skild_physics.models.making import parameters_of
from skild_physics.models.objective import (
    Loss,
    Objective,
    parts_of_task,
    rows_of,
    squared_error,
)
from skild_physics.networks.unet import CompactUNet
from skild_physics.training.agreement import check_process, some_of
from skild_physics.training.data import open_training_fields, training_batch
from skild_physics.training.execution import Execution, choose, compiling
from skild_physics.training.graphs import Graphs, NotCapturedError
from skild_physics.training.optimizer import build_optimizer, captured, parts_of
from skild_physics.training.runner import Runner, reason
from skild_physics.training.state import check_like, check_moments

Log = Callable[[str], None]

REHEARSAL = 0.5
"""Seconds for which a way of computing steps is tried, or the time of three steps."""


def learning_rate(settings: TrainingConfig, step: int) -> float:
    """Linear warm-up, a plateau, then a cosine to zero at the last step."""
    warm = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    hold = settings.hold * settings.steps
    done = max(0.0, (step - hold) / max(settings.steps - hold, 1))
    return settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def _update(average: AveragedModel, network: nn.Module, decay: float) -> None:
    """Take the weights of a step into the average, which is shorter at the start of a run."""
    # AveragedModel's own update would wait for a GPU to say how many there were
    done = int(average.n_averaged)
    kept = min(decay, (1 + done) / (10 + done)) if done else 0.0
    ours, theirs = average.module, network
    torch._foreach_lerp_(list(ours.parameters()), list(theirs.parameters()), 1 - kept)
    for buffer, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        buffer.copy_(other)
    average.n_averaged += 1


@dataclass(frozen=True)
class Step:
    """What one step of the optimisation gave: the loss of its batch, the gradient's norm."""

    loss: float
    gradient_norm: float


class Trainer:
    """All that a run holds while it trains, and its one step.

    Args:
        config: the run.
        world: the processes that share it.
        log: receives lines of text about the run.
        execution: how steps are computed; None: as a few steps show to be the fastest.
        fields: to train on, in place of those of the configuration's source.
        loss: of the network's output and its target.
        objective: what to minimise instead of what the model's kind says.
        network: untrained, in place of the one that the configuration describes.

    Raises:
        InputError: inputs are missing or do not fit together.
    """

    def __init__(
        self,
        config: Config,
        world: World,
        log: Log,
        execution: Execution | None = None,
        *,
        fields: Any = None,
        loss: Loss = squared_error,
        objective: Objective | None = None,
        network: nn.Module | None = None,
    ):
        settings, data = config.training, config.data
        if objective is not None and loss is not squared_error:
            raise InputError("`loss` goes without `objective`, which has its own")
        self.config, self.world, self._log = config, world, log
        self.part = settings.batch_size // (world.size * settings.accumulate)
        if self.part * world.size * settings.accumulate != settings.batch_size:
            raise InputError(
                f"training.batch_size = {settings.batch_size} is not a multiple of "
                f"{world.size} processes times training.accumulate = {settings.accumulate}"
            )
        opening: Opening = {} if fields is not None else data.opening()
        self.fields, heldout = open_training_fields(
            data.source if fields is None else fields,
            heldout=data.heldout if "heldout" in data.model_fields_set else None,
            symmetry=data.symmetry,
            memory=int(data.memory_gib * 2**30),
            device=world.device,
            **opening,
        )
        assert heldout is not None
        self.heldout = heldout
        S0, basis = config.process.modes()
        config.check_sizes(len(S0), self.fields.size, network)
        torch.manual_seed(settings.seed)
        self._model = build_model(
            config,
            self.fields.channels,
            S0.to(world.device),
            basis,
            network,
            trained_on=parameters_of(self.fields.attrs),
        )
        self.process = self._model.process
        if empty := int(self.process.empty.sum()):
            log(f"{empty} of {self.process.N**2} modes have no variance, and stay zero")
        some = some_of(self.fields)
        check_process(some, self.fields.name, self.process, config, log)
        # by which a training that goes on knows its data again
        self._data = f"{self.fields.count} {digest(some.numpy())}"
        self.objective = self._model.objective(loss) if objective is None else objective

        self.network = self._model.network.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedModel(self.network).eval()
        self.average.n_averaged = self.average.n_averaged.cpu()
        self.optimizer = build_optimizer(self.network, settings)
        self.important = (
            LossSecondMomentSteps(self.process.T) if settings.timesteps == "second-moment" else None
        )
        self._pool, self._ahead = ThreadPoolExecutor(1), dict[int, Future[Tensor]]()

        enabled = settings.precision == "float16"
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=enabled)
        self._switch = Runner(self.network)
        self.runner: nn.Module = self._switch
        self._is_known = (
            objective is None
            and loss is squared_error
            and (network is None or type(network) is CompactUNet)
            and all(weight.requires_grad for weight in self.network.parameters())
        )
        self._graphs = self._capturing()
        self._before: list[Tensor] = []
        self._execute_as(execution or self._chosen())
        if world.size > 1:
            # a step on a small field leaves the levels of a Flexi-UNet above it without a gradient
            several = config.network.takes_levels
            self.runner = DistributedDataParallel(self.runner, find_unused_parameters=several)

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        return self.execution.dtype

    def _chosen(self) -> Execution:
        """The fastest way of computing steps, the same for all processes."""
        # the host only feeds a GPU
        most, device = torch.get_num_threads(), self.world.device
        if device.type != "cpu" or self.config.training.threads != "auto":
            most = 1
        else:
            most = int(self.world.gathered(torch.tensor(most)).min())
        examples = self.objective.examples(self.part)

        def seconds(ways: list[Execution]) -> list[float]:
            times = torch.tensor(self._times(ways, *examples[0]), device=self.world.device)
            slowest: list[float] = self.world.gathered(times).amax(dim=0).tolist()
            return slowest

        return choose(self.config.training, seconds, most, len(examples), self._log)

    def _times(self, ways: Sequence[Execution], at: Any, n: Tensor) -> list[float]:
        """Seconds of a forward and a backward pass in each way, the least of a few in turns."""
        times: dict[Execution, list[float]] = {}
        if any(way.compile for way in ways):
            self._switch.forget()
        for way in ways:
            try:
                self._take(way)
                with compiling(self._log) if way.compile else nullcontext():
                    self._rehearse(at, n)
                times[way] = []
            except Exception as error:
                if not way.compile:
                    raise
                self._log(f"torch.compile fails: {reason(error)}")
        began, rounds = time.perf_counter(), 0
        limit = REHEARSAL * len(times)
        while rounds < 3 or (rounds < 20 and time.perf_counter() - began < limit):
            rounds += 1
            for way, found in times.items():
                self._take(way)
                start = time.perf_counter()
                self._rehearse(at, n)
                found.append(time.perf_counter() - start)
        return [min(times.get(way, [math.inf])) for way in ways]

    def _capturing(self) -> Graphs | None:
        """Graphs to hold steps, where they serve."""
        world, config = self.world, self.config
        if world.device.type != "cuda" or world.size > 1 or config.training.precision == "float16":
            return None
        # what is known to wait for nothing, to draw nothing, and to use every weight
        serves = (
            self._is_known
            and config.network.kind == "compact"
            and getattr(self.objective, "is_fixed", False)
            and self.process.N <= LARGEST_MATRIX
        )
        return Graphs(world.device) if serves else None

    def _clear(self) -> None:
        """No gradients; graphs add to tensors that stay."""
        if self._graphs is None:
            self.optimizer.zero_grad()
            return
        weights = list(self.network.parameters())
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        torch._foreach_zero_([weight.grad for weight in weights])

    def _take(self, way: Execution) -> None:
        self.execution = way
        torch.set_num_threads(way.threads)
        self._switch.compiled = way.compile
        if isinstance(self.objective, CoarseObjective):
            self.objective.compiled = way.compile

    def _execute_as(self, way: Execution) -> None:
        """Compute steps in a way from now on; without the compiler if that fails."""
        try:
            self._take(way)
            if self._graphs is not None:
                self._graphs.forget()
            if way.compile:
                # all that may come, since nothing is to be compiled outside
                self._switch.forget()
                with compiling(self._log):
                    for at, n in self.objective.examples(self.part):
                        self._rehearse(at, n)
        except Exception as error:
            if not self._simpler(error):
                raise

    def _uncaptured(self, error: Exception) -> None:
        self._log(f"training without CUDA graphs: {reason(error)}")
        self._graphs = None

    def _simpler(self, error: Exception) -> bool:
        """Compute steps without graphs from now on, or without the compiler; False: neither was."""
        if isinstance(error, NotCapturedError):
            self._uncaptured(error)
        elif self.execution.compile:
            self._log(f"training without torch.compile, which failed: {reason(error)}")
            self._take(replace(self.execution, compile=False))
        else:
            return False
        self._clear()
        return True

    def _rehearse(self, at: Any, n: Tensor) -> None:
        """A forward and a backward pass, as in a step, that change nothing."""
        device = self.world.device
        fields = self._model.pictured(
            self.fields.take(torch.arange(self.part) % self.fields.count).to(device)
        )
        words = key_words(range(self.part), device)
        try:
            self._add_gradients(at, fields, n, torch.ones(self.part), words)
        except NotCapturedError as error:
            self._uncaptured(error)
        self._clear()
        if device.type == "cuda":
            torch.cuda.synchronize()

    def _seeds(self, step: int) -> list[int]:
        """For fields, steps n, dropout, and the noise of each field."""
        settings = self.config.training
        root = np.random.SeedSequence([settings.seed, step])
        return [int(seed) for seed in root.generate_state(3 + settings.batch_size, np.uint64)]

    def _fields(self, step: int) -> Tensor:
        """This process's part of a batch; where the CPU makes it, the next one is made behind."""
        settings, mine = self.config.training, self.part * self.config.training.accumulate
        where = slice(mine * self.world.rank, mine * (self.world.rank + 1))

        def make(step: int) -> Tensor:
            generator = torch.Generator().manual_seed(self._seeds(step)[0])
            batch = training_batch(self.fields, settings.batch_size, generator, where)
            return self._model.pictured(batch)

        if self.fields.device.type != "cpu":
            return make(step)
        now = self._ahead.pop(step, None)
        batch = now.result() if now is not None else make(step)
        self._ahead = {step + 1: self._pool.submit(make, step + 1)}
        return batch

    def step(self, step: int) -> Step:
        """One step of the optimisation, number ``step`` of the run.

        Raises:
            FloatingPointError: the loss or the gradient became nan or infinite; the weights are
                those before the step.
        """
        settings, world = self.config.training, self.world
        seeds = self._seeds(step)
        generator = torch.Generator().manual_seed(seeds[1])
        factor = torch.ones(settings.batch_size)
        if self.important is None:
            at, n = self.objective.draw(settings.batch_size, generator)
        else:
            at = self.process
            n, factor = self.important.draw(settings.batch_size, generator)
        fields = self._fields(step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        losses = None
        while losses is None:
            try:
                losses = self._backward(at, n, factor, fields, seeds)
            except Exception as error:
                if not self._simpler(error):
                    raise
        self.scaler.unscale_(self.optimizer)
        of_gradient = nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        # a GPU is waited for once
        read = torch.cat([world.gathered(losses).flatten(), of_gradient[None]]).cpu()
        every, norm = read[:-1], float(read[-1])
        value = float((every * factor).mean())
        if not math.isfinite(value):
            # losses may be finite and their mean not
            worst = torch.where(every.isfinite(), every, math.inf).argmax()
            raise FloatingPointError(
                f"the loss became {value} at step {step}, n = {float(n[worst]):.1f}"
            )
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            raise FloatingPointError(f"the gradient became {norm} at step {step}")
        if self.important is not None:
            self.important.update(n, every)
        self._optimize()
        _update(self.average, self.network, settings.ema)
        return Step(value, norm)

    def _optimize(self) -> None:
        """A step of the optimiser with the gradients there are."""
        if self._graphs is None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return
        weights = [weight.detach() for weight in self.network.parameters()]
        self._before = self._before or [weight.clone() for weight in weights]
        before, groups = self._before, self.optimizer.param_groups
        rate, whole = groups[0]["lr"], self.config.training.learning_rate

        def work() -> None:
            torch._foreach_copy_(before, weights)
            with captured(self.optimizer):
                self.optimizer.step()

        # Muon waits for a rate that is a tensor, so a graph has one; its change is linear in it
        for group in groups:
            group["lr"] = whole
        try:
            self._graphs("optimizer", work)
        except NotCapturedError as error:
            self._uncaptured(error)
            work()
        if rate != whole:
            torch._foreach_lerp_(weights, before, 1 - rate / whole)

    def _backward(
        self, at: Any, n: Tensor, factor: Tensor, fields: Tensor, seeds: list[int]
    ) -> Tensor:
        """Gradients of this process's part of a batch, and the losses of its fields."""
        world, mine = self.world, len(fields)
        torch.manual_seed(seeds[2] + world.rank)
        self._clear()
        losses = []
        for first in range(0, mine, self.part):
            rows = slice(world.rank * mine + first, world.rank * mine + first + self.part)
            whole = first + self.part == mine
            wait = isinstance(self.runner, DistributedDataParallel) and not whole
            with self.runner.no_sync() if wait else nullcontext():  # type: ignore[operator]
                loss = self._add_gradients(
                    rows_of(at, rows),
                    fields[first : first + self.part].to(world.device),
                    n[rows],
                    factor[rows] / mine,
                    key_words(seeds[3:][rows], world.device),
                )
            losses.append(loss)
        return torch.cat(losses)

    def _add_gradients(
        self, at: Any, fields: Tensor, n: Tensor, factor: Tensor, words: Tensor
    ) -> Tensor:
        """A forward and a backward pass of a part of a batch: its losses.

        Args:
            at: see :class:`Objective`.
            fields: x_0, on the device.
            n: their steps.
            factor: of each loss in the sum whose gradients are added.
            words: keys of the noise of each.
        """

        def work(fields: Tensor, n: Tensor, factor: Tensor, words: Tensor, *rest: Tensor) -> Tensor:
            eps = normal_fields(words, (fields.shape[1], at.N, at.N))
            task = at.with_tensors(*rest) if rest else at
            losses = self.objective.losses(self.runner, task, fields, n, eps, self.dtype)
            torch.autograd.backward(self.scaler.scale((losses * factor.to(losses)).sum()))
            return losses.detach()

        if self._graphs is not None:
            task, rest = parts_of_task(at)
            device = self.world.device
            drawn = (each.to(device, non_blocking=True) for each in (n, factor, words, *rest))
            name = (task, len(fields), self.execution)
            found: Tensor = self._graphs(name, work, fields, *drawn)
            return found.clone()
        return work(fields, n, factor, words)

    def state(self) -> dict[str, Any]:
        """What the next step depends on."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "steps": self.important.state_dict() if self.important is not None else {},
            "data": self._data,
            "S0": self.process.S0,
        }

    def load(self, state: dict[str, Any], source: str = "state") -> None:
        """Go on from a saved state.

        Args:
            state: as :meth:`state` gives it.
            source: its file, for messages.

        Raises:
            InputError: it is that of another training, or damaged.
        """
        own = self.state()
        # states of earlier versions say neither
        data, S0 = (state.get(name, own[name]) for name in ("data", "S0"))
        check_like(S0, own["S0"], f"{source}: S0")
        # processors differ in the last digits of a law
        if data != own["data"] or not torch.allclose(S0.to(own["S0"]), own["S0"], 1e-9, 0):
            raise InputError(
                f"{source}: was trained on other fields or another spectrum than there are now; "
                "put them back, or pass `overwrite=True` to start again"
            )
        for name in ("network", "average", *(["steps"] if own["steps"] else [])):
            check_like(state.get(name), own[name], f"{source}: {name}")
        parts = parts_of(self.optimizer)
        found = state.get("optimizer")
        for name, part in parts.items():
            saved = found.get(name) if name and isinstance(found, dict) else found
            check_moments(saved, part, f"{source}: optimizer")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self._graphs is not None:
            self._graphs.forget()
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.important is not None:
            self.important.load_state_dict(state["steps"])

    def model(self, step: int) -> Model:
        """The averaged network, for inference."""
        return replace(self._model, network=self.average.module, trained_steps=step)

    def heldout_fields(self, count: int) -> Tensor:
        """The first so many held-out fields, as the network is trained on them."""
        numbers = torch.arange(min(count, self.heldout.count))
        return self._model.pictured(self.heldout.take(numbers))

    def calibrate(self, step: int, count: int) -> None:
        """Measure what the model must know of its errors, on so many held-out fields."""
        self._model = self.model(step).calibrated(self.heldout_fields(count), self.part)

    @property
    def parameters(self) -> int:
        """Number of weights of the network."""
        return sum(p.numel() for p in self.network.parameters())

    def about(self) -> list[str]:
        """The run in three lines: network, data, steps."""
        settings, parts = self.config.training, self.config.training.accumulate
        return [
            f"network: {self.config.kind}, {type(self.network).__name__} of "
            f"{self.parameters:,} parameters; {self.world.device}, {self.execution}",
            f"data: {self.fields.name}, {self.fields.count:,} fields of "
            f"{len(self.fields.channels)} x {self.fields.size} x {self.fields.size} and "
            f"{self.heldout.count:,} held out",
            f"steps: {settings.steps:,} of {settings.batch_size} fields"
            + (f" in {parts} parts" if parts > 1 else "")
            + (f" on {self.world.size} processes" if self.world.size > 1 else ""),
        ]

    def summary(self) -> str:
        """The same in one."""
        return "; ".join(self.about())
