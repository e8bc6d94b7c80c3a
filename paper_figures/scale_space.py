"""SKILD, Scale Space Diffusion and DDPM on the same critical lattices at the same training budget.

    python paper_figures/scale_space.py [--measure]

One network (Flexi-UNet 48-64-64-64) was trained once for each process: 5,000 steps of 16 fields.
Held-out 64 x 64 lattices are made again by factor 4, each process from its own forward marginal,
and others unconditionally. Scale Space Diffusion goes on from its 16 x 16 level, SKILD from an
effective resolution of 16, DDPM, which has no scale, from the step where the first mode that a
16 x 16 lattice lacks has SKILD's threshold 0.1 as signal-to-noise ratio. The overlap is the
correlation of the 4 x 4 block averages of what was made with those of the truth.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from ising import HERE, MADE, script, signs, truth
from torch.utils.flop_counter import FlopCounterMode

import skild_physics as sk
from skild_physics.diffusion.reverse import sample
from skild_physics.diffusion.scale_space import level_ends_of_spectrum
from skild_physics.models.scale_space import ScaleSpaceModel
from skild_physics.plots import Figure
from skild_physics.progress import silent

FACTOR, PAIRED, NOTHING = 4, "4x", "from nothing"
TITLES = {PAIRED: PAIRED, NOTHING: "unconditional"}
TIMED, ROUNDS = 64, 2


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
Make = Callable[[xr.DataArray], xr.DataArray]


def ways(model: sk.Model, skild: sk.Model, progress: Any) -> dict[str, Make]:
    """Fields made from full ones by factor 4, and as many unconditionally."""

    def paired(x: xr.DataArray) -> xr.DataArray:
        return model.reconstruct(x, FACTOR, progress=progress)

    def from_step(x: xr.DataArray) -> xr.DataArray:
        """DDPM from the marginal where the first mode that a coarse lattice lacks is lost."""
        space, S0, sizes = model.space, skild.process.S0, (model.size, model.size // FACTOR)
        ends = level_ends_of_spectrum(
            S0, space.basis, sizes, space.schedule, skild.snr, int(space.T)
        )
        start, given = model.start(float(ends[0]), 0, 0), torch.from_numpy(x.values)[:, None]
        with progress(PAIRED, len(x)) as show:
            made = sample(start, given, model.default_sampler, progress=show).result
        return x.copy(data=made[:, 0].numpy())

    has_levels = not isinstance(model, ScaleSpaceModel) or len(model.space.sizes) > 1
    return {
        PAIRED: paired if has_levels else from_step,
        NOTHING: lambda x: model.generate(len(x), progress=progress),
    }


def kept(path: Any, make: Make, x: xr.DataArray) -> xr.DataArray:
    """Signs of fields that an earlier, perhaps interrupted, measurement has made, or made now."""
    return sk.open(path) if path.exists() else sk.save(signs(make(x)), path)


def overlap(made: xr.DataArray, x: xr.DataArray) -> float:
    """Correlation of block averages of signs."""
    blocks = [sk.coarse_grain(each, factor=FACTOR).values.ravel() for each in (made, x)]
    return float(np.corrcoef(blocks)[0, 1])


def measure(fields: int, models: str) -> xr.Dataset:
    x = truth(64, fields).load()
    skild = sk.load(f"{models}/skild.safetensors")
    sources, makes, costs = {"truth": x}, {}, {"truth": (0, 0.0, math.inf, 1.0)}
    for title, name, drawn in COMPETITORS:
        model = sk.load(f"{models}/{name}.safetensors")
        if not drawn:
            model = replace(model, error_variance=())
        shown, timed = (ways(model, skild, how) for how in (sk.bar, silent))
        for kind in shown:
            label = f"{title}, {kind}"
            key = f"{model.origin['checkpoint_sha256'][:16]}-{kind}-{drawn}-{fields}"
            path = MADE / f"scale-space-{key.replace(' ', '-')}.h5"
            sources[label] = kept(path, shown[kind], x)
            makes[label] = timed[kind]
            with FlopCounterMode(display=False) as counter:
                makes[label](x[:1])
            shared = overlap(sources[label], x)
            gflop = counter.get_total_flops() / 1e9
            costs[label] = model.default_sampler.n_evals, gflop, math.inf, shared
    for _ in range(ROUNDS):
        for label, make in makes.items():
            began = time.perf_counter()
            make(x[:TIMED])
            seconds = (time.perf_counter() - began) / min(TIMED, fields)
            n_evals, gflop, least, shared = costs[label]
            costs[label] = n_evals, gflop, min(least, seconds), shared
    beta = x.attrs["beta"]
    found = sk.eval_correlators(sources, binarize="sign", beta=beta, progress=sk.bar)
    print(found)
    columns = zip(*(costs[label] for label in found.dataset["source"].values), strict=True)
    texts = {
        "calls": "evaluations of the network per field",
        "gflop": "floating-point operations per field, in 10^9",
        "seconds": f"wall seconds per field, {torch.get_num_threads()} threads",
        "overlap": "correlation of 4 x 4 block averages with the truth",
    }
    about = {
        name: ("source", np.array(column), {"long_name": text})
        for (name, text), column in zip(texts.items(), columns, strict=True)
    }
    pictures = {
        f"picture_{label}": (("y", "x"), signs(each[0]).values.astype(np.float32))
        for label, each in sources.items()
    }
    return found.dataset.assign(about | pictures)


def draw(results: xr.Dataset) -> Figure:
    figure = Figure(figsize=(13, 9), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.5))
    names = [title for title, *_ in COMPETITORS]
    for kind, axes in zip(TITLES, above.subplots(2, len(names) + 1), strict=True):
        pictures = {"truth": "truth"} | {f"{name}, {kind}": name for name in names}
        for ax, (label, name) in zip(axes, pictures.items(), strict=True):
            ax.imshow(results[f"picture_{label}"].values, cmap="gray", vmin=-1, vmax=1)
            ax.set_title(name.replace(", ", ",\n"), fontsize=8)
            ax.set_xticks([])
            ax.set_yticks([])
        axes[0].set_ylabel(TITLES[kind])
    panels = below.subplots(1, 3)
    sides = results["side"].values
    for ax, kind in zip(panels[:2], TITLES, strict=True):
        for number, name in enumerate(names):
            row, x = results.sel(source=f"{name}, {kind}"), sides * 2 ** (0.04 * (number - 4))
            value, stderr = row["kappa4_residual"], row["kappa4_residual_stderr"]
            style = {"fmt": "o-", "ms": 3, "lw": 1, "color": f"C{number}", "label": name}
            ax.errorbar(x, value, stderr, **style)
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xscale("log", base=2)
        ax.set_xticks(sides, [str(side) for side in sides])
        ax.set(xlabel="side $r$  (lattice spacings)", ylabel=r"$\Delta\kappa_4(r)$")
        ax.set_title(f"{TITLES[kind]}: residual of the four-point correlator", fontsize=10)
    panels[0].legend(frameon=False, fontsize=8)
    for number, name in enumerate(names):
        for kind, marker in zip(TITLES, "os", strict=True):
            row = results.sel(source=f"{name}, {kind}")
            point = (float(row[n]) for n in ("gflop", "energy_residual", "energy_residual_stderr"))
            filled = None if kind == PAIRED else "none"
            panels[2].errorbar(*point, fmt=marker, ms=5, color=f"C{number}", mfc=filled)
    panels[2].axhline(0, color="black", lw=0.8)
    panels[2].set(xlabel="GFLOP per field", ylabel="energy per spin, minus truth", xscale="log")
    panels[2].set_title(f"cost and energy (full: {FACTOR}x, open: unconditional)", fontsize=10)
    return figure


if __name__ == "__main__":
    script("scale_space", measure, draw, models=str(HERE / "scale_space"))
