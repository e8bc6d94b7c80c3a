"""What moves a small network's error? One change at a time, at an equal number of steps.

    python benchmarks/network.py [--steps 2000] [NAME ...]

Each variant trains in float32 on the same critical Ising fields, 32 x 32, steps and noise, in a
process of its own on one thread, on a schedule that ends below one pixel. Reported are

    seconds per step, compiled, on one thread beside another;
    E |x_0 - D|^2 per site of 1,024 held-out fields, at effective resolutions of 2 to 64 pixels per
        side: the exact posterior mean makes it smallest, whatever a network predicts;
    residuals of kappa4(1), kappa4(2), kappa4(4) and the energy of 2,048 fields, super-resolved by
        4 from their forward marginal in 12 evaluations.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import skild_physics as sk
from skild_physics import kspace
from skild_physics.config import Config, parse_config
from skild_physics.diffusion.prediction import Denoiser, Network
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.reverse import diffused, sample
from skild_physics.machine import World
from skild_physics.models.objective import SkildObjective, field_noise
from skild_physics.tables import with_error
from skild_physics.training.trainer import Trainer

L, HELDOUT, EVALUATED, SNR = 32, 1024, 2048, 0.1
RESOLUTIONS = (2.0, 4.0, 8.0, 16.0, 24.0, 32.0, 48.0, 64.0)


class Whitened(nn.Module):
    """A network that is shown whitened fields."""

    def __init__(self, network: nn.Module, process: Process):
        super().__init__()
        self.network, self.basis = network, process.basis
        self.root = process.S0.sqrt().float()

    def forward(self, x: Tensor, lam: Tensor) -> Tensor:
        white = kspace.inverse(kspace.forward(x, self.basis) / self.root, self.basis)
        output: Tensor = self.network(white, lam)
        return output


class Filtered(nn.Module):
    """A network that is shown the estimate of Gaussian theory, sqrt(abar) x_n, beside x_n."""

    def __init__(self, network: nn.Module, process: Process):
        super().__init__()
        self.network, self.basis = network, process.basis
        self.k2 = process.k_eff.square().float()

    def forward(self, x: Tensor, lam: Tensor) -> Tensor:
        alpha = torch.exp(-0.5 * self.k2 * (lam / L**2)[:, None, None, None])
        mean = kspace.inverse(alpha * kspace.forward(x, self.basis), self.basis)
        output: Tensor = self.network(torch.cat([x, mean], dim=1), lam)
        return output[:, :1]


class Odd(nn.Module):
    """The odd part of a network, in two evaluations."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, lam: Tensor) -> Tensor:
        output: Tensor = (self.network(x, lam) - self.network(-x, lam)) / 2
        return output


