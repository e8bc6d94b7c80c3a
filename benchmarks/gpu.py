"""A GPU: training steps, sampling, and what of them is not the network.

    python benchmarks/gpu.py [--seconds 85] [--json FILE]

step        of the compact network of `ising64` on 64 x 64 fields, all modes seen: as thousands of
            launches (plain), as CUDA graphs, and these compiled, in float32 (with TF32 in
            convolutions, as torch has it) and bfloat16, at several batch sizes; with peak memory,
            and seconds of some parts
coarse      of `ising64-coarse`, which may be conditioned and takes lattices of four sizes in turn,
            and of wider networks in its place
sampling    fields per second of the bundled model at 20 evaluations, and the share of the time
            that is not the network's
published   a step of the published configurations, in bfloat16, uncompiled

Every row is written when it is known. After --seconds no further row is begun.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import skild_physics as sk
from skild_physics.config import Config, parse_config
from skild_physics.diffusion.noise import SampleNoise
from skild_physics.diffusion.reverse import nothing, run
from skild_physics.diffusion.sampler import Sampler
from skild_physics.files import json_text
from skild_physics.machine import World, default_device
from skild_physics.models.objective import field_noise
from skild_physics.training.trainer import Trainer

LAW = {"size": 64, "C": 0.26641, "k0_squared": 3.0, "alpha": 0.875, "basis": "periodic"}
STEPS = [
    ("plain", "float32", 16),
    ("graphs", "float32", 16),
    ("plain", "float32", 256),
    ("graphs", "float32", 256),
    ("graphs", "bfloat16", 256),
]
COARSE = [
    ("graphs", "bfloat16", 128, (48, 64)),
    ("graphs", "bfloat16", 128, (64, 96)),
    ("graphs", "float32", 128, (64, 96)),
    ("graphs", "bfloat16", 256, (64, 96)),
    ("graphs", "bfloat16", 64, (64, 96)),
    ("graphs", "bfloat16", 128, (96, 128)),
]
PUBLISHED = {
    "cifar10-log-linear": (128, 32, 3),
    "ising128-x4": (32, 128, 1),
    "imagenet64-ssd": (64, 64, 3),
    "imagenet128-x4": (16, 128, 3),
}
Row = dict[str, Any]


def spins(L: int, samples: int) -> Any:
    rng = np.random.default_rng(0)
    fields = 2 * rng.integers(0, 2, (samples, L, L), dtype=np.int8) - 1
    return sk.open(fields, basis="periodic")


def pictures(L: int, samples: int) -> Any:
    rng = np.random.default_rng(0)
    return sk.open(rng.integers(0, 256, (samples, 3, L, L), dtype=np.uint8))


def config(batch: int, precision: str, **training: Any) -> Config:
    return parse_config(
        {
            "out": "unused",
            "data": {"source": "random spins", "heldout": 16, "symmetry": "torus"},
            "process": {
                "law": LAW,
                "k_c": 3.0,
                "schedule": {"kind": "linear", "theta": 9.0, "resolution": 0.5},
            },
            "training": {
                "batch_size": batch,
                "precision": precision,
                "compile": False,
                "optimizer": "muon",
                **training,
            },
        }
    )


def coarse(batch: int, precision: str, channels: tuple[int, ...], compile: bool = False) -> Config:
    made = sk.load_config(
        "ising64-coarse",
        (
            *("data.source=random spins", "data.heldout=16", "process.spectrum=unused"),
            *(f"training.batch_size={batch}", f"training.precision={precision}"),
            *(f"training.compile={str(compile).lower()}", f"network.channels={list(channels)}"),
        ),
    )
    values = made.to_json()
    del values["process"]["spectrum"]
    values["process"]["law"] = LAW
    return parse_config(values)


def waited(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: torch.device, count: int = 20) -> float:
    """Median of single runs, each waited for."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        work()
        waited(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def steps_of(made: Config, fields: Any, how: str = "graphs", warm: int = 5) -> Row:
    device = default_device()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer = Trainer(made, World(0, 1, device), lambda line: click.echo(line), fields=fields)
    began = time.perf_counter()
    if how == "plain":
        trainer._graphs = None
    numbers = iter(range(10**9))
    for _ in range(warm):
        trainer.step(next(numbers))
    waited(device)
    first = time.perf_counter() - began
    batch = made.training.batch_size
    count = 20 if first < 5 or how != "plain" else 3
    each = seconds(lambda: trainer.step(next(numbers)), device, count)
    began, running = time.perf_counter(), 3 * count
    for _ in range(running):
        trainer.step(next(numbers))
    waited(device)
    steady = (time.perf_counter() - began) / running
    parts = {
        "fields": lambda: trainer._fields(next(numbers)),
        "noise": lambda: field_noise(
            range(batch), (trainer.fields.size, trainer.fields.size), device
        ),
        "optimizer": trainer._optimize,
    }
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return {
        "how": ("plain" if trainer._graphs is None else "graphs")
        + (" compiled" if trainer.execution.compile else ""),
        "channels": list(made.network.channels) if made.network.kind == "compact" else None,
        "precision": made.training.precision,
        "batch": batch,
        "parameters": trainer.parameters,
        "seconds_before": first,
        "seconds_per_step": each,
        "seconds_per_step_running": steady,
        "fields_per_second": batch / steady,
        "peak_memory_gib": memory,
        **{f"seconds_{name}": seconds(work, device, 5) for name, work in parts.items()},
    }


def sampling(batch: int, precision: Any, sampler: Sampler) -> Row:
    model = sk.load("bundled", precision=precision)
    device = model.process.S0.device
    start, noise = model.prior(64), lambda: SampleNoise(0, range(batch))
    spent = [0.0]
    whole = seconds(lambda: run(start, nothing(batch), sampler, noise()), device, 3)
    network = model.network.forward

    def timed(*inputs: Any) -> Any:
        waited(device)
        began = time.perf_counter()
        output = network(*inputs)
        waited(device)
        spent[0] += time.perf_counter() - began
        return output

    model.network.forward = timed  # type: ignore[method-assign]
    run(start, nothing(batch), sampler, noise())
    return {
        "sampler": sampler.name,
        "precision": precision,
        "batch": batch,
        "n_evals": sampler.n_evals,
        "fields_per_second": batch / whole,
        "seconds": whole,
        "share_outside_network": 1 - spent[0] / whole,
        "seconds_of_noise": seconds(
            lambda: noise().like(torch.empty(batch, 1, 64, 64, device=device)), device, 3
        ),
    }


def published(name: str, batch: int, L: int, channels: int) -> Row:
    made = sk.load_config(
        name,
        (
            *("data.source=random", "data.heldout=4", "data.symmetry=none"),
            *(f"training.batch_size={batch}", "training.accumulate=1"),
            *("training.compile=false", "training.precision=bfloat16"),
        ),
    )
    # what a source that is given says of itself, and options of folders and archives
    data = made.data.model_copy(update={"size": None, "tile": False, "resize": False})
    made = made.model_copy(update={"data": data})
    fields = spins(L, batch + 4) if channels == 1 else pictures(L, batch + 4)
    return {"name": name, **steps_of(made, fields)}


def rows() -> Iterator[tuple[str, Callable[[], Row]]]:
    fields = spins(64, 2048)
    for how, precision, batch in STEPS:
        yield "step", partial(steps_of, config(batch, precision), fields, how)
    for how, precision, batch, channels in COARSE:
        yield "coarse", partial(steps_of, coarse(batch, precision, channels), fields, how, 80)
    for precision, batch in (("bfloat16", 64), ("bfloat16", 256), ("float32", 256)):
        yield "sampling", partial(sampling, batch, precision, sk.Multistep(20))
    yield "sampling", partial(sampling, 256, "bfloat16", sk.Stochastic(20))
    compiled = coarse(128, "bfloat16", (64, 96), compile=True)
    yield "coarse", partial(steps_of, compiled, fields, "graphs", 80)
    for name, (batch, L, colours) in PUBLISHED.items():
        yield "published", partial(published, name, batch, L, colours)


@click.command()
@click.option("--seconds", "limit", default=85.0, show_default=True, help="No row after this.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the numbers here.")
def main(limit: float, out: Path | None) -> None:
    began, device = time.perf_counter(), default_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    found: dict[str, Any] = {"machine": name, "torch": torch.__version__, "rows": []}
    for kind, measure in rows():
        if time.perf_counter() - began > limit:
            break
        try:
            row = {"kind": kind, **measure()}
        except Exception as error:
            # one that does not fit leaves the others
            row = {"kind": kind, "failed": f"{type(error).__name__}: {error}".splitlines()[0]}
        row["at"] = time.perf_counter() - began
        found["rows"].append(row)
        print(json.dumps(row, default=float), flush=True)
        if out is not None:
            out.write_text(json_text(found, indent=2) + "\n")
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
