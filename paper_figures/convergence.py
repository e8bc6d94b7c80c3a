"""Error against evaluations of the network, 16 -> 64 paired, for every sampler; and what it costs.

    python paper_figures/convergence.py [--measure]

The reference is the paper's sampler: ancestral steps even in n. The error is the largest |residual
of kappa4| over sides 1 to 32; it is bounded below by the statistical error of the number of fields
(grey) and by the error of the network; its bar is that of the residual at the side where it is
largest. All evaluate the network as it was trained, on active modes.
Wall times are of one run on the machine named in the file; that of the paper's whole procedure,
1000 ancestral steps with the network at full size (dashed), is that of 16 fields of the run.
"""

import platform
import time

import numpy as np
import torch
import xarray as xr
from ising import SKILD, script, truth
from torch.utils.flop_counter import FlopCounterMode

import skild_physics as sk
from skild_physics.diffusion.sampler import Sampler
from skild_physics.plots import Figure, looks, new_figure
from skild_physics.plots.style import BLACK, PAGE, bars, lettered

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
    floor = float(results["kappa4_residual_stderr"][1:].mean())
    shown = {"calls": "evaluations of the network", "seconds_per_field": "seconds per field"}
    looked = dict(zip(RUNS, looks(list(map(str, range(len(RUNS))))).values(), strict=True))
    with new_figure(PAGE, 3) as figure:
        axes = figure.subplots(1, 2, sharey=True)
        for ax, (name, title) in zip(axes, shown.items(), strict=True):
            ax.axhspan(1e-4, 2 * floor, color=BLACK, alpha=0.08, lw=0, label="two standard errors")
            for label, look in looked.items():
                chosen = results["sampler"].values == label
                rows = results.sel(source=results["run"].values[chosen])
                error = np.abs(rows["kappa4_residual"])
                at = {"side": error.argmax("side")}
                stderr = rows["kappa4_residual_stderr"].isel(at)
                how = {"linestyle": "-", "label": label, **look}
                bars(ax, results[name].values[chosen], error.isel(at), stderr, **how)
            ax.set(xscale="log", yscale="log", xlabel=title, ylim=(2e-3, 0.4))
        at = results.attrs["seconds_per_field_of_1000_steps_at_full_size"]
        axes[1].axvline(at, color=BLACK, ls="--", lw=0.8, label="1000 steps at full size: time")
        axes[0].set_ylabel(r"max over $r$ of $|\Delta\kappa_4(r)|$")
        lettered(axes)
        handles, labels = axes[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


if __name__ == "__main__":
    script("convergence", measure, draw, model=SKILD)
