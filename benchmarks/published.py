"""What the published image models need: arithmetic, time of a training step, GPU hours.

    python benchmarks/published.py [--batch 2] [--rate 250]

The arithmetic of an evaluation of the network is counted by torch on shapes alone. A dry run then
takes some training steps on photographs, in float32 and uncompiled, each model in a process of its
own: the published configuration runs, and this is the rate of this machine. GPU hours are the
arithmetic of the published training (a step is three evaluations per picture) and of the published
sampling over a rate that is ASSUMED, --rate in TFLOP/s: 250 is a quarter of the peak of an H100 in
bfloat16. On a GPU the dry run, with the published batch, measures its hours itself.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import click
import torch
from arithmetic import flops_per_field
from rich.console import Console
from rich.table import Table

import skild_physics as sk
from skild_physics.training.run import dry_run

# evaluations of the network as published: pictures times steps of the chain
EVALUATIONS = {
    "cifar10-linear": 50_000 * 1000,
    "imagenet128-x4": 3_000 * 1000,
    "imagenet256-x4": 3_000 * 1000,
}
HERE = (
    "data.source=photographs",
    "data.heldout=1",
    "data.resize=false",
    "training.compile=false",
    "training.precision=float32",
    "training.accumulate=1",
)


@click.command()
@click.option("--batch", default=2, show_default=True, help="Pictures of a step that is timed.")
@click.option("--rate", default=250.0, show_default=True, help="Assumed TFLOP/s of a GPU.")
def main(batch: int, rate: float) -> None:
    columns = ("parameters", "GFLOP", "s", "GFLOP/s", "GiB", "training", "evaluation")
    table = Table("configuration", *columns)
    for name, n_evals in EVALUATIONS.items():
        config = sk.load_config(name)
        S0, basis = config.process.modes()
        process = config.process.build(S0, basis)
        with torch.device("meta"):
            network = config.build_network(process, 3)
        flops = flops_per_field(network.network, 3, len(S0))
        here = (f"data.size={len(S0)}", f"training.batch_size={batch}", *HERE)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn) as alone:
            found = alone.submit(dry_run, sk.load_config(name, here)).result()
        settings = config.training
        training = 3 * flops * settings.steps * settings.batch_size
        hours = [work / (rate * 1e12) / 3600 for work in (training, n_evals * flops)]
        seconds = found["seconds_per_step"]
        table.add_row(
            name,
            f"{found['parameters']:,}",
            f"{flops / 1e9:.0f}",
            f"{seconds:.1f}",
            f"{3 * batch * flops / seconds / 1e9:.0f}",
            f"{found['peak_memory_gib']:.1f}",
            *(f"{each:.3g} h" for each in hours),
        )
    Console(width=100).print(table)
    print(
        f"GFLOP: an evaluation for one picture; s, GFLOP/s, GiB: a training step of {batch} "
        f"pictures here; training, evaluation: GPU hours at an assumed {rate:g} TFLOP/s"
    )


if __name__ == "__main__":
    main()
