"""What can be made of coarse fields without training on any: guidance beside conditioning.

    python benchmarks/guidance.py [--fields 512] [--factor 4] [--out results.json]

Averages y over F x F spins of critical lattices are super-resolved by an unconditional model in
three ways, and by a model that was trained to be conditioned on them:

    projection    every estimate D of x_0 is made to agree with y (what super-resolve does)
    Jacobian      by Tweedie's formula D + (sigma_n^2 / alpha_n) grad log p(y | x_n), where y given
                  x_n is taken for N(R D, R V R^T): the gradient goes through the network, and V,
                  the variance that D leaves in each mode at step n, is measured on other fields
                  (Song et al., pseudo-inverse guidance, ICLR 2023, there with V = r^2). Where
                  D leaves more than V open the step goes too far; it is shortened in each field
                  to that which brings R D nearest to y
    time travel   after every step back in projection, noise is added again, and the step is
                  repeated (Lugmayr et al., RePaint, arXiv 2201.09865)

In all, the spins of each block are set by rank, so that their averages are y. Rows hold residuals
of kappa4 at r = 1, 2, 4, .. and of the energy per spin, the overlap with the truth, and the time,
which is that of the networks' arithmetic. Exact draws have no residuals.
"""

import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
import torch
import xarray as xr
from against_truth import line, measured
from torch import Tensor

import skild_physics as sk
from skild_physics import kspace
from skild_physics.diffusion.integrators import multistep, step_grid
from skild_physics.diffusion.noise import Noise, SampleNoise
from skild_physics.diffusion.observation import Observation
from skild_physics.models.coarse import by_rank
from skild_physics.models.skild import Skild

UNCONDITIONAL = str(Path(__file__).parents[1] / "paper_figures" / "ising64_unconditional")
CALIBRATED = 128
"""Fields that V is measured on."""
MOST_CERTAIN = 1e-4
"""Smallest V over S0 that is believed, of a mode that D knows."""


class Jacobian:
    """The denoiser given y, by the gradient of its likelihood."""

    def __init__(self, model: Skild, seen: Observation, Y: Tensor, others: Tensor):
        self.model, self.seen, self.Y = model, seen, Y
        self.denoise = model.denoiser()
        self._X = kspace.forward(others, model.basis)
        self._inverse: dict[float, Tensor] = {}

    def inverse(self, n: float) -> Tensor:
        """(R V R^T)^-1 in the modes of y, measured once a step, float64, shape (M^2, M^2)."""
        if n not in self._inverse:
            marginal = self.model.process.marginal(n)
            noise = SampleNoise(1, range(len(self._X)))
            x = marginal.alpha.float() * self._X + marginal.sigma.float() * noise.like(self._X)
            with torch.no_grad():
                V = (self._X - self.denoise(x, n)).double().square().mean(dim=(0, 1))
            V = torch.maximum(V, MOST_CERTAIN * self.model.process.S0)
            K = self.seen.K
            R = torch.einsum("iu,jv->ijuv", K, K).flatten(2).flatten(0, 1)
            self._inverse[n] = torch.linalg.inv((R * V.flatten()) @ R.T)
        return self._inverse[n]

    def __call__(self, x: Tensor, n: float) -> Tensor:
        K, inverse = self.seen.K.to(x), self.inverse(n)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            D = self.denoise(x, n)
            away = self.Y - K @ D.detach() @ K.T
            w = (away.double().flatten(2) @ inverse).reshape(self.Y.shape).to(x)
            (gradient,) = torch.autograd.grad((D * (K.T @ w @ K)).sum(), x)
        marginal = self.model.process.marginal(n)
        step = (marginal.sigma**2 / marginal.alpha).to(x) * gradient
        seen = K @ step @ K.T
        best = (away * seen).sum((1, 2, 3)) / seen.square().sum((1, 2, 3)).clamp(min=1e-12)
        return D.detach() + best.clamp(0, 1)[:, None, None, None] * step


def travelled(
    model: Skild, seen: Observation, y: Tensor, steps: Tensor, repeats: int, noise: Noise
) -> Tensor:
    """Modes x_0 by projection, every step but the last taken ``repeats`` times."""
    denoise, process = seen.guided(model.denoiser(), y), model.process
    x = seen.start(y, float(steps[0]), noise)
    for n, m in pairwise(steps.tolist()):
        for i in range(repeats if m > 0 else 1):
            pair = torch.tensor([n, m], dtype=torch.float64)
            back = multistep(process, denoise, x, pair, 1, 1.0, noise)
            if m == 0 or i + 1 == repeats:
                x = back
                break
            before, after = process.marginal(m), process.marginal(n)
            kept = after.alpha / before.alpha
            spread = (after.sigma**2 - (kept * before.sigma) ** 2).clamp(min=0).sqrt()
            x = kept.to(x) * back + spread.to(x) * noise.like(x)
    return x


