"""What a network loses against the exact denoiser of critical Ising fields, at every resolution.

    python benchmarks/excess.py [CHECKPOINT] [--fields 12] [--sweeps 150] [--block 4]

For held-out fields diffused to an effective resolution R, D is the network's estimate and m_1, m_2
are posterior means by Monte Carlo, of two chains that start from the true fields, draws of the
posterior themselves, and part for as many sweeps as are measured then. Per site, without bias,

    MMSE   = E (s - m)^2 = 1 - E s m
    excess = E (D - m)^2 = E (D - m_1)(D - m_2)

and the loss of training is their sum: only the excess can be removed. With --block, averages over
blocks of so many sites a side are known as well, to the network and to the chains. Beside it is
what exact means that do not know them lose once they are moved to agree, in the two ways of
`skild_physics.models.coarse`. Errors are those of the fields.
"""

from collections.abc import Sequence
from dataclasses import replace

import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import skild_physics as sk
from skild_physics import kspace
from skild_physics.diffusion.ising_posterior import IsingPosterior
from skild_physics.diffusion.noise import SampleNoise
from skild_physics.diffusion.process import Process
from skild_physics.fields.downsampling import downsample
from skild_physics.models.coarse import CoarseStart
from skild_physics.models.skild import Skild
from skild_physics.tables import with_error

Array = NDArray[np.float64]


def two_means(
    posterior: IsingPosterior,
    process: Process,
    x: torch.Tensor,
    n: float,
    spins: NDArray[np.int8],
    block: int | None,
) -> list[Array]:
    """Posterior means (B, L, L) by two chains, given averages of the spins over blocks or not."""
    means = []
    for chain in (1, 2):
        # so that the chains have forgotten where both of them started
        apart = posterior.given(process, x, n, spins, (chain, 0), block).spins
        means.append(posterior.given(process, x, n, apart, (chain, 1), block).mean)
    return means


def moved(start: CoarseStart, means: Array, y: torch.Tensor, canonical: bool) -> Array:
    """Means that knew nothing of the averages y, moved to agree."""
    given = torch.as_tensor(means)[:, None]
    return replace(start, canonical=canonical).agreeing(given, y)[:, 0].numpy()


@torch.no_grad()
def measured(
    models: Sequence[Skild],
    spins: NDArray[np.int8],
    resolution: float,
    beta: float,
    sweeps: int,
    block: int | None = None,
) -> tuple[Array, list[Array]]:
    """MMSE per site of every field (B,), and the excess of every model, all of one process.

    With blocks also that of exact means without their averages, moved in two ways to agree.
    """
    process, snr = models[0].process, models[0].snr
    n = process.step_at_resolution(resolution, snr)
    fields = torch.as_tensor(spins, dtype=torch.float64)[:, None]
    x_0 = kspace.forward(fields, process.basis)
    alpha, sigma = process.marginal(n)
    noise = SampleNoise(0, range(len(spins)))
    x = alpha * x_0 + sigma * noise.like(x_0)
    posterior = IsingPosterior(beta, sweeps)
    exact = two_means(posterior, process, x, n, spins, block)
    mmse = 1 - (spins * np.mean(exact, axis=0)).mean(axis=(1, 2))

    def excess(one: Array, other: Array) -> Array:
        found: Array = ((one - exact[0]) * (other - exact[1])).mean(axis=(1, 2))
        return found

    found, y = [], torch.empty(0)
    if block is not None:
        y = downsample(fields.float(), "box", process.N // block, process.basis)
    for model in models:
        denoise = model.denoiser()
        if block is not None:
            start = model.observed(process.N // block, block, "box")
            denoise = start.draw(y, noise)[1]
        D = kspace.inverse(denoise(x.float(), n).double(), process.basis)[:, 0].numpy()
        found.append(excess(D, D))
    if block is not None:
        assert isinstance(start, CoarseStart)
        untold = two_means(posterior, process, x, n, spins, None)
        for canonical in (False, True):
            found.append(excess(*(moved(start, each, y, canonical) for each in untold)))
    return mmse, found


def shown(values: Array) -> str:
    return with_error(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


@click.command()
@click.argument("checkpoint", default="bundled")
@click.option("--data", help="Held-out critical fields.  [default: some are made]")
@click.option("--fields", default=12, show_default=True, help="Number of fields.")
@click.option("--sweeps", default=150, show_default=True, help="Of each of the two chains.")
@click.option("--resolutions", default="8,16,24,32,48,64", show_default=True, help="R of the rows.")
@click.option("--block", type=int, help="Sites a side of blocks whose averages are known.")
def main(
    checkpoint: str,
    data: str | None,
    fields: int,
    sweeps: int,
    resolutions: str,
    block: int | None,
) -> None:
    names, models = ["as trained"], [sk.load(checkpoint)]
    if block is None:
        names.append("all modes")
        models.append(sk.load(checkpoint, snr_threshold=0.0))
    else:
        names += ["exact untold, to first order", "exact untold, canonical"]
    made = (
        sk.open(data, samples=fields)
        if data
        else sk.generate_ising(models[0].size, samples=fields, seed=77, sweeps=0)
    )
    table = Table("R", "MMSE", *(f"excess, {name}" for name in names), "relative, as trained")
    console = Console()
    for R in map(float, resolutions.split(",")):
        mmse, excess = measured(models, made.values, R, made.attrs["beta"], sweeps, block)
        relative = f"{100 * excess[0].mean() / mmse.mean():.2g} %"
        table.add_row(f"{R:g}", shown(mmse), *map(shown, excess), relative)
    console.print(table)


if __name__ == "__main__":
    main()
