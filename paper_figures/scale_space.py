"""SKILD, Scale Space Diffusion and DDPM on the same critical lattices at the same training budget.

    python paper_figures/scale_space.py [--measure]

One network (Flexi-UNet 48-64-64-64) was trained once for each process: 5,000 steps of 16 fields.
Held-out 64 x 64 lattices are made again by factor 4, each process from its own forward marginal,
and lattices are made from nothing. Scale Space Diffusion goes on from its 16 x 16 level, SKILD from
an effective resolution of 16, DDPM, which has no scale, from the step where the first mode that a
16 x 16 lattice lacks has SKILD's threshold 0.1 as signal-to-noise ratio. The overlap is the
correlation of the 4 x 4 block averages of what was made with those of the truth.
"""

import hashlib
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
import xarray as xr
from ising import HERE, LATTICES, TAU, compared, table, truth
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from skild_physics.cli.console import progress
from skild_physics.diffusion.sampler import SampleNoise
from skild_physics.diffusion.scalespace import level_ends_of_spectrum
from skild_physics.diffusion.scalespace_sampling import (
    generate_scale_space,
    legs,
    reverse,
    super_resolve_scale_space,
)
from skild_physics.diffusion.superresolution import (
    Sampling,
    generate,
    no_progress,
    super_resolve_paired,
)
from skild_physics.files import replacing
from skild_physics.plots import Figure, save_figure
from skild_physics.training.checkpoint import Model, load_model

FACTOR, PAIRED, NOTHING = 4, "4x", "from nothing"
TIMED, ROUNDS = 64, 2
MODELS = HERE / "scale_space"


class Competitor(NamedTuple):
    """A trained model, and whether x_0 is drawn where its level changes."""

    title: str
    file: str
    drawn: bool = True


COMPETITORS = (
    Competitor("SKILD", "skild"),
    Competitor("SSD 4, crop", "ssd4-crop"),
    Competitor("SSD 4, blocks", "ssd4-box"),
    Competitor("SSD 4, blocks, not drawn", "ssd4-box", drawn=False),
    Competitor("SSD 4, bilinear", "ssd4-bilinear"),
    Competitor("SSD 2, blocks", "ssd2-box"),
    Competitor("SSD 2, bilinear", "ssd2-bilinear"),
    Competitor("DDPM", "ddpm"),
)
Make = Callable[[Tensor, Callable[[int], None]], Tensor]