def in_batches(
    make: Callable[[Tensor, Noise], Tensor], y: Tensor, size: int = 64
) -> tuple[Tensor, float]:
    """What is made of all coarse fields, and the seconds that it took."""
    began, made = time.perf_counter(), []
    for first in range(0, len(y), size):
        given = y[first : first + size]
        made.append(make(given, SampleNoise(7, range(first, first + len(given)))))
    return torch.cat(made), time.perf_counter() - began


def ways(model: Skild, factor: int, others: Tensor) -> dict[str, Callable[[Tensor, Noise], Tensor]]:
    """Fields of coarse ones, by an unconditional model in every way."""
    process, basis = model.process, model.basis
    seen = Observation(process, "box", process.N // factor)
    for w in model.network.parameters():
        w.requires_grad_(False)

    def started(y: Tensor, noise: Noise, n_evals: int) -> tuple[Tensor, Tensor]:
        n = seen.step(0.01)
        return seen.start(y, n, noise), step_grid(process, n, n_evals)

    def projected(n_evals: int, stochastic: bool) -> Callable[[Tensor, Noise], Tensor]:
        def make(y: Tensor, noise: Noise) -> Tensor:
            x, steps = started(y, noise, n_evals)
            denoise = seen.guided(model.denoiser(), y)
            x_0 = multistep(process, denoise, x, steps, 2, float(stochastic), noise)
            return kspace.inverse(x_0, basis)

        return make

    jacobian = Jacobian(model, seen, torch.empty(0), others)

    def guided(n_evals: int, stochastic: bool) -> Callable[[Tensor, Noise], Tensor]:
        def make(y: Tensor, noise: Noise) -> Tensor:
            x, steps = started(y, noise, n_evals)
            jacobian.Y = kspace.forward(y, basis)
            x_0 = multistep(process, jacobian, x, steps, 2, float(stochastic), noise)
            return kspace.inverse(x_0, basis)

        return make

    def repeated(n_evals: int, repeats: int) -> Callable[[Tensor, Noise], Tensor]:
        def make(y: Tensor, noise: Noise) -> Tensor:
            _, steps = started(y, noise, n_evals)
            return kspace.inverse(travelled(model, seen, y, steps, repeats, noise), basis)

        return make

    return {
        "projection, flow, 60": projected(60, False),
        "projection, SDE, 60": projected(60, True),
        "time travel, 20 x 3": repeated(20, 3),
        "Jacobian, flow, 30": guided(30, False),
        "Jacobian, SDE, 30": guided(30, True),
    }


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--fields", default=512, show_default=True)
@click.option("--factor", default=4, show_default=True)
@click.option("--unconditional", default=UNCONDITIONAL)
@click.option("--conditioned", default="bundled", show_default=True)
@click.option("--seed", default=5, show_default=True, help="Of the held-out lattices.")
@click.option("--out", type=Path, help="JSON file.")
def main(
    fields: int, factor: int, unconditional: str, conditioned: str, seed: int, out: Path | None
) -> None:
    model, coarse_model = sk.load(unconditional), sk.load(conditioned)
    if not isinstance(model, Skild) or model.size % factor:
        raise click.ClickException("needs a SKILD model, and a factor that divides its side")
    truth = sk.generate_ising(L=model.size, samples=fields, seed=seed, sweeps=0)
    others = sk.generate_ising(L=model.size, samples=CALIBRATED, seed=seed + 1000, sweeps=0)
    coarse = sk.coarse_grain(truth, factor=factor, kernel="box")
    y = torch.as_tensor(coarse.values, dtype=torch.float32)[:, None]
    rows = {}

    def judge(name: str, made: Tensor, seconds: float) -> None:
        spins = xr.DataArray(by_rank(made, y, factor)[:, 0].numpy().astype(np.int8), truth.coords)
        spins = spins.transpose(*truth.dims).assign_attrs(truth.attrs)
        found = measured(truth, spins)
        about = found.sel(source="made").data_vars.items()
        rows[name] = {title: each.values.tolist() for title, each in about}
        rows[name]["seconds_per_field"] = seconds / fields
        print(line(name, found), f"{1e3 * seconds / fields:.0f} ms", flush=True)

    calibrating = torch.as_tensor(others.values, dtype=torch.float32)[:, None]
    for name, make in ways(model, factor, calibrating).items():
        judge(name, *in_batches(make, y))
    for kind, sampler in {"flow": sk.Multistep(20), "SDE": sk.Stochastic(20)}.items():
        began = time.perf_counter()
        made = coarse_model.super_resolve(coarse, factor, sampler=sampler, seed=7)
        fields_made = torch.as_tensor(made.values, dtype=torch.float32)[:, None]
        judge(f"conditioned, {kind}, 20", fields_made, time.perf_counter() - began)
    if out:
        out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
