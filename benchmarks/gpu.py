"""A GPU: training steps, sampling, and what of them is not the network.

    python benchmarks/gpu.py [--seconds 85] [--json FILE]

step        of the compact network of `ising64` on 64 x 64 fields, all modes seen: eager, compiled,
            and as CUDA graphs, in float32 (with TF32 in convolutions, as torch has it) and
            bfloat16, at several batch sizes; with peak memory, and seconds of some parts
active      the same with active modes, as `ising64` trains, one after another lattice
sampling    fields per second of the bundled model at 20 evaluations, and the share of the time
            that is not the network's
published   a step of the published configurations, in bfloat16, uncompiled

Every row is written when it is known. After --seconds no further row is begun.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
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
EAGER = [(precision, batch) for batch in (16, 64, 256) for precision in ("float32", "bfloat16")]
COMPILED = [("bfloat16", 256, "default"), ("bfloat16", 64, "reduce-overhead")]
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


def steps_of(made: Config, fields: Any, how: str = "eager") -> Row:
    device = default_device()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer = Trainer(made, World(0, 1, device), lambda line: click.echo(line), fields=fields)
    began = time.perf_counter()
    if how != "eager":
        mode = None if how == "default" else how
        compiled = torch.compile(trainer.network, dynamic=False, mode=mode)
        trainer.runner = compiled  # type: ignore[assignment]
    numbers = iter(range(10**9))
    for _ in range(5):
        trainer.step(next(numbers))
    waited(device)
    first = time.perf_counter() - began
    batch = made.training.batch_size
    count = 20 if first < 5 or how != "eager" else 3
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
        "optimizer": trainer.optimizer.step,
    }
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return {
        "how": how,
        "precision": made.training.precision,
        "batch": batch,
        "parameters": trainer.parameters,
        "seconds_first_five": first,
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
    for precision, batch in EAGER:
        yield "step", lambda p=precision, b=batch: steps_of(config(b, p), fields)  # type: ignore[misc]
    for precision, batch in (("bfloat16", 64), ("bfloat16", 256), ("float32", 256)):
        yield "sampling", lambda p=precision, b=batch: sampling(b, p, sk.Multistep(20))  # type: ignore[misc]
    yield "sampling", lambda: sampling(256, "bfloat16", sk.Stochastic(20))
    active = {"snr_threshold": 0.01}
    yield "active", lambda: steps_of(config(64, "bfloat16", **active), fields)
    for precision, batch, how in COMPILED:
        yield "step", lambda p=precision, b=batch, h=how: steps_of(config(b, p), fields, h)  # type: ignore[misc]
    for name, values in PUBLISHED.items():
        yield "published", lambda n=name, v=values: published(n, *v)  # type: ignore[misc]


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
