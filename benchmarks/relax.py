"""After how many sweeps made fields are exact, and how many sweeps a learned start saves.

    python benchmarks/relax.py [--measure] [--fields 256] [--large 8] [--out benchmarks]

From block averages: critical 64 x 64 fields are made again from averages of 4 x 4 spins, by models
of this repository and by chance, and relaxed by exchanges within these blocks. A table holds what
is left of the energy per spin and of kappa4(r = 1), less the truth's, field by field. SR3 does not
keep averages: what its own lack is added to every pixel of a block first.

Without a coarse field: 64 x 64 fields are enlarged to 512 x 512 by the bundled model, and relaxed
by the heat bath, beside cold and hot starts, and beside the same fields with every spin repeated
8 x 8 times. There is no truth: energies are held against Kaufman's, kappa4(r = 32) against that of
Wolff's algorithm, whose clusters start from cold and from hot, too. Seconds are of one thread.

Prints relax.nc and draws relax.png of it; with --measure it makes this file again first. Models'
fields stay in runs/relax, and are not made twice.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

import skild_physics as sk
from skild_physics.claims import replacing
from skild_physics.data_gen.relaxed import by_rank
from skild_physics.data_gen.wolff import wolff_advance
from skild_physics.observables.blocks import block_sums
from skild_physics.observables.energy import energy_per_spin
from skild_physics.observables.exact import BETA_CRITICAL, torus_energy
from skild_physics.plots import Figure, looks, new_figure, save_figure
from skild_physics.plots.style import BLACK, PAGE, bars, lettered
from skild_physics.tables import with_error
from skild_physics.xoshiro import seed_state

ROOT = Path(__file__).parents[1]
MADE = ROOT / "runs" / "relax"
L, FACTOR, LARGE, SIDE = 64, 4, 512, 32
FEW = (0, 1, 2, 4, 8, 16, 32, 64, 128)
MANY = (0, *(2**n for n in range(12)))
CLUSTERS = (0, *(2**n for n in range(13)))
MODELS: dict[str, tuple[str, sk.Multistep | sk.Ancestral]] = {
    "bundled": ("bundled", sk.Multistep(20)),
    "unconditional": (str(ROOT / "paper_figures" / "ising64_unconditional"), sk.Multistep(20)),
    "SR3": (
        str(ROOT / "paper_figures" / "ising64_sr3"),
        sk.Ancestral(100, spacing="log-resolution"),
    ),
}
NAMES = {
    "bundled": "SKILD, bundled",
    "unconditional": "SKILD, unconditional",
    "SR3": "SR3, 100 steps",
    "shuffled": "shuffled within blocks",
    "more": "the same, four times as many",
}


def spins_of(fields: np.ndarray, like: xr.DataArray | None = None) -> xr.DataArray:
    about = {"L": fields.shape[-1], "beta": BETA_CRITICAL, "boundary": "periodic"}
    made = {"basis": "periodic", "channels": "spin", "source": "start", "model": "ising"}
    whole = xr.DataArray(fields, dims=("sample", "y", "x"), attrs=about | made)
    kept = {} if like is None else {name: like[name].variable for name in ("sample", "chain")}
    return whole.assign_coords({"sample": np.arange(len(fields))} | kept)


def starts(truth: xr.DataArray) -> dict[str, xr.DataArray]:
    """Spins of the given averages, before any sweep."""
    coarse = sk.coarse_grain(truth, factor=FACTOR)
    found = {}
    for name, (path, sampler) in MODELS.items():
        how = {"sampler": sampler, "out": MADE / f"{name.lower()}.h5", "progress": sk.bar}
        made = sk.load(path).super_resolve(coarse, FACTOR, **how).values
        lack = coarse.values - sk.coarse_grain(made, factor=FACTOR, boundary="periodic").values
        print(f"{name}: averages off by {np.sqrt(np.square(lack).mean()):.4f}")
        whole = made + np.kron(lack, np.ones((FACTOR, FACTOR)))
        found[name] = spins_of(by_rank(whole, FACTOR)[0], truth)
    return found | {"shuffled": shuffled(truth)}


def shuffled(truth: xr.DataArray) -> xr.DataArray:
    coarse = sk.coarse_grain(truth, factor=FACTOR)
    return spins_of(sk.sample_exact(coarse, FACTOR, sweeps=0, seed=1).values, truth)


def residuals(truth: xr.DataArray, begun: dict[str, xr.DataArray]) -> xr.Dataset:
    """What is left of the energy and of kappa4, (start, sweeps, ..)."""
    sources = {"truth": truth}
    for name, start in begun.items():
        for sweeps in FEW:
            made = sk.relax(start, sweeps, factor=FACTOR) if sweeps else start
            np.testing.assert_array_equal(
                block_sums(made.values, FACTOR), block_sums(truth.values, FACTOR)
            )
            sources[f"{name} {sweeps}"] = made
    found = sk.eval_correlators(sources, progress=sk.bar).dataset
    grid = [[f"{name} {sweeps}" for sweeps in FEW] for name in begun]
    where = xr.DataArray(grid, coords={"start": list(begun), "sweeps": list(FEW)})
    chosen = [f"{name}_residual{end}" for name in ("energy", "kappa4") for end in ("", "_stderr")]
    return found[[*chosen, "kappa4_residual_p_value"]].sel(source=where).drop_vars("source")


def from_averages(fields: int) -> xr.Dataset:
    whole = sk.generate_ising(L, samples=4 * fields, seed=3, sweeps=0, out=MADE / "truth.h5").load()
    truth = whole[:fields]
    found = [
        residuals(truth, starts(truth)),
        residuals(whole, {"more": shuffled(whole)}),
    ]
    few, model = sk.coarse_grain(truth[:8], factor=FACTOR), sk.load("bundled")
    seconds = {
        "model": timed(lambda: model.super_resolve(few, FACTOR, sampler=sk.Multistep(20))) / 8,
        "exchange_sweep": timed(lambda: sk.relax(truth, 64, factor=FACTOR, workers=1))
        / 64
        / fields,
    }
    about = {f"seconds_per_{name}": value for name, value in seconds.items()}
    joined = xr.concat(found, "start", combine_attrs="drop")
    return joined.drop_attrs(deep=False).assign_attrs(about | {"fields": fields})


def relaxing(start: np.ndarray) -> list[np.ndarray]:
    """Fields after so many sweeps in all, one after another."""
    fields, done = [start], 0
    for sweeps in MANY[1:]:
        made = sk.relax(spins_of(fields[-1]), sweeps - done, workers=1)
        fields.append(made.values)
        done = sweeps
    return fields


def clusters(start: np.ndarray) -> tuple[list[np.ndarray], list[float]]:
    """Fields after so many of Wolff's clusters in all, and the seconds that one took until then."""
    fields, seconds, done = [start], [0.0], 0
    streams = [seed_state(4, i) for i in range(len(start))]
    for number in CLUSTERS[1:]:
        now = fields[-1].copy()
        began = time.perf_counter()
        for spins, rng in zip(now, streams, strict=True):
            wolff_advance(spins, rng, BETA_CRITICAL, number - done)
        seconds.append(seconds[-1] + (time.perf_counter() - began) / len(start))
        fields.append(now)
        done = number
    return fields, seconds


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def enlarged(fields: int) -> xr.Dataset:
    small = sk.open(MADE / "truth.h5")[:fields].load()
    model, times = sk.load("bundled"), LARGE // L
    how = {"sampler": sk.Multistep(20), "batch_size": 1}
    made = model.enlarge(small, times, **how, out=MADE / "enlarged.h5", progress=sk.bar)
    seconds = {"enlarging": timed(lambda: model.enlarge(small[:1], times, **how))}
    ones = np.ones((fields, LARGE, LARGE), np.int8)
    begun = {
        "enlarged": np.where(made.values >= 0, 1, -1).astype(np.int8),
        "repeated": np.kron(small.values, np.ones((times, times), np.int8)),
        "cold": ones,
        "hot": sk.relax(ones, 1, beta=0.0, boundary="periodic").values,
    }
    seconds["sweep"] = timed(lambda: sk.relax(spins_of(ones[:1]), 64, workers=1)) / 64
    exact = sk.generate_ising(LARGE, samples=64, seed=3, sweeps=0, workers=1, out=MADE / "large.h5")
    rows = {"Wolff": ("clusters", CLUSTERS, {}), "sweeps": ("large_sweeps", MANY, {})}
    found = {}
    for name, start in begun.items():
        rows["sweeps"][2][name] = relaxing(start)
        if name in ("cold", "hot"):
            series, of_clusters = clusters(start)
            rows["Wolff"][2][f"Wolff, {name}"] = series
            found[f"Wolff, {name}: seconds"] = "clusters", of_clusters
    truth = sk.eval_correlators(truth=exact, sides=(SIDE,)).dataset.isel(source=0, side=0)
    known = {"energy": torus_energy(LARGE, BETA_CRITICAL), "kappa4": float(truth["kappa4"])}
    for dim, _, of in rows.values():
        for name, series in of.items():
            energy = np.stack([energy_per_spin(each) for each in series]) - known["energy"]
            measured = [
                sk.eval_correlators(made=spins_of(each), sides=(SIDE,)).dataset.isel(
                    source=0, side=0
                )
                for each in series
            ]
            found[f"{name}: energy"] = dim, energy.mean(axis=1)
            found[f"{name}: energy, stderr"] = dim, energy.std(axis=1, ddof=1) / fields**0.5
            found[f"{name}: kappa4"] = dim, [float(x["kappa4"]) - known["kappa4"] for x in measured]
            errors = [float(np.hypot(x["kappa4_stderr"], truth["kappa4_stderr"])) for x in measured]
            found[f"{name}: kappa4, stderr"] = dim, errors
    coords = {dim: list(numbers) for dim, numbers, _ in rows.values()}
    about = {f"seconds_per_{name}": value for name, value in seconds.items()}
    about |= {f"{name}_of_truth": value for name, value in known.items()}
    return xr.Dataset(found, coords, {**about, "large_fields": fields})


