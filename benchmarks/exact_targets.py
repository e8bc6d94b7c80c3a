"""How well a network of this size could do one thing: train it further on that alone, exactly.

    python benchmarks/exact_targets.py ising64.h5 OUT [--model paper_figures/ising64_canonical]
        [--block 4] [--resolutions 29,52] [--steps 1500] [--sweeps 30] [--channels 96,128]
        [--gains] [--set KEY=VALUE]

The best answer to x_n, and to the averages over blocks that the network is told, is the mean of all
spins that fit them. A training field is one draw of these, and most of a gradient is its noise. Of
the Ising model at a known temperature more can be drawn: a Markov chain of their posterior
(`skild_physics.diffusion.ising_posterior`) that starts from the field itself, a draw already, has
nothing to relax, so its mean over however few sweeps is right on average and scatters less (stable
target fields, arXiv 2302.00670, and target score matching, 2402.08667, lower the same variance in
other ways). With --sweeps 0 the targets are the fields, as in `skild-physics train`.

All fields are given averages over blocks of one size (--block 0: none), at steps where x_n resolves
--resolutions pixels a side. What `benchmarks/excess.py` then finds there is what the network can
do; what it found before was what it does beside everything else. With --channels it is a wider one,
which goes on from the same weights (`skild_physics.networks.widening`), and with --gains all of its
weights stay but those by which lambda and the condition act on it.
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
from skild_physics.networks.widening import widen

OVERRIDES = ("training.learning_rate=1e-3", "training.hold=0", "training.ema=0.995")


class ExactTargets(CoarseObjective):
    """A model's own objective for one size of blocks, with posterior means for its targets.

    Args:
        model: of critical Ising fields.
        beta: their inverse temperature.
        block: sites a side of the blocks whose averages are known; 0: none are.
        resolutions: of x_n, the lowest and the highest.
        sweeps: that means are over; 0: targets are the fields.
    """

    def __init__(
        self,
        model: CoarseSkild,
        beta: float,
        block: int,
        resolutions: tuple[float, float],
        sweeps: int,
    ):
        super().__init__(model)
        process = model.process
        self._at, self._block = process, block or None
        known = ("box", process.N // block) if block else None
        self._number = 1 + self.conditions.all.index(known) if known else 0
        self._low, self._high = (
            process.step_at_resolution(R, model.snr) for R in reversed(resolutions)
        )
        self._posterior = IsingPosterior(beta, sweeps) if sweeps else None
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def draw(self, count: int, generator: torch.Generator) -> tuple[CoarseTask, Tensor]:
        u = torch.rand(count, generator=generator, dtype=torch.float64)
        numbers = torch.full((count,), self._number)
        return CoarseTask(self._at, numbers), self._low + (self._high - self._low) * u

    def examples(self, count: int) -> list[tuple[CoarseTask, Tensor]]:
        return [self.draw(count, torch.Generator().manual_seed(0))]

    def means(self, at: CoarseTask, fields: Tensor, n: Tensor) -> Callable[[Tensor], Tensor] | None:
        posterior, block = self._posterior, self._block
        if posterior is None or at.N < self._at.N or bool((at.numbers != self._number).any()):
            return None
        spins = fields[:, 0].numpy().astype(np.int8)

        def of_modes(x_n: Tensor) -> Tensor:
            def mean(i: int) -> Tensor:
                one = slice(i, i + 1)
                made = posterior.given(at.process, x_n[one], float(n[i]), spins[one], block=block)
                return torch.as_tensor(made.mean).to(fields)

            return torch.stack(list(self._pool.map(mean, range(len(fields)))))

        return of_modes


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.argument("data")
@click.argument("out")
@click.option("--model", default="paper_figures/ising64_canonical", show_default=True)
@click.option("--block", default=4, show_default=True, help="Sites a side; 0: nothing is known.")
@click.option("--resolutions", default="29,52", show_default=True, help="Of x_n.")
@click.option("--steps", default=1500, show_default=True)
@click.option("--sweeps", default=30, show_default=True, help="Of a chain; 0: the fields.")
@click.option("--channels", help="More of them on each level.  [default: those of the model]")
@click.option("--gains", is_flag=True, help="Train no more than how conditions act.")
@click.option("--set", "changes", multiple=True, help="Of the configuration.")
def main(
    data: str,
    out: str,
    model: str,
    block: int,
    resolutions: str,
    steps: int,
    sweeps: int,
    channels: str | None,
    gains: bool,
    changes: tuple[str, ...],
) -> None:
    before = cast(CoarseSkild, sk.load(model))
    given = (f"out={out}", f"data.source={data}", f"training.steps={steps}")
    network = f"network.channels=[{channels or str(before.config.network.channels)[1:-1]}]"
    config = sk.load_config("ising64-coarse", (*given, network, *OVERRIDES, *changes))
    started = config.build_network(before.process, 1)
    if channels:
        widen(started, before.network)
    else:
        started.load_state_dict(before.network.state_dict())
    low, high = map(float, resolutions.split(","))
    for name, weight in started.named_parameters():
        weight.requires_grad_(not gains or "gain." in name or name.startswith("embed."))
    beta = sk.open(data).attrs["beta"]
    objective = ExactTargets(replace(before, config=config), beta, block, (low, high), sweeps)
    sk.train(config, network=started, objective=objective, progress=sk.bar)


if __name__ == "__main__":
    main()
