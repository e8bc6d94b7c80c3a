"""What the forward process is worth: one network, one set of lattices, and one process each.

    python paper_figures/processes.py [--measure] [--steps 1500] [--fields 1024] [NAME ...]

Every process of the list trains the compact network on the same critical lattices of 32 x 32, with
the same seed, optimiser and number of steps (after arXiv 2605.26032, tables D.4 and D.11, there of
pictures and of their quality). SKILD's schedules are of both families; "published" are those of
CIFAR-10, which is of this side. S0 is the variance of modes, or that of their magnitudes, as in
published models. DDPM has white noise. With --measure each is measured by unconditional samples, of
four processes also along the training, and SKILD's by lattices made again from an effective
resolution of 8 x 8, against held-out lattices.

Where S0 is smaller than the variance, the same signal-to-noise ratio of the process leaves more of
the truth. "Equal signal" starts where as much of it is left as of the one with the variance.

Given again, the command goes on where it was. Named processes alone are trained and measured with
NAME; the file then holds these.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import xarray as xr
from ising import HERE, MADE, save, signs, truth

import skild_physics as sk
from skild_physics.claims import replacing
from skild_physics.config import Config, parse_config
from skild_physics.diffusion.reverse import diffused, sample
from skild_physics.models.skild import Skild
from skild_physics.plots import Figure, looks, new_figure
from skild_physics.plots.style import PAGE, bars, lettered, on_sides, side_by_side, zero_line
from skild_physics.tables import with_error

NAME = "processes"
L, TRAINED, HELDOUT, SNR, FACTOR = 32, 20_000, 256, 0.1, 4
SIDES = (1, 2, 4, 8, 16)
KEPT, BATCH = 3, 16
Make = Callable[[], xr.DataArray]


@dataclass(frozen=True)
class Coloured:
    """SKILD: a schedule as a configuration says it, k_c, and the statistic that is S0."""

    schedule: dict[str, Any]
    k_c: float
    statistic: str = "variance"


@dataclass(frozen=True)
class White:
    """DDPM, of the betas of guided diffusion."""

    betas: str
    statistic: str = field(default="", init=False)


def log_linear(lambda_i: float, lambda_f: float) -> dict[str, Any]:
    """lambda(t) = t 10^(lambda_i + (lambda_f - lambda_i) t)."""
    return {"kind": "log-linear", "lambda_i": lambda_i, "lambda_f": lambda_f}


# lambda(t) = theta t / (lambda_i (1 - t) + lambda_f)^2
LINEAR = {"kind": "linear", "theta": 5.0, "lambda_i": 137.7294, "lambda_f": 1.57}
PROCESSES = {
    "linear, theta 5 (published)": Coloured(LINEAR, 3.0),
    "the same, S0 of |X|": Coloured(LINEAR, 3.0, "magnitude"),
    "log-linear, k_c 31.2 (published)": Coloured(log_linear(-3.75, -2.0), 31.2),
    "DDPM, linear betas": White("linear"),
    "DDPM, cosine betas": White("cosine"),
    "log-linear, k_c 3": Coloured(log_linear(-5.0, 0.3), 3.0),
}
OVER_TRAINING = (
    "linear, theta 5 (published)",
    "log-linear, k_c 31.2 (published)",
    "DDPM, linear betas",
    "DDPM, cosine betas",
)


def slug(name: str) -> str:
    """As part of a file's name."""
    return "".join(each if each.isalnum() else "-" for each in name.replace("|", ""))


