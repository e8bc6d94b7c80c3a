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
from skild_physics.plots import Figure, draw_field, new_figure
from skild_physics.plots.style import (
    BLUE,
    GREEN,
    ORANGE,
    PAGE,
    PURPLE,
    SKY,
    VERMILLION,
    bars,
    lettered,
    on_sides,
    side_by_side,
    zero_line,
)
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


LOOKS = {
    "SKILD": (BLUE, "o"),
    "SSD 4, crop": (GREEN, "^"),
    "SSD 4, blocks": (VERMILLION, "s"),
    "SSD 4, blocks, not drawn": (VERMILLION, "X"),
    "SSD 4, bilinear": (PURPLE, "D"),
    "SSD 2, blocks": (ORANGE, "v"),
    "SSD 2, bilinear": ("#666666", "<"),
    "DDPM": (SKY, "P"),
}


def draw(results: xr.Dataset) -> Figure:
    names = [title for title, *_ in COMPETITORS]
    apart = side_by_side(len(names), 0.1)
    with new_figure(PAGE + 0.5, 7.4) as figure:
        above, below = figure.subfigures(2, 1, height_ratios=(1, 2.3))
        for kind, axes in zip(TITLES, above.subplots(2, len(names) + 1), strict=True):
            pictures = {"truth": "truth"} | {f"{name}, {kind}": name for name in names}
            for ax, (label, name) in zip(axes, pictures.items(), strict=True):
                draw_field(ax, results[f"picture_{label}"].values)
                if kind == PAIRED:
                    ax.set_title(name.replace(", ", ",\n"), fontsize=7)
            axes[0].set_ylabel(TITLES[kind])
        (paired, free), (cost, key) = below.subplots(2, 2, height_ratios=(1, 0.85))
        for ax, kind in ((paired, PAIRED), (free, NOTHING)):
            for name, factor in zip(names, apart, strict=True):
                (color, marker), row = LOOKS[name], results.sel(source=f"{name}, {kind}")
                value, stderr = row["kappa4_residual"], row["kappa4_residual_stderr"]
                how = {"color": color, "marker": marker, "markersize": 3, "label": name}
                bars(ax, results["side"] * factor, value, stderr, **how)
            zero_line(ax)
            on_sides(ax, results["side"].values.tolist()).set_title(TITLES[kind])
        paired.set_ylabel("$\\kappa_4(r)$ minus that of truth")
        for name, (color, marker) in LOOKS.items():
            for kind, fill in ((PAIRED, color), (NOTHING, "white")):
                row = results.sel(source=f"{name}, {kind}")
                names_of = ("gflop", "energy_residual", "energy_residual_stderr")
                x, y, stderr = (float(row[each]) for each in names_of)
                bars(cost, x, y, stderr, color=color, marker=marker, markerfacecolor=fill)
        zero_line(cost)
        cost.set(xlabel="GFLOP per field", ylabel="energy per spin minus truth's", xscale="log")
        cost.set_xticks([5, 10, 20], ["5", "10", "20"])
        cost.set_xticks([], minor=True)
        cost.set_title(f"open: {TITLES[NOTHING]}")
        key.set_axis_off()
        key.legend(*paired.get_legend_handles_labels(), loc="center")
        lettered((paired, free, cost))
    return figure


if __name__ == "__main__":
    script("scale_space", measure, draw, models=str(HERE / "scale_space"))
