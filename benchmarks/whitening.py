"""Should the network see fields, or fields whitened by the known spectrum?

    python benchmarks/whitening.py [--steps 600]

The v target is whitened: each of its modes has variance 1. The input x_n has the spectrum S0 at
every step n; dividing its modes by sqrt(S0) makes it white, too. Both networks are trained on the
same critical Ising fields, 32 x 32, steps and noise, and compared by their loss on held-out fields
in eight bands of t.
"""

import tempfile
from pathlib import Path
from typing import cast

import click
import torch
from skild_physics.data_gen import IsingParameters, generate
from torch import Tensor, nn

from skild_physics import kspace
from skild_physics.diffusion.process import Process
from skild_physics.fields import open_source
from skild_physics.spectrum import measure_blocks, spectrum_from_blocks
from skild_physics.training.config import parse_config
from skild_physics.training.distributed import World
from skild_physics.training.evaluation import heldout_loss
from skild_physics.training.hardware import default_device
from skild_physics.training.trainer import Trainer

L = 32


class Whitened(nn.Module):
    """A network that is shown whitened fields."""

    def __init__(self, network: nn.Module, process: Process):
        super().__init__()
        self.network, self.basis = network, process.basis
        self.root = process.S0.sqrt().float()

    def forward(self, x: Tensor, lam: Tensor) -> Tensor:
        white = kspace.inverse(kspace.forward(x, self.basis) / self.root, self.basis)
        return cast(Tensor, self.network(white, lam))


@click.command()
@click.option("--steps", default=600, show_default=True)
@click.option("--samples", default=20_000, show_default=True)
def main(steps: int, samples: int) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        generate(folder / "train.h5", IsingParameters.planned(L, seed=1), samples, workers=2)
        with open_source(folder / "train.h5") as stream:
            blocks = measure_blocks(stream)
        spectrum_from_blocks(blocks, "periodic").save(folder / "spectrum.nc")
        config = parse_config(
            {
                "out": str(folder / "run"),
                "data": {"source": str(folder / "train.h5"), "heldout": 1024},
                "process": {
                    "spectrum": str(folder / "spectrum.nc"),
                    "schedule": {"kind": "linear", "resolution": L / 4},
                },
                "training": {"steps": steps},
            }
        )
        for name in ("plain", "whitened"):
            trainer = Trainer(config, World(0, 1, default_device()), click.echo)
            network: nn.Module = trainer.average.module
            if name == "whitened":
                trainer.runner = Whitened(trainer.runner, trainer.process)
                network = Whitened(network, trainer.process)
            for step in range(steps):
                trainer.step(step)
            fields = trainer.heldout.take(torch.arange(trainer.heldout.count))
            found = heldout_loss(network, trainer.process, config.training, fields, 64)
            bands = " ".join(f"{loss:.4f}" for loss in found.loss)
            print(f"{name:9s} {found.mean:.4f} +- {found.mean_stderr:.4f}   {bands}", flush=True)


if __name__ == "__main__":
    main()
