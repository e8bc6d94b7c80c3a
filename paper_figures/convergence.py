"""Error against network calls, 16 -> 64 paired, for every sampler; and what it costs.

    python paper_figures/convergence.py [--measure]

The reference is the paper's sampler: ancestral steps even in n. The error is the largest |residual
of kappa4| over sides 1 to 32; it is bounded below by the statistical error of the number of fields
(grey) and by the error of the network. All evaluate the network as it was trained, on live modes.
Wall times are of one run on the machine named in the file; that of the paper's whole procedure,
1000 ancestral steps with the network at full size (star), is measured on 16 fields in the same run.
"""

import platform
import time

import numpy as np
import torch
import xarray as xr
from ising import TAU, compared, script, table, truth

from skild_physics.cli.console import progress, say
from skild_physics.diffusion.adaptive import arithmetic_saved
from skild_physics.diffusion.sampler import step_grid
from skild_physics.diffusion.superresolution import (
    SamplerName,
    Sampling,
    Spacing,
    starting_step,
    super_resolve_paired,
)
from skild_physics.plots import COLORS, Figure
from skild_physics.training.checkpoint import Model

FACTOR = 4
RUNS: dict[str, tuple[SamplerName, Spacing, tuple[int, ...]]] = {
    "multistep": ("multistep", "log-resolution", (4, 6, 8, 10, 14, 20, 30)),
    "stochastic": ("stochastic", "log-resolution", (4, 6, 8, 10, 14, 20, 30)),
    "ancestral, even in n": ("ancestral", "time", (10, 30, 100, 300, 1000)),
}


def measure(model: Model, sr3: str, fields: int) -> xr.Dataset:
    process, settings = model.process, model.config.training
    x = truth(process.N, fields)
    n, denoise = starting_step(process, FACTOR, TAU), model.denoiser()
    sources, rows = {"truth": x}, []
    for label, (sampler, spacing, all_calls) in RUNS.items():
        for calls in all_calls:
            sampling = Sampling(calls=calls, sampler=sampler, spacing=spacing)
            began = time.perf_counter()
            with progress(f"{label} {calls}", fields) as show:
                done = super_resolve_paired(process, denoise, x, FACTOR, TAU, sampling, show)
            seconds = (time.perf_counter() - began) / fields
            saved = 1.0
            if settings.live_threshold:
                grid = step_grid(process, n, calls, spacing)
                multiple = settings.live_multiple_of(process.N)
                saved = arithmetic_saved(process, grid, settings.live_threshold, multiple)
            name = f"{label} {calls}"
            sources[name] = done.result
            rows.append((name, label, calls, seconds, calls / saved))
            say(f"{name}: {1e3 * seconds:.1f} ms per field")
    sampling = Sampling(calls=1000, sampler="ancestral", spacing="time")
    full = model.denoiser(live_threshold=0.0)
    began = time.perf_counter()
    with progress("all modes 1000", 16) as show:
        super_resolve_paired(process, full, x[:16], FACTOR, TAU, sampling, show)
    reference = (time.perf_counter() - began) / 16
    results = compared(sources)
    table(results)
    names, labels, calls_, seconds_, evaluations = zip(*rows, strict=True)
    results = results.assign_coords(run=list(names))
    results["sampler"] = ("run", list(labels))
    results["calls"] = ("run", np.array(calls_))
    results["seconds_per_field"] = ("run", np.array(seconds_))
    results["full_evaluations"] = ("run", np.array(evaluations))
    results["full_evaluations"].attrs["long_name"] = "arithmetic in evaluations of all modes"
    results.attrs["seconds_per_field_of_1000_steps_at_full_size"] = reference
    results.attrs["machine"] = f"{platform.machine()}, {torch.get_num_threads()} threads"
    return results


def draw(results: xr.Dataset) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    floor = float(results["kappa4_residual_stderr"][1:].mean())
    quantities = (("calls", "network calls"), ("seconds_per_field", "seconds per field"))
    for ax, (name, title) in zip(axes, quantities, strict=True):
        ax.axhspan(0, 2 * floor, color="black", alpha=0.08, lw=0)
        for color, label in zip(COLORS[1:], RUNS, strict=False):
            chosen = results["sampler"].values == label
            rows = results.sel(source=results["run"].values[chosen])
            error = np.abs(rows["kappa4_residual"].values).max(axis=-1)
            ax.plot(results[name].values[chosen], error, "o-", ms=4, color=color, label=label)
        ax.set(xscale="log", yscale="log", xlabel=title)
    at = results.attrs["seconds_per_field_of_1000_steps_at_full_size"]
    axes[1].plot([at], [2 * floor], "*", ms=12, color="black", label="the paper's procedure")
    axes[1].legend(frameon=False, fontsize=8)
    axes[0].set_ylabel(r"max over $r$ of $|\Delta\kappa_4(r)|$")
    axes[0].legend(frameon=False, fontsize=8)
    axes[0].set_title("grey: two standard errors", fontsize=9)
    return figure


if __name__ == "__main__":
    script("convergence", measure, draw)()