class Entropy(SkildObjective):
    """Cross-entropy of spins, of which the network gives half the log-odds."""

    def losses(
        self,
        network: Network,
        at: Process,
        fields: Tensor,
        n: Tensor,
        eps: Tensor,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        alpha, sigma = (c.float() for c in at.marginal(n[:, None]))
        x_n = alpha * kspace.forward(fields, at.basis) + sigma * eps
        half = network(kspace.inverse(x_n, at.basis), (at.lam(n) * L**2).float())
        return F.softplus(-2 * fields * half).mean(dim=(1, 2, 3))


def bounded(network: Network, process: Process) -> Denoiser:
    """The mean tanh(h) of spins of log-odds 2h."""

    def estimate(x_n: Tensor, n: float) -> Tensor:
        lam = (process.lam(n) * L**2).to(x_n).expand(len(x_n))
        mean = torch.tanh(network(kspace.inverse(x_n, process.basis), lam))
        return torch.where(process.frozen, x_n, kspace.forward(mean, process.basis))

    return estimate


@dataclass(frozen=True)
class Variant:
    """What differs from the first."""

    network: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    k_c: float = 3.0
    wrap: Callable[[nn.Module, Process], nn.Module] | None = None
    inputs: int = 1
    bounded: bool = False
    symmetric: bool = False


MUON = {"optimizer": "muon"}

VARIANTS = {
    "v, as shipped": Variant(),
    "eps": Variant(training={"prediction": "eps"}),
    "x0": Variant(training={"prediction": "x0"}),
    "xprev": Variant(training={"prediction": "xprev"}),
    "w": Variant(training={"prediction": "w"}),
    "v, shell weight": Variant(training={"shell_weight": True}),
    "tanh head, cross-entropy": Variant(bounded=True),
    "sees sqrt(abar) x_n, too": Variant(wrap=Filtered, inputs=2),
    "sees whitened x_n": Variant(wrap=Whitened),
    "odd by averaging +-x": Variant(symmetric=True),
    "steps by second moment": Variant(training={"timesteps": "second-moment"}),
    "k_c 12": Variant(k_c=12.0),
    "k_c 31.2": Variant(k_c=31.2),
    "theta 3": Variant(schedule={"theta": 3.0}),
    "theta 30": Variant(schedule={"theta": 30.0}),
    "deeper (34, 45) x 4": Variant({"channels": (34, 45), "blocks": (4, 4)}),
    "shallower (66, 88) x 1": Variant({"channels": (66, 88), "blocks": (1, 1)}),
    "three levels": Variant({"channels": (48, 56, 64), "blocks": (2, 1, 1)}),
    "one level": Variant({"channels": (64,), "blocks": (4,)}),
    "patch 1 (20, 48, 64)": Variant({"channels": (20, 48, 64), "blocks": (2, 2, 2), "patch": 1}),
    "wider (72, 96)": Variant({"channels": (72, 96), "blocks": (2, 2)}),
    "learning rate 1e-3": Variant(training={"learning_rate": 1e-3}),
    "learning rate 4e-3": Variant(training={"learning_rate": 4e-3}),
    "batch 64": Variant(training={"batch_size": 64}),
    "ema 0.99": Variant(training={"ema": 0.99}),
    "ema 0.9995": Variant(training={"ema": 0.9995}),
    "Muon 1e-3": Variant(training=MUON | {"learning_rate": 1e-3}),
    "Muon 2e-3": Variant(training=MUON),
    "Muon 4e-3": Variant(training=MUON | {"learning_rate": 4e-3}),
    "Muon 8e-3": Variant(training=MUON | {"learning_rate": 8e-3}),
    "Muon, tanh head": Variant(training=MUON, bounded=True),
    "Muon, sees alpha x_n": Variant(training=MUON, wrap=Filtered, inputs=2),
    "Muon, deeper": Variant({"channels": (34, 45), "blocks": (4, 4)}, MUON),
    "Muon, wider": Variant({"channels": (72, 96), "blocks": (2, 2)}, MUON),
    "Muon, three levels": Variant({"channels": (48, 56, 64), "blocks": (2, 1, 1)}, MUON),
    "Muon, theta 3": Variant(training=MUON, schedule={"theta": 3.0}),
    "Muon, theta 30": Variant(training=MUON, schedule={"theta": 30.0}),
    "Muon, patch 1": Variant({"channels": (20, 48, 64), "blocks": (2, 2, 2), "patch": 1}, MUON),
    "Muon, active modes": Variant(training=MUON | {"snr_threshold": 0.01}),
    "Muon, shell weight": Variant(training=MUON | {"shell_weight": True}),
    "Muon, ema 0.99": Variant(training=MUON | {"ema": 0.99}),
}


def configuration(variant: Variant, folder: Path, steps: int) -> Config:
    return parse_config(
        {
            "out": str(folder / "run"),
            "data": {"source": str(folder / "train.h5"), "heldout": HELDOUT},
            "process": {
                "spectrum": str(folder / "spectrum.nc"),
                "k_c": variant.k_c,
                "schedule": {"kind": "linear", "resolution": 0.5, **variant.schedule},
            },
            "network": variant.network,
            "training": {
                "steps": steps,
                "batch_size": 16,
                "precision": "float32",
                "compile": True,
                "threads": 1,
                **variant.training,
            },
        }
    )


def trainer_of(name: str, config: Config) -> Trainer:
    variant, process = VARIANTS[name], config.process.build(*config.process.modes())
    torch.manual_seed(config.training.seed)
    network = config.build_network(process, variant.inputs)
    if variant.wrap is not None:
        network = variant.wrap(network, process)
    return Trainer(
        config,
        World(0, 1, torch.device("cpu")),
        lambda line: click.echo(f"{name}: {line}", err=True),
        objective=Entropy(process, config.training) if variant.bounded else None,
        network=network,
    )


def run(name: str, folder: Path, steps: int) -> dict[str, Any]:
    variant = VARIANTS[name]
    torch.set_num_threads(1)
    config = configuration(variant, folder, steps)
    trainer = trainer_of(name, config)
    for step in range(10):
        trainer.step(step)
    began = time.perf_counter()
    for step in range(10, steps):
        trainer.step(step)
    seconds = (time.perf_counter() - began) / (steps - 10)

    process, model = trainer.process, trainer.model(steps)
    if variant.symmetric:
        model = replace(model, network=Odd(model.network))
    denoise = bounded(model.network, process) if variant.bounded else model.denoiser()
    errors = []
    with torch.no_grad():
        fields = trainer.heldout.take(torch.arange(HELDOUT))
        x_0 = kspace.forward(fields, process.basis)
        eps = field_noise(range(HELDOUT), fields.shape[1:], fields.device)
        for R in RESOLUTIONS:
            n = process.step_at_resolution(R, SNR)
            alpha, sigma = (c.float() for c in process.marginal(n))
            away = [
                (denoise(alpha * x + sigma * e, n) - x).square().mean(dim=(1, 2, 3))
                for x, e in zip(x_0.split(64), eps.split(64), strict=True)
            ]
            errors.append(float(torch.cat(away).mean()))
    truth = sk.open(folder / "heldout.h5")
    spins = torch.from_numpy(truth.values)[:, None]
    made = sample(diffused(process, denoise, 4, SNR), spins, sk.Multistep(12)).result
    found = sk.eval_correlators(truth=truth, made=made, sides=(1, 2, 4), binarize="sign")
    found = found.dataset.sel(source="made")
    residuals = [float(x) for x in found["kappa4_residual"]] + [float(found["energy_residual"])]
    stderr = [float(x) for x in found["kappa4_residual_stderr"]]
    stderr.append(float(found["energy_residual_stderr"]))
    return {
        "name": name,
        "parameters": trainer.parameters,
        "seconds": seconds,
        "errors": errors,
        "residuals": residuals,
        "stderr": stderr,
    }


def prepare(folder: Path) -> None:
    for name, seed, samples in (("train", 1, 30_000), ("heldout", 2, EVALUATED)):
        path = folder / f"{name}.h5"
        sk.generate_ising(L, samples=samples, seed=seed, sweeps=0, workers=2, out=path).close()
    sk.fit_spectrum(folder / "train.h5", out=folder / "spectrum.nc")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(VARIANTS)))
