"""What the published image models need: arithmetic, time of a training step, GPU hours.

    python benchmarks/published.py [--batch 2] [--rate 250]

The arithmetic of a network call is counted by torch on shapes alone. `skild-physics train NAME
--dry-run` then takes some training steps on photographs, in float32 and uncompiled, each model in a
process of its own: the published configuration runs, and this is the rate of this machine. GPU
hours are the arithmetic of the published training (a step is three calls per picture) and of the
published evaluation over a rate that is ASSUMED, --rate in TFLOP/s: 250 is a quarter of the peak of
an H100 in bfloat16. On a GPU the dry run, with the published batch, measures its hours itself.
"""

import json
import subprocess
import sys

import click
import torch
from rich.table import Table

from skild_physics.cli.console import answers, say
from skild_physics.networks.arithmetic import flops_per_field
from skild_physics.training.build import build_network, build_process, spectrum_of
from skild_physics.training.config import load_config

# network calls of one evaluation as published: pictures times steps of the chain
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
)


@click.command()
@click.option("--batch", default=2, show_default=True, help="Pictures of a step that is timed.")
@click.option("--rate", default=250.0, show_default=True, help="Assumed TFLOP/s of a GPU.")
def main(batch: int, rate: float) -> None:
    columns = ("parameters", "GFLOP", "s", "GFLOP/s", "GiB", "training", "evaluation")
    table = Table("configuration", *columns)
    for name, calls in EVALUATIONS.items():
        config = load_config(name)
        S0, basis = spectrum_of(config)
        process = build_process(config, S0, basis)
        with torch.device("meta"):
            network = build_network(config, process, 3)
        flops = flops_per_field(network.network, 3, len(S0))
        say(name)
        found = _dry_run(name, (f"data.size={len(S0)}", f"training.batch_size={batch}", *HERE))
        settings = config.training
        training = 3 * flops * settings.steps * settings.batch_size
        hours = [work / (rate * 1e12) / 3600 for work in (training, calls * flops)]
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
    answers.print(table)
    say(
        f"GFLOP: a network call for one picture; s, GFLOP/s, GiB: a training step of {batch} "
        f"pictures here; training, evaluation: GPU hours at an assumed {rate:g} TFLOP/s"
    )


def _dry_run(name: str, values: tuple[str, ...]) -> dict[str, float]:
    options = [word for value in values for word in ("--set", value)]
    command = [sys.executable, "-m", "skild_physics.cli", "train", name, "--dry-run", "--json"]
    done = subprocess.run([*command, *options], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
