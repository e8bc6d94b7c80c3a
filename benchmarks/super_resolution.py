"""Super-resolution from real coarse fields against the truth, and against exact draws.

    python benchmarks/super_resolution.py CHECKPOINT HELD_OUT.h5 FOLDER [--samples 1024]
        [--n-evals 20] [--settings "box:4 box:2 spectral:4 reconstruct:4 generate"]

Every setting makes one field from each coarse one, of held-out spins by a kernel and a factor; with
a checkpoint that generates, `generate` makes as many from nothing, and `reconstruct:F` goes on from
diffused fields, as the paper does. The spins are the signs. A row holds the residuals of kappa4 at
r = 1, 2, 4, .., the p-value of all of them, those of the energy per spin and of the specific heat
(a ratio), the mean overlap with the truth, and how far the coarse fields of the spins are off.
Averages over whole blocks have exact draws of the spins, which have no residuals: their row, their
overlap, and the ranks of what was made among them. Fields and tables are kept in the folder; the
same command goes on from them.

`box:4@32` starts from true fields that were diffused to an effective resolution of 32, given their
averages as well: nothing is wrong there yet, so what is wrong in the end was made from there on.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import xarray as xr

import skild_physics as sk
from skild_physics.diffusion.noise import Noise
from skild_physics.diffusion.prediction import Denoiser
from skild_physics.diffusion.reverse import sample
from skild_physics.fields.downsampling import downsample
from skild_physics.files import json_text
from skild_physics.models.skild import Skild
from skild_physics.tables import with_error

SETTINGS = "box:4 box:2 box:8 spectral:4 gaussian:4 reconstruct:4 generate"
EXACT_DRAWS = 15


def signs(fields: xr.DataArray) -> xr.DataArray:
    return xr.where(fields > 0, 1, -1).astype(np.int8).assign_attrs(fields.attrs)


def from_within(
    model: Skild, kernel: str, factor: float, R: float, truth: xr.DataArray, **how: Any
) -> xr.DataArray:
    """What is made of fields at resolution R and of their coarse fields."""
    x_0 = torch.as_tensor(truth.values, dtype=torch.float32)[:, None]
    y = downsample(x_0, kernel, round(model.size / factor), model.basis)
    known = model.observed(y.shape[-1], factor, kernel)
    within = model.diffused(model.size, model.size / R)

    def draw(given: torch.Tensor, noise: Noise) -> tuple[torch.Tensor, Denoiser]:
        return within.draw(x_0, noise)[0], known.draw(given, noise)[1]

    start = replace(known, n=within.n, resolution=R, draw=draw)
    made = sample(start, y, how["sampler"], how["seed"], len(truth)).result[:, 0]
    return truth.copy(data=made.numpy())


def of_setting(
    model: Skild, setting: str, truth: xr.DataArray, out: Path, **how: Any
) -> xr.DataArray:
    setting, _, within = setting.partition("@")
    name, _, factor = setting.partition(":")
    if within:
        return from_within(model, name, float(factor), float(within), truth, **how)
    how["out"] = out
    if name == "generate":
        return model.generate(len(truth), **how)
    if name == "reconstruct":
        return model.reconstruct(truth, float(factor), **how)
    coarse = sk.coarse_grain(truth, factor=float(factor), kernel=name)
    return model.super_resolve(coarse, float(factor), **how)


def row(truth: xr.DataArray, made: xr.DataArray, setting: str) -> dict:
    """What is measured of a setting's fields; each value with its standard error."""
    spins = signs(made)
    data = sk.eval_correlators(truth=truth, made=spins).dataset.sel(source="made")

    def value(name: str) -> list:
        pair = data[f"{name}_residual"], data[f"{name}_residual_stderr"]
        return [np.round(each.values, 6).tolist() for each in pair]

    found = {
        "kappa4": value("kappa4"),
        "p_value": float(data["kappa4_residual_p_value"]),
        "energy": value("energy"),
        "specific_heat": value("specific_heat"),
        "n_pairs": int(data["n_pairs"]),
    }
    if setting != "generate":
        overlap = (spins.values * truth.values).mean(axis=(1, 2))
        error = overlap.std(ddof=1) / len(overlap) ** 0.5
        found["overlap"] = [round(float(each), 6) for each in (overlap.mean(), error)]
    kernel, _, factor = setting.partition("@")[0].partition(":")
    if kernel not in ("generate", "reconstruct"):
        ours, theirs = (
            sk.coarse_grain(each, factor=float(factor), kernel=kernel).values
            for each in (spins, truth)
        )
        found["coarse_fields_off_by"] = float(np.sqrt(np.square(ours - theirs).mean()))
    return found


def line(setting: str, found: dict) -> str:
    shown = [with_error(x, e) for x, e in zip(*found["kappa4"], strict=True)]
    shown += [f"p {found['p_value']:.2g}", f"e {with_error(*found['energy'])}"]
    shown += [f"C {with_error(*found['specific_heat'])}"]
    if "overlap" in found:
        shown.append(f"overlap {with_error(*found['overlap'])}")
    if "coarse_fields_off_by" in found:
        shown.append(f"off {found['coarse_fields_off_by']:.4f}")
    return f"{setting:24s} " + " ".join(shown)


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.argument("checkpoint")
@click.argument("held_out")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--samples", default=1024, show_default=True, help="Of the held-out fields.")
@click.option("--n-evals", default=20, show_default=True, help="Evaluations of the network.")
@click.option("--stochastic", is_flag=True, help="The reversed SDE.")
@click.option("--ancestral", is_flag=True, help="The paper's steps, for SR3.")
@click.option("--settings", default=SETTINGS, show_default=True)
@click.option("--seed", default=7, show_default=True, help="Of what is drawn.")
def main(
    checkpoint: str,
    held_out: str,
    folder: Path,
    samples: int,
    n_evals: int,
    stochastic: bool,
    ancestral: bool,
    settings: str,
    seed: int,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model, truth = sk.load(checkpoint), sk.open(held_out)[:samples].load()
    sampler = (sk.Stochastic if stochastic else sk.Multistep)(n_evals)
    if ancestral:
        sampler = sk.Ancestral(n_evals, spacing="log-resolution")
    rows: dict[str, Any] = {"checkpoint": checkpoint, "samples": len(truth)}
    for setting in settings.split():
        stem = folder / setting.replace(":", "")
        how = {"sampler": sampler, "seed": seed, "progress": sk.bar}
        made = of_setting(model, setting, truth, Path(f"{stem}.h5"), **how).load()
        rows[setting] = row(truth, made, setting)
        print(line(setting, rows[setting]), flush=True)
        kernel, _, factor = setting.partition(":")
        if kernel == "box" and "@" not in setting and model.size % float(factor) == 0:
            coarse = sk.coarse_grain(truth, factor=int(factor))
            exact = sk.sample_exact(
                coarse, factor=int(factor), draws=EXACT_DRAWS, out=f"{stem}-exact.h5"
            )
            one = exact[::EXACT_DRAWS].load()
            rows[f"exact {setting}"] = row(truth, one, setting)
            print(line(f"exact {setting}", rows[f"exact {setting}"]))
            print(sk.eval_draws(truth=truth, exact=exact, made=made, out=f"{stem}.nc"), flush=True)
    (folder / "table.json").write_text(json_text(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
