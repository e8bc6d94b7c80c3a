"""Train a model of critical Ising fields further, on exact posterior means in place of the fields.

    python benchmarks/exact_targets.py ising64.h5 OUT [--model paper_figures/ising64_canonical]
        [--steps 10000] [--sweeps 16] [--set KEY=VALUE]

The best answer to x_n, and to the averages over blocks that the network is told, is the mean of all
spins that fit them. A training field is one draw of these, and most of a gradient is its noise. Of
the Ising model at a known temperature more can be drawn: a Markov chain of their posterior
(`skild_physics.diffusion.ising_posterior`) that starts from the field itself, a draw already, has
nothing to relax, so its mean over however few sweeps is right on average and scatters less (stable
target fields, arXiv 2302.00670, and target score matching, 2402.08667, lower the same variance in
other ways). For other kernels, and on lattices of active modes, the targets are the fields.

Half of the fields are at steps where x_n resolves 14 to 64 pixels a side, where what is wrong in
the end comes from, and among the factors that are whole, 4 and 2 come first. What is trained so
knows the Hamiltonian, by its targets; `skild-physics train` knows fields alone.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import cast

import click
import numpy as np
import torch
from torch import Tensor

import skild_physics as sk
from skild_physics.diffusion.ising_posterior import IsingPosterior
from skild_physics.models.coarse import CoarseObjective, CoarseSkild, CoarseTask

FOCUS = (14.0, 64.0)
"""Effective resolutions at which half of the fields are."""
OPEN = (8.0, 96.0)
"""Those at which a few sweeps tell more than the field."""
FACTORS = {2: 0.3, 4: 0.4, 8: 0.2, 16: 0.1}
"""Shares of the factors that are whole."""
OVERRIDES = (
    "condition.unconditional=0.15",
    "condition.whole=0.9",
    "condition.kernels.box=6",
    "condition.kernels.spectral=1.5",
    "condition.kernels.gaussian=1.2",
    "condition.kernels.bicubic=0.4",
    "condition.kernels.lanczos=0.4",
    "training.learning_rate=1e-3",
    "training.hold=0.2",
)


class ExactTargets(CoarseObjective):
    """A model's own objective, with posterior means of so many sweeps for its targets."""

    def __init__(self, model: CoarseSkild, beta: float, sweeps: int):
        super().__init__(model)
        process, conditions = model.process, self.conditions
        self._N = process.N
        self._posterior = IsingPosterior(beta, sweeps)
        self._focus, self._open = (
            [process.step_at_resolution(R, model.snr) for R in reversed(ends)]
            for ends in (FOCUS, OPEN)
        )
        self._blocks = [
            0,
            *(
                self._N // M if kernel == "box" and self._N % M == 0 else 0
                for kernel, M in conditions.all
            ),
        ]
        of_factor = torch.tensor([0, *(FACTORS.get(self._N / M, 0.0) for _, M in conditions.all)])
        for kernel in conditions.condition.kernels:
            own = torch.tensor([False, *(each == kernel for each, _ in conditions.all)])
            whole = own & (of_factor > 0)
            share = of_factor[whole].double()
            self.shares[whole] = self.shares[whole].sum() * share / share.sum()
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def draw(self, count: int, generator: torch.Generator) -> tuple[CoarseTask, Tensor]:
        at, n = super().draw(count, generator)
        low, high = self._focus
        u = torch.rand(2, count, generator=generator, dtype=torch.float64)
        if at.N < self._N:
            return at, n
        focused = low + (self.ends[at.numbers].clamp(max=high) - low) * u[1]
        return at, torch.where((u[0] < 0.5) & (focused > low), focused, n)

    def means(self, at: CoarseTask, fields: Tensor, n: Tensor) -> Callable[[Tensor], Tensor] | None:
        if at.N < self._N:
            return None
        numbers = at.numbers.expand(len(fields)).tolist()
        low, high = self._open

        def of_modes(x_n: Tensor) -> Tensor:
            found = fields.clone()

            def run(i: int) -> None:
                number, step = numbers[i], float(n[i])
                block = self._blocks[number] or None
                if (number and not block) or not low < step < high:
                    return
                spins = fields[i].numpy().astype(np.int8)
                made = self._posterior.given(at.process, x_n[i : i + 1], step, spins, block=block)
                found[i] = torch.as_tensor(made.mean).to(found)

            list(self._pool.map(run, range(len(fields))))
            return found

        return of_modes


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.argument("data")
@click.argument("out")
@click.option("--model", default="paper_figures/ising64_canonical", show_default=True)
@click.option("--steps", default=10_000, show_default=True)
@click.option("--sweeps", default=16, show_default=True, help="Of the chain of every field.")
@click.option("--set", "changes", multiple=True, help="Of the configuration.")
def main(
    data: str, out: str, model: str, steps: int, sweeps: int, changes: tuple[str, ...]
) -> None:
    before = cast(CoarseSkild, sk.load(model))
    channels = f"network.channels={list(before.config.network.channels)}"
    given = (f"out={out}", f"data.source={data}", channels, f"training.steps={steps}")
    config = sk.load_config("ising64-coarse", (*given, *OVERRIDES, *changes))
    network = config.build_network(before.process, 1)
    network.load_state_dict(before.network.state_dict())
    objective = ExactTargets(replace(before, config=config), sk.open(data).attrs["beta"], sweeps)
    sk.train(config, network=network, objective=objective, progress=sk.bar)


if __name__ == "__main__":
    main()