@click.option("--steps", default=2000, show_default=True)
@click.option("--jobs", default=2, show_default=True, help="Variants at a time.")
@click.option("--one", type=click.Path(path_type=Path), hidden=True)
def main(names: tuple[str, ...], steps: int, jobs: int, one: Path | None) -> None:
    if one is not None:
        print(json.dumps(run(names[0], one, steps)))
        return
    print("error of x_0 at R =", *(f"{R:g}" for R in RESOLUTIONS), flush=True)
    with tempfile.TemporaryDirectory() as made, ThreadPoolExecutor(jobs) as pool:
        folder = Path(made)
        prepare(folder)

        def start(name: str) -> dict[str, Any]:
            command = [sys.executable, __file__, name, "--steps", str(steps), "--one", str(folder)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                raise click.ClickException(f"{name} failed")
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return found

        for found in pool.map(start, names or VARIANTS):
            errors = " ".join(f"{x:.5f}" for x in found["errors"])
            residuals = " ".join(
                with_error(x, e) for x, e in zip(found["residuals"], found["stderr"], strict=True)
            )
            print(
                f"{found['name']:26s} {found['parameters']:8,d} {found['seconds']:.4f} s  {errors}"
                f"  {residuals}",
                flush=True,
            )


if __name__ == "__main__":
    main()