def ways(model: Model, S0: Tensor, sampling: Sampling, drawn: bool) -> dict[str, Make]:
    """Fields made from full ones by factor 4, and as many from nothing."""
    space = model.scale_space
    if space is None:
        process, denoise = model.process, model.denoiser()
        return {
            PAIRED: lambda x, show: (
                super_resolve_paired(process, denoise, x, FACTOR, TAU, sampling, show).result
            ),
            NOTHING: lambda x, show: (
                generate(process, denoise, len(x), sampling, progress=show).result
            ),
        }
    estimate, N = model.estimate(), space.sizes[0]
    errors = model.error_variance if drawn else None

    def paired(x: Tensor, show: Callable[[int], None]) -> Tensor:
        coarse = space.degraded(x.float(), space.sizes.index(N // FACTOR))
        return super_resolve_scale_space(
            space, estimate, coarse, sampling, errors, progress=show
        ).result

    def nothing(x: Tensor, show: Callable[[int], None]) -> Tensor:
        return generate_scale_space(
            space, estimate, len(x), sampling, error_variance=errors, progress=show
        ).result

    return {
        PAIRED: paired if len(space.sizes) > 1 else partial(from_step, model, S0, sampling),
        NOTHING: nothing,
    }


def from_step(
    model: Model, S0: Tensor, sampling: Sampling, x: Tensor, show: Callable[[int], None]
) -> Tensor:
    """DDPM from the marginal where the first mode that a coarse lattice lacks is lost."""
    space = model.scale_space
    assert space is not None
    sizes = space.sizes[0], space.sizes[0] // FACTOR
    ends = level_ends_of_spectrum(S0, space.basis, sizes, space.schedule, TAU, space.T)
    n, made = float(ends[0]), []
    way, u = legs(space, n, 0, sampling), space.u(n)
    for first in range(0, len(x), sampling.batch_size):
        part = x[first : first + sampling.batch_size].float()
        noise = SampleNoise(sampling.seed, range(first, first + len(part)))
        start = np.exp(-u / 2) * part + np.sqrt(-np.expm1(-u)) * noise.like(part)
        made.append(reverse(space, model.estimate(), start, way, sampling, noise))
        show(first + len(part))
    return torch.cat(made)


def kept(key: str, make: Callable[[], Tensor]) -> Tensor:
    """Signs of fields that an earlier, perhaps interrupted, measurement has made, or made now."""
    path = LATTICES / f"scale-space-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
    if not path.exists():
        signs = torch.where(make() >= 0, 1, -1).to(torch.int8).numpy()
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, signs)
    return torch.from_numpy(np.load(path))


def overlap(made: Tensor, x: Tensor) -> float:
    """Correlation of block averages of signs."""
    blocks = [F.avg_pool2d(torch.sign(each.float()), FACTOR).flatten() for each in (made, x)]
    return float(torch.corrcoef(torch.stack(blocks))[0, 1])


def measure(models: Path, fields: int, samplings: dict[bool, Sampling]) -> xr.Dataset:
    x = truth(64, fields)
    S0 = load_model(models / "skild.safetensors").process.S0
    sources, makes, costs = {"truth": x}, {}, {"truth": (0, 0.0, 0.0, 1.0)}
    for title, name, drawn in COMPETITORS:
        path = models / f"{name}.safetensors"
        model = load_model(path)
        sampling = samplings[model.scale_space is None]
        for kind, make in ways(model, S0, sampling, drawn).items():
            label = f"{title}, {kind}"
            with progress(label, fields) as show:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                key = f"{digest} {kind} {drawn} {fields} {sampling}"
                sources[label] = kept(key, partial(make, x, show))
            with FlopCounterMode(display=False) as counter:
                make(x[:1], no_progress)
            arithmetic = counter.get_total_flops() / 1e9
            costs[label] = sampling.calls, arithmetic, math.inf, overlap(sources[label], x)
            makes[label] = make
    for _ in range(ROUNDS):
        for label, make in makes.items():
            began = time.perf_counter()
            make(x[:TIMED], no_progress)
            seconds = (time.perf_counter() - began) / min(TIMED, fields)
            calls, arithmetic, least, shared = costs[label]
            costs[label] = calls, arithmetic, min(least, seconds), shared
    results = compared(sources)
    columns = zip(*(costs[label] for label in results["source"].values), strict=True)
    texts = {
        "calls": "network calls per field",
        "gflop": "floating-point operations per field, in 10^9",
        "seconds": f"wall seconds per field, {torch.get_num_threads()} threads",
        "overlap": "correlation of 4 x 4 block averages with the truth",
    }
    for (variable, text), column in zip(texts.items(), columns, strict=True):
        results[variable] = ("source", np.array(column), {"long_name": text})
    for label, field in sources.items():
        results[f"picture_{label}"] = (("y", "x"), field[0, 0].float().numpy())
    table(results)
    return results


def draw(results: xr.Dataset) -> Figure:
    figure = Figure(figsize=(13, 9), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.5))
    rows = above.subplots(2, len(COMPETITORS) + 1)
    kinds = {PAIRED: rows[0], NOTHING: rows[1]}
    for kind, axes in kinds.items():
        axes[0].imshow(results["picture_truth"].values, cmap="gray", vmin=-1, vmax=1)
        axes[0].set_title("truth", fontsize=8)
        for ax, (title, *_) in zip(axes[1:], COMPETITORS, strict=True):
            ax.imshow(results[f"picture_{title}, {kind}"].values, cmap="gray", vmin=-1, vmax=1)
            ax.set_title(title.replace(", ", ",\n"), fontsize=8)
        for ax in axes:
            ax.set_xticks([])
            ax.set_yticks([])
        axes[0].set_ylabel(kind)
    panels = below.subplots(1, 3)
    sides = results["side"].values
    for ax, kind in zip(panels[:2], kinds, strict=True):
        for number, (title, *_) in enumerate(COMPETITORS):
            row = results.sel(source=f"{title}, {kind}")
            ax.errorbar(
                sides * 2 ** (0.04 * (number - len(COMPETITORS) / 2)),
                row["kappa4_residual"],
                row["kappa4_residual_stderr"],
                fmt="o-",
                ms=3,
                lw=1,
                color=f"C{number}",
                label=title,
            )
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xscale("log", base=2)
        ax.set_xticks(sides, [str(side) for side in sides])
        ax.set(xlabel="side $r$  (lattice spacings)", ylabel=r"$\Delta\kappa_4(r)$")
        ax.set_title(f"{kind}: residual of the four-point correlator", fontsize=10)
    panels[0].legend(frameon=False, fontsize=8)
    for number, (title, *_) in enumerate(COMPETITORS):
        for kind, marker in zip(kinds, "os", strict=True):
            row = results.sel(source=f"{title}, {kind}")
            panels[2].errorbar(
                float(row["gflop"]),
                float(row["energy_residual"]),
                float(row["energy_residual_stderr"]),
                fmt=marker,
                ms=5,
                color=f"C{number}",
                mfc="none" if marker == "s" else None,
            )
    panels[2].axhline(0, color="black", lw=0.8)
    panels[2].set(xlabel="GFLOP per field", ylabel="energy per spin, minus truth", xscale="log")
    panels[2].set_title(f"cost and energy (full: {FACTOR}x, open: from nothing)", fontsize=10)
    return figure


@click.command(help=__doc__.split("\n")[0])
@click.option("--measure", "again", is_flag=True, help="Make the file again first; an hour.")
@click.option("--models", default=MODELS, type=click.Path(path_type=Path), show_default=True)
@click.option("--fields", default=1024, show_default=True, help="Fields to measure on.")
@click.option("--calls", default=20, show_default=True, help="Network calls of SKILD.")
@click.option("--white-calls", default=40, show_default=True, help="Of the others.")
def main(again: bool, models: Path, fields: int, calls: int, white_calls: int) -> None:
    path = HERE / "scale_space.nc"
    if again:
        samplings = {
            True: Sampling(calls=calls),
            False: Sampling(calls=white_calls, sampler="stochastic"),
        }
        results = measure(models, fields, samplings)
        with replacing(path) as temporary:
            results.to_netcdf(temporary, engine="h5netcdf")
    with xr.open_dataset(path, engine="h5netcdf") as results:
        save_figure(draw(results), path.with_suffix(".png"))
    click.echo(path.with_suffix(".png"))


if __name__ == "__main__":
    main()