def configuration(name: str, steps: int) -> Config:
    """The run of one process."""
    chosen = PROCESSES[name]
    if isinstance(chosen, White):
        process = {"kind": "scale-space", "size": L, "basis": "periodic"} | {
            "schedule": {"kind": "betas", "betas": chosen.betas}
        }
    else:
        file = MADE / f"L{L}-{chosen.statistic}.nc"
        process = {
            "spectrum": str(file),
            "snr": SNR,
            "k_c": chosen.k_c,
            "schedule": chosen.schedule,
        }
    return parse_config(
        {
            "out": str(MADE / f"{NAME}-{steps}" / slug(name)),
            "data": {"source": str(MADE / f"L{L}-seed1.h5"), "heldout": HELDOUT},
            "process": process,
            "network": {"channels": (48, 64), "blocks": (1, 1)},
            "training": {
                "steps": steps,
                "batch_size": BATCH,
                "optimizer": "muon",
                "precision": "float32",
                "compile": True,
                "threads": 1,
                "keep_every": max(steps // KEPT, 1),
                "evaluate_every": steps,
            },
        }
    )


def prepare() -> None:
    """Lattices to train on, and their spectra, if they are not there."""
    lattices = truth(L, TRAINED, 1)
    for statistic in ("variance", "magnitude"):
        out = MADE / f"L{L}-{statistic}.nc"
        if not out.exists():
            sk.fit_spectrum(lattices, statistic=statistic, out=out, progress=sk.bar)


def kept(run: Path) -> dict[int, sk.Model]:
    """Models of a run by their steps, the last one once."""
    paths = [*sorted((run / "kept").glob("*.safetensors")), run]
    models = [sk.load(path, device="cpu") for path in paths]
    return {model.trained_steps: model for model in models}


def again(model: Skild, x: xr.DataArray, snr: float, evaluations: int) -> xr.DataArray:
    """Lattices diffused to a quarter of the resolution, at this threshold, and made again."""
    start = diffused(model.process, model.denoiser(), FACTOR, snr)
    given = torch.from_numpy(x.values)[:, None]
    with sk.bar("4x", len(x)) as show:
        made = sample(start, given, sk.Multistep(evaluations), progress=show).result
    return x.copy(data=made[:, 0].numpy())


def fields_of(
    models: dict[int, sk.Model], x: xr.DataArray, evaluations: int, *, along: bool
) -> dict[tuple[str, int], xr.DataArray]:
    """What the models of a run make: (protocol, step) -> lattices, in files that stay."""
    made = {}
    for step, model in models.items():
        for protocol, make in ways(model, x, evaluations).items():
            if step == max(models) or (along and protocol == "samples"):
                made[protocol, step] = stored(model, protocol, make, len(x), evaluations)
    return made


def stored(
    model: sk.Model, protocol: str, make: Make, fields: int, evaluations: int
) -> xr.DataArray:
    """Signs of what is made, or what was made before."""
    key = f"{model.origin['checkpoint_sha256'][:16]}-{slug(protocol)}-{fields}-{evaluations}"
    path = MADE / NAME / f"{key}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    return sk.open(path) if path.exists() else sk.save(signs(make()), path)


def ways(model: sk.Model, x: xr.DataArray, evaluations: int) -> dict[str, Make]:
    """How a model makes lattices."""
    sampler = sk.Multistep(evaluations)
    how: dict[str, Make] = {
        "samples": lambda: model.generate(len(x), sampler=sampler, progress=sk.bar)
    }
    if not isinstance(model, Skild):
        return how
    how["4x"] = lambda: again(model, x, SNR, evaluations)
    variance = sk.Spectrum.load(MADE / f"L{L}-variance.nc").per_mode()
    smaller = float(np.median(model.process.S0.numpy() / variance))
    if smaller < 0.99:
        how["4x, equal signal"] = lambda: again(model, x, SNR * smaller, evaluations)
    return how


def measure(names: tuple[str, ...], steps: int, fields: int, evaluations: int) -> xr.Dataset:
    prepare()
    x = truth(L, fields).load()
    rows, sources = [], {"truth": x}
    for name in names:
        config = configuration(name, steps)
        sk.train(config, progress=sk.bar)
        made = fields_of(kept(config.out), x, evaluations, along=name in OVER_TRAINING)
        for (protocol, step), each in made.items():
            label = f"{name}; {protocol}; {step}"
            sources[label] = each
            rows.append((label, name, protocol, step, float((each * x).mean())))
    found = sk.eval_correlators(sources, binarize="sign", sides=SIDES, beta=x.attrs["beta"])
    labels, processes, protocols, trained, overlaps = map(list, zip(*rows, strict=True))
    return (
        found.dataset.sel(source=labels)
        .assign(
            process=("source", processes),
            protocol=("source", protocols),
            step=("source", trained),
            overlap=("source", overlaps, {"long_name": "mean product of spins with the truth's"}),
        )
        .assign_attrs(steps=steps, evaluations=evaluations, L=L)
    )


def table(results: xr.Dataset) -> None:
    """Residuals of the last step, and those of kappa4(1) along the training."""
    sides = (1, 4, 16)
    for protocol in dict.fromkeys(results["protocol"].values):
        heads = [f"kappa4({r})" for r in sides] + ["energy", "\\|m\\|", "overlap"]
        print(f"\n| {protocol} | {' | '.join(heads)} |")
        for row in chosen(results, protocol, last=True):
            texts = [shown(row.sel(side=r), "kappa4_residual") for r in sides]
            texts += [shown(row, f"{name}_residual") for name in ("energy", "abs_magnetization")]
            print(
                f"| {row['process'].item()} | {' | '.join(texts)} | {float(row['overlap']):.3f} |"
            )
    print()
    for name in (name for name in OVER_TRAINING if name in results["process"].values):
        rows = [row for row in chosen(results, "samples") if row["process"].item() == name]
        texts = [shown(row.sel(side=1), "kappa4_residual") for row in rows]
        print(f"| {name} | {' | '.join(texts)} |")


def shown(row: xr.Dataset, name: str) -> str:
    return with_error(float(row[name]), float(row[f"{name}_stderr"]))


def chosen(results: xr.Dataset, protocol: str, *, last: bool = False) -> list[xr.Dataset]:
    """Rows of a protocol, all or those of the last step."""
    rows = [results.sel(source=label) for label in results["source"].values]
    steps = results.attrs["steps"]
    return [
        row
        for row in rows
        if row["protocol"].item() == protocol and (not last or row["step"].item() == steps)
    ]


def draw(results: xr.Dataset) -> Figure:
    names = list(dict.fromkeys(results["process"].values.tolist()))
    looked = looks([str(i) for i in range(len(PROCESSES))]).values()
    look = dict(zip(PROCESSES, looked, strict=True))
    with new_figure(PAGE, 3.4) as figure:
        over, samples, again = axes = figure.subplots(1, 3)
        shown = [name for name in names if name in OVER_TRAINING]
        for name, shift in zip(shown, side_by_side(len(shown)), strict=True):
            rows = [row for row in chosen(results, "samples") if row["process"].item() == name]
            at = np.array([row["step"].item() for row in rows]) * shift
            value = [float(row["kappa4_residual"].sel(side=1)) for row in rows]
            error = [float(row["kappa4_residual_stderr"].sel(side=1)) for row in rows]
            bars(over, at, value, error, linestyle="-", **look[name])
        steps = sorted(set(results["step"].values.tolist()))
        over.set(xscale="log", xlabel="training step", title="unconditional, r = 1")
        over.set_xticks(steps, [str(step) for step in steps])
        over.set_xticks([], minor=True)
        over.set_ylabel(r"$\kappa_4$ minus that of truth")
        for ax, protocol in ((samples, "samples"), (again, "4x")):
            rows = chosen(results, protocol, last=True)
            for row, shift in zip(rows, side_by_side(len(rows)), strict=True):
                name = row["process"].item()
                value, error = row["kappa4_residual"], row["kappa4_residual_stderr"]
                bars(ax, row["side"] * shift, value, error, **look[name], label=name)
            on_sides(ax, list(SIDES))
        samples.set_title("unconditional")
        again.set_title("4x")
        for ax in axes:
            zero_line(ax)
        figure.legend(*samples.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        lettered(axes)
    return figure


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(PROCESSES)))
@click.option("--measure", "anew", is_flag=True, help="Train and measure first.")
@click.option("--steps", default=1500, show_default=True, help="Of each training.")
@click.option("--fields", default=1024, show_default=True, help="Lattices to measure on.")
@click.option("--evaluations", default=20, show_default=True, help="Of the network per lattice.")
def main(names: tuple[str, ...], anew: bool, steps: int, fields: int, evaluations: int) -> None:
    path = HERE / f"{NAME}.nc"
    if anew:
        results = measure(names or tuple(PROCESSES), steps, fields, evaluations)
        with replacing(path) as temporary:
            results.to_netcdf(temporary, engine="h5netcdf")
    with xr.open_dataset(path, engine="h5netcdf") as results:
        table(results)
        save(draw(results), NAME)


if __name__ == "__main__":
    main()
