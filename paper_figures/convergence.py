"""Error against evaluations of the network, 16 -> 64 paired, for every sampler; and what it costs.

    python paper_figures/convergence.py [--measure]

The reference is the paper's sampler: ancestral steps even in n. The error is the largest |residual
of kappa4| over sides 1 to 32; it is bounded below by the statistical error of the number of fields
(grey) and by the error of the network. All evaluate the network as it was trained, on active modes.
Wall times are of one run on the machine named in the file; that of the paper's whole procedure,
1000 ancestral steps with the network at full size (star), is measured on 16 fields in the same run.
"""

import platform
import time

import numpy as np
import torch
import xarray as xr
from ising import script, truth
from torch.utils.flop_counter import FlopCounterMode

import skild_physics as sk
from skild_physics.diffusion.sampler import Sampler
from skild_physics.plots import COLORS, Figure

FACTOR = 4
FEW = (4, 6, 8, 10, 14, 20, 30)
RUNS: dict[str, tuple[type[Sampler], tuple[int, ...]]] = {
    "multistep": (sk.Multistep, FEW),
    "stochastic": (sk.Stochastic, FEW),
    "ancestral, even in n": (sk.Ancestral, (10, 30, 100, 300, 1000)),
}


def arithmetic(model: sk.Model, x: xr.DataArray, sampler: Sampler) -> int:
    """Floating-point operations of one field."""
    with FlopCounterMode(display=False) as counter:
        model.reconstruct(x[:1], FACTOR, sampler=sampler)
    return int(counter.get_total_flops())


def seconds(model: sk.Model, x: xr.DataArray, sampler: Sampler) -> tuple[float, xr.DataArray]:
    """Of a field, and what was made."""
    began = time.perf_counter()
    made = model.reconstruct(x, FACTOR, sampler=sampler, progress=sk.bar)
    return (time.perf_counter() - began) / len(x), made


def measure(fields: int, model: str) -> xr.Dataset:
    skild, full = sk.load(model), sk.load(model, snr_threshold=0)
    x = truth(skild.size, fields).load()
    one = arithmetic(full, x, sk.Multistep(1))
    sources, rows = {"truth": x}, []
    for label, (kind, numbers) in RUNS.items():
        for sampler in map(kind, numbers):
            name = f"{label} {sampler.n_evals}"
            each, sources[name] = seconds(skild, x, sampler)
            work = arithmetic(skild, x, sampler) / one
            rows.append((name, label, sampler.n_evals, each, work))
            print(f"{name}: {1e3 * each:.1f} ms per field")
    reference, _ = seconds(full, x[:16], sk.Ancestral(1000))
    found = sk.eval_correlators(sources, binarize="sign", progress=sk.bar)
    print(found)
    names, labels, n_evals, times, works = map(list, zip(*rows, strict=True))
    results = found.dataset.assign_coords(run=names).assign(
        sampler=("run", labels),
        calls=("run", n_evals, {"long_name": "evaluations of the network"}),
        seconds_per_field=("run", times),
        full_evaluations=("run", works, {"long_name": "arithmetic in evaluations of all modes"}),
    )
    return results.assign_attrs(
        seconds_per_field_of_1000_steps_at_full_size=reference,
        machine=f"{platform.machine()}, {torch.get_num_threads()} threads",
    )


def draw(results: xr.Dataset) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    floor = float(results["kappa4_residual_stderr"][1:].mean())
    shown = {"calls": "evaluations of the network", "seconds_per_field": "seconds per field"}
    for ax, (name, title) in zip(axes, shown.items(), strict=True):
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
    script("convergence", measure, draw, model="bundled")
