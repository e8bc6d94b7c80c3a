"""SKILD, Scale Space Diffusion and DDPM on the same critical lattices at the same training budget.

    python paper_figures/scale_space.py [--measure]

One network (Flexi-UNet 48-64-64-64) was trained once for each process: 5,000 steps of 16 fields.
Held-out 64 x 64 lattices are made again by factor 4, each process from its own forward marginal,
and lattices are made from nothing. Scale Space Diffusion goes on from its 16 x 16 level, SKILD from
an effective resolution of 16, DDPM, which has no scale, from the step where the first mode that a
16 x 16 lattice lacks has SKILD's threshold 0.1 as signal-to-noise ratio. The overlap is the
correlation of the 4 x 4 block averages of what was made with those of the truth.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
import xarray as xr
from ising import HERE, TAU, compared, table, truth
from matplotlib.figure import Figure
from skild_physics.cli.console import progress, say
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

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
from skild_physics.plots import save_figure
from skild_physics.training.checkpoint import Model, load_model

FACTOR = 4
MODELS = HERE / "scale_space"
NAMES = {
    "skild": "SKILD",
    "ssd4-box": "SSD 4, blocks",
    "ssd4-bilinear": "SSD 4, bilinear",
    "ssd4-box-spectrum": "SSD 4, blocks, own levels",
    "ssd2-box": "SSD 2, blocks",
    "ssd2-bilinear": "SSD 2, bilinear",
    "ddpm": "DDPM",
}
Made = Callable[[Tensor, Callable[[int], None]], Tensor]


class Method(NamedTuple):
    """A way to make fields from truth, or from as many numbers, and what it costs."""

    label: str
    make: Made
    calls: int


def methods(name: str, model: Model, S0: Tensor, sampling: Sampling) -> list[Method]:
    """By factor 4 and from nothing."""
    label, space = NAMES[name], model.scale_space
    if space is None:
        process, denoise = model.process, model.denoiser()

        def paired(x: Tensor, show: Callable[[int], None]) -> Tensor:
            made = super_resolve_paired(process, denoise, x, FACTOR, TAU, sampling, show)
            return made.result

        def nothing(x: Tensor, show: Callable[[int], None]) -> Tensor:
            return generate(process, denoise, len(x), sampling, progress=show).result

    else:
        estimate, errors = model.estimate(), model.error_variance or None
        sizes = space.sizes

        def paired(x: Tensor, show: Callable[[int], None]) -> Tensor:
            if len(sizes) == 1:
                return ddpm(model, S0, x, sampling, show)
            coarse = space.degraded(x.float(), sizes.index(sizes[0] // FACTOR))
            return super_resolve_scale_space(
                space, estimate, coarse, sampling, errors, progress=show
            ).result

        def nothing(x: Tensor, show: Callable[[int], None]) -> Tensor:
            return generate_scale_space(
                space, estimate, len(x), sampling, error_variance=errors, progress=show
            ).result

    calls = sampling.calls
    return [
        Method(f"{label}, {FACTOR}x", paired, calls),
        Method(f"{label}, from nothing", nothing, calls),
    ]


def ddpm(
    model: Model, S0: Tensor, x: Tensor, sampling: Sampling, show: Callable[[int], None]
) -> Tensor:
    """From the marginal where the first mode that a coarse lattice lacks is lost."""
    space = model.scale_space
    assert space is not None
    N = space.sizes[0]
    n = float(
        level_ends_of_spectrum(S0, space.basis, (N, N // FACTOR), space.schedule, TAU, space.T)[0]
    )
    way, made = legs(space, n, 0, sampling), []
    u = space.u(n)
    for first in range(0, len(x), sampling.batch_size):
        part = x[first : first + sampling.batch_size].float()
        noise = SampleNoise(sampling.seed, range(first, first + len(part)))
        start = np.exp(-u / 2) * part + np.sqrt(-np.expm1(-u)) * noise.like(part)
        made.append(reverse(space, model.estimate(), start, way, sampling, noise))
        show(first + len(part))
    return torch.cat(made)


def overlap(made: Tensor, x: Tensor) -> float:
    """Correlation of block averages of signs."""
    blocks = [F.avg_pool2d(torch.sign(each.float()), FACTOR).flatten() for each in (made, x)]
    return float(torch.corrcoef(torch.stack(blocks))[0, 1])


def measure(models: Path, fields: int, calls: dict[str, int]) -> xr.Dataset:
    x = truth(64, fields)
    loaded = {name: load_model(models / f"{name}.safetensors") for name in NAMES}
    S0 = loaded["skild"].process.S0
    sources, costs = {"truth": x}, {}
    for name, model in loaded.items():
        sampling = Sampling(calls=calls["skild" if name == "skild" else "other"])
        for method in methods(name, model, S0, sampling):
            with FlopCounterMode(display=False) as counter:
                method.make(x[:1], no_progress)
            with progress(method.label, fields) as show:
                began = time.perf_counter()
                made = method.make(x, show)
                seconds = (time.perf_counter() - began) / fields
            sources[method.label] = made
            costs[method.label] = (
                method.calls,
                counter.get_total_flops() / 1e9,
                seconds,
                overlap(made, x),
            )
            say(f"{method.label}: calls, GFLOP, s, overlap {costs[method.label]}")
    results = compared(sources)
    costs["truth"] = (0, 0.0, 0.0, 1.0)
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
    rows = above.subplots(2, len(NAMES) + 1)
    kinds = {f"{FACTOR}x": rows[0], "from nothing": rows[1]}
    for kind, axes in kinds.items():
        axes[0].imshow(results["picture_truth"].values, cmap="gray", vmin=-1, vmax=1)
        axes[0].set_title("truth", fontsize=8)
        for ax, name in zip(axes[1:], NAMES.values(), strict=True):
            ax.imshow(results[f"picture_{name}, {kind}"].values, cmap="gray", vmin=-1, vmax=1)
            ax.set_title(name.replace(", ", ",\n", 1), fontsize=8)
        for ax in axes:
            ax.set_xticks([])
            ax.set_yticks([])
        axes[0].set_ylabel(kind)
    panels = below.subplots(1, 3)
    sides = results["side"].values
    for ax, kind in zip(panels[:2], kinds, strict=True):
        for number, name in enumerate(NAMES.values(), start=1):
            row = results.sel(source=f"{name}, {kind}")
            ax.errorbar(
                sides * 2 ** (0.04 * (number - len(NAMES) / 2)),
                row["kappa4_residual"],
                row["kappa4_residual_stderr"],
                fmt="o-",
                ms=3,
                lw=1,
                color=f"C{number - 1}",
                label=name,
            )
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xscale("log", base=2)
        ax.set_xticks(sides, [str(side) for side in sides])
        ax.set(xlabel="side $r$  (lattice spacings)", ylabel=r"$\Delta\kappa_4(r)$")
        ax.set_title(f"{kind}: residual of the four-point correlator", fontsize=10)
    panels[0].legend(frameon=False, fontsize=8)
    for number, name in enumerate(NAMES.values(), start=1):
        for kind, marker in zip(kinds, "os", strict=True):
            row = results.sel(source=f"{name}, {kind}")
            panels[2].errorbar(
                float(row["gflop"]),
                float(row["energy_residual"]),
                float(row["energy_residual_stderr"]),
                fmt=marker,
                ms=5,
                color=f"C{number - 1}",
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
        with torch.inference_mode():
            results = measure(models, fields, {"skild": calls, "other": white_calls})
        with replacing(path) as temporary:
            results.to_netcdf(temporary, engine="h5netcdf")
    with xr.open_dataset(path, engine="h5netcdf") as results:
        save_figure(draw(results), path.with_suffix(".png"))
    click.echo(path.with_suffix(".png"))


if __name__ == "__main__":
    main()