def first_exact(data: xr.Dataset, start: str) -> int | None:
    """Sweeps from which on energy and kappa4 at all sides are within two errors of the truth's."""
    rows = data.sel(start=start)
    away = np.abs(rows["energy_residual"]) < 2 * rows["energy_residual_stderr"]
    away &= rows["kappa4_residual_p_value"] > 0.01
    wrong = np.flatnonzero(~away.values)
    after = int(wrong[-1]) + 1 if len(wrong) else 0
    return FEW[after] if after < len(FEW) else None


def show(data: xr.Dataset) -> None:
    for name in ("energy", "kappa4"):
        print(f"\n{name}{'(r = 1)' if name == 'kappa4' else ''} less the truth's, after sweeps")
        print(f"{'':26s}" + "".join(f"{n:>13d}" for n in FEW))
        for start, title in NAMES.items():
            row = data.sel(start=start)
            row = row.sel(side=1) if name == "kappa4" else row
            pair = row[f"{name}_residual"].values, row[f"{name}_residual_stderr"].values
            print(
                f"{title:26s}" + "".join(f"{with_error(*x):>13s}" for x in zip(*pair, strict=True))
            )
    print("p of kappa4 at all sides")
    for start, title in NAMES.items():
        values = data["kappa4_residual_p_value"].sel(start=start).values
        print(f"{title:26s}" + "".join(f"{p:13.2g}" for p in values))
        print(f"  exact to the errors after {first_exact(data, start)}")
    for dim in ("large_sweeps", "clusters"):
        print(f"\n{LARGE} x {LARGE}, {dim}: {data[dim].values.tolist()}")
        for name in sorted(each for each in data if each.endswith((": energy", ": kappa4"))):
            if data[name].dims == (dim,):
                pairs = zip(data[name].values, data[f"{name}, stderr"].values, strict=True)
                print(f"{name:22s} " + " ".join(f"{v:+.4f}({1e4 * e:.0f})" for v, e in pairs))
    for name in ("Wolff, cold: seconds", "Wolff, hot: seconds"):
        print(f"{name:22s} " + " ".join(f"{x:.4f}" for x in data[name].values))
    for name, value in data.attrs.items():
        print(f"{name}: {value}")


