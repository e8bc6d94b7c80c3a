"""Training steps: ours against the same work done plainly, side by side in one run.

    python benchmarks/training.py [--rounds 7] [--json FILE]

Every competitor is a process of its own (a compiler and an allocator belong to a process), set up
once; then they take turns, a few steps each, so that what else the machine does falls on all alike.

compact network, 64 x 64 critical Ising fields, batch 16, whole training steps: data, noise,
transforms, network, gradients, optimiser, average of the weights
    plain     eager float32 in PyTorch's default layout (NCHW) and allocator
    ours      as `sk.train` does it: channels last, freed memory kept, and in the number
              format, compiled or not, with the threads that it finds to be the fastest
    active    ours on a schedule that ends below one pixel, the network shown active modes only
    full      ours on the same schedule, the network shown everything
NCSN++ of a reduced published configuration, 32 x 32 x 3, batch 8, forward and backward
    plain     benchmarks/plain_ncsnpp.py: eager, filters by zero insertion, attention by einsum
    eager, compiled    skild_physics.networks.NCSNpp

With a GPU, --published measures the published Ising configuration and the compact network at
128 x 128 in bfloat16, compiled and eager, instead.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from plain_ncsnpp import PlainNCSNpp
from torch import nn

import skild_physics as sk
from skild_physics.config import Config, parse_config
from skild_physics.files import json_text
from skild_physics.machine import World, default_device, keep_freed_memory, peak_memory
from skild_physics.models.objective import field_noise
from skild_physics.networks import NCSNpp
from skild_physics.training.trainer import Trainer

LAW = {"C": 0.26641, "k0_squared": 3.0, "alpha": 0.875, "basis": "periodic"}
BELOW_A_PIXEL = {"kind": "linear", "resolution": 0.4}
Work = Callable[[], object]


def config(folder: Path, L: int, batch: int, **training: Any) -> Config:
    schedule = training.pop("schedule", {"kind": "linear", "resolution": L / 4})
    k_c = 3.0 if schedule is BELOW_A_PIXEL else 0.0
    process = {"law": {"size": L, **LAW}, "schedule": schedule, "k_c": k_c}
    return parse_config(
        {
            "out": str(folder / "run"),
            "data": {"source": str(folder / f"{L}.h5"), "heldout": 16},
            "process": process,
            "training": {"batch_size": batch, **training},
        }
    )


def steps_of(trainer: Trainer) -> Work:
    count = iter(range(10**9))
    return lambda: trainer.step(next(count))


def trainer_of(config: Config) -> Trainer:
    return Trainer(config, World(0, 1, default_device()), lambda line: click.echo(line, err=True))


def our_step(config: Config) -> Work:
    keep_freed_memory()
    return steps_of(trainer_of(config))


def plain_step(folder: Path) -> Work:
    # PyTorch as it comes, freed memory included
    settings = {"compile": False, "precision": "float32", "threads": torch.get_num_threads()}
    trainer = trainer_of(config(folder, 64, 16, **settings))
    trainer.network.to(memory_format=torch.contiguous_format)
    return steps_of(trainer)


def process_only(folder: Path) -> Work:
    """Noise, transforms, coefficients and loss of a step, around a network that does nothing."""
    keep_freed_memory()
    trainer = trainer_of(config(folder, 64, 16, compile=False))
    scale = torch.ones(1, requires_grad=True)
    fields = trainer.fields.take(torch.arange(16))
    generator = torch.Generator().manual_seed(0)

    def work() -> None:
        at, n = trainer.objective.draw(16, generator)
        eps = field_noise(list(range(16)), (1, at.N, at.N), torch.device("cpu"))
        trainer.objective.losses(lambda x, lam: scale * x, at, fields, n, eps).mean().backward()

    return work


def ncsnpp(network: nn.Module, device: torch.device) -> Work:
    network = network.to(device)
    x, n = torch.randn(8, 3, 32, 32, device=device), torch.linspace(1, 1000, 8, device=device)

    def work() -> None:
        network.zero_grad()
        network(x, n).square().mean().backward()

    return work


SHAPE = {"size": 32, "channels": 64, "multipliers": (1, 2, 2), "blocks": 2, "attention": (16,)}


def build(name: str, folder: Path) -> Work:
    active = {"schedule": BELOW_A_PIXEL, "snr_threshold": 0.01, "active_multiple": 16}
    match name.split():
        case ["compact", "plain"]:
            return plain_step(folder)
        case ["compact", "ours"]:
            return our_step(config(folder, 64, 16))
        case ["compact", "active"]:
            return our_step(config(folder, 64, 16, **active))
        case ["compact", "full"]:
            return our_step(config(folder, 64, 16, schedule=BELOW_A_PIXEL))
        case ["compact", "process"]:
            return process_only(folder)
        case ["ncsnpp", "plain"]:
            return ncsnpp(PlainNCSNpp(**SHAPE), default_device())
        case ["ncsnpp", "eager"]:
            made = NCSNpp(**SHAPE).to(memory_format=torch.channels_last)
            return ncsnpp(made, default_device())
        case ["ncsnpp", "compiled"]:
            made = NCSNpp(**SHAPE).to(memory_format=torch.channels_last)
            return ncsnpp(torch.compile(made, dynamic=False), default_device())
        case ["published", "compact" | "ising128-x4" as which, "compiled" | "eager" as how]:
            settings = {"precision": "bfloat16", "compile": how == "compiled"}
            if which == "compact":
                return our_step(config(folder, 128, 64, **settings))
            source = (f"data.source={folder / '128.h5'}", "data.heldout=16")
            chosen = (f"training.compile={str(settings['compile']).lower()}",)
            batch = ("training.batch_size=32",)
            return our_step(sk.load_config("ising128-x4", source + chosen + batch))
    raise ValueError(name)


def worker(name: str, folder: Path) -> None:
    """Answer every number of steps on standard input with their seconds and the peak memory."""
    work, device = build(name, folder), default_device()
    for _ in range(6):
        work()
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - began) / int(line)
        print(json.dumps([seconds, peak_memory(device) / 2**20]), flush=True)


def race(names: list[str], folder: Path, rounds: int, steps: int) -> dict[str, dict[str, float]]:
    """Median seconds per step and peak memory in MiB of competitors that take turns."""
    command = [sys.executable, __file__, "--worker"]
    workers, found = {}, {}
    for name in names:
        # one after the other, since training looks for what is fastest here
        workers[name] = subprocess.Popen(
            [*command, name, "--folder", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        found[name] = list[tuple[float, float]]()
        stdout = workers[name].stdout
        assert stdout is not None
        if stdout.readline() != "ready\n":
            raise click.ClickException("a worker failed")
    for _ in range(rounds):
        for name, process in workers.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
            found[name].append(json.loads(process.stdout.readline()))
    for process in workers.values():
        process.communicate()
    return {
        name: {
            "seconds": statistics.median(seconds for seconds, _ in rows),
            "fastest_seconds": min(seconds for seconds, _ in rows),
            "peak_memory_mib": max(memory for _, memory in rows),
        }
        for name, rows in found.items()
    }


RACES = [
    ["compact plain", "compact ours", "compact process"],
    ["compact full", "compact active"],
    ["ncsnpp plain", "ncsnpp eager", "ncsnpp compiled"],
]
PUBLISHED = [
    [f"published {which} {how}"]
    for which in ("compact", "ising128-x4")
    for how in ("eager", "compiled")
]


@click.command()
@click.option("--rounds", default=7, show_default=True)
@click.option("--steps", default=5, show_default=True, help="Steps of a turn.")
@click.option("--published", is_flag=True, help="128 x 128 in bfloat16 instead; wants a GPU.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the numbers here.")
@click.option("--worker", "name", hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(
    rounds: int, steps: int, published: bool, out: Path | None, name: str | None, folder: Path
) -> None:
    if name is not None:
        worker(name, folder)
        return
    results: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {default_device()}",
        "torch": torch.__version__,
    }
    with tempfile.TemporaryDirectory() as made:
        L = 128 if published else 64
        sk.generate_ising(L, samples=600, seed=1, out=Path(made) / f"{L}.h5").close()
        for names in PUBLISHED if published else RACES:
            rows = race(names, Path(made), rounds, steps)
            results |= rows
            first = rows[names[0]]["seconds"]
            for each, row in rows.items():
                print(
                    f"{each:28s} {1e3 * row['seconds']:8.1f} ms  {first / row['seconds']:5.2f} "
                    f"times as fast as {names[0]}, peak {row['peak_memory_mib']:.0f} MiB",
                    flush=True,
                )
    if out:
        out.write_text(json_text(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