def figure(data: xr.Dataset) -> Figure:
    methods = {name: NAMES[name] for name in MODELS} | {"more": NAMES["shuffled"]}
    starts = {
        "enlarged": "enlarged by the bundled model",
        "repeated": "every spin 8 x 8 times",
        "cold": "cold",
        "hot": "hot",
        "Wolff, cold": "cold, Wolff",
    }
    # the models in the colours that their methods have everywhere
    known = {NAMES["bundled"]: "SKILD, block averages", NAMES["SR3"]: "SR3, block averages"}
    labels = [*methods.values(), *starts.values()]
    looked = looks([known.get(label, label) for label in labels])
    how = {
        label: {"linestyle": "-", "label": label, **look}
        for label, look in zip(labels, looked.values(), strict=True)
    }
    about, sweeps = data.attrs, np.array(MANY) * data.attrs["seconds_per_sweep"]
    with new_figure(PAGE, 3.5) as drawn:
        axes = drawn.subplots(1, 3)
        for start, method in methods.items():
            row = data.sel(start=start, side=1)
            value, error = (row[f"kappa4_residual{end}"].values for end in ("", "_stderr"))
            bars(axes[0], FEW, np.abs(value), error, **how[method])
        shaded = [2 * float(error.mean())]
        for name, title in starts.items():
            seconds = sweeps + (about["seconds_per_enlarging"] if name == "enlarged" else 0)
            if name.startswith("Wolff"):
                seconds = data[f"{name}: seconds"].values
            else:
                value, error = (data[f"{name}: energy{end}"].values for end in ("", ", stderr"))
                bars(axes[1], MANY, np.abs(value), error, **how[title])
            value, error = (data[f"{name}: kappa4{end}"].values for end in ("", ", stderr"))
            bars(axes[2], seconds, np.abs(value), error, **how[title])
        shaded += [2 * float(data["hot: energy, stderr"][-1])]
        shaded += [2 * float(data["enlarged: kappa4, stderr"].mean())]
        axes[0].set_title(f"averages of {FACTOR} x {FACTOR}, exchanges")
        axes[0].set(xlabel="sweeps", ylabel=r"$|\Delta\kappa_4(r = 1)|$")
        axes[1].set_title(f"{LARGE} x {LARGE}, heat bath")
        axes[1].set(xlabel="sweeps", ylabel="|energy - exact| per spin")
        axes[2].set_title(f"{LARGE} x {LARGE}, heat bath or Wolff")
        axes[2].set(xlabel="seconds per field", ylabel=rf"$|\Delta\kappa_4(r = {SIDE})|$")
        edges = (1, 1, 1e-3), (2e-4, 4e-4, 2e-3)
        for ax, top, linear, least in zip(axes, shaded, *edges, strict=True):
            ax.axhspan(0, top, color=BLACK, alpha=0.08, lw=0)
            ax.set_xscale("symlog", linthresh=linear)
            ax.set_yscale("log")
            ax.set_ylim(bottom=least)
        lettered(axes, 24)
        axes[2].set_xticks([0, 1e-3, 1e-1, 10], ["0", "0.001", "0.1", "10"])
        handles = axes[0].get_legend_handles_labels()[0] + axes[2].get_legend_handles_labels()[0]
        drawn.legend(handles=handles, loc="outside lower center", ncols=3)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fields", type=int, default=256)
    parser.add_argument("--large", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--measure", action="store_true", help="make the file again first")
    given = parser.parse_args()
    path = given.out / "relax.nc"
    if given.measure:
        parts = [from_averages(given.fields), enlarged(given.large)]
        made = xr.merge(parts, combine_attrs="drop_conflicts")
        with replacing(path) as temporary:
            made.assign_attrs(package_version=sk.__version__).to_netcdf(
                temporary, engine="h5netcdf"
            )
    with xr.open_dataset(path, engine="h5netcdf") as data:
        save_figure(figure(data), path.with_suffix(".png"))
        show(data)


if __name__ == "__main__":
    main()
