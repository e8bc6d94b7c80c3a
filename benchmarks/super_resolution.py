"""Super-resolution from real coarse fields against the truth: correlators, energy, overlap.

    python benchmarks/super_resolution.py CHECKPOINT HELD_OUT.h5 [--samples 1024] [--n-evals 20]
        [--settings box:4 box:2 spectral:4 reconstruct:4 generate] [--out table.json]

Every setting makes one field from each coarse one, of held-out spins by a kernel and a factor; with
a checkpoint that generates, `generate` makes as many from nothing, and `reconstruct:F` goes on from
diffused fields, as the paper does. The spins are the signs. A row holds the residuals of kappa4 at
r = 1, 2, 4, .., the p-value of all of them, those of the energy per spin and of the specific heat
(a ratio), the mean overlap with the truth, and how far the coarse fields of the spins are off.
Exact draws of the spins given the coarse fields have no residuals.
"""

import argparse
from pathlib import Path

import numpy as np
import xarray as xr

import skild_physics as sk
from skild_physics.files import json_text

SETTINGS = ["box:4", "box:2", "box:8", "spectral:4", "gaussian:4", "reconstruct:4", "generate"]


def signs(fields: xr.DataArray) -> xr.DataArray:
    return xr.where(fields > 0, 1, -1).astype(np.int8).assign_attrs(fields.attrs)


def of_setting(model: sk.Model, setting: str, truth: xr.DataArray, **how: object) -> xr.DataArray:
    name, _, factor = setting.partition(":")
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
    if setting.partition(":")[0] not in ("generate", "reconstruct"):
        kernel, _, factor = setting.partition(":")
        ours, theirs = (
            sk.coarse_grain(each, factor=float(factor), kernel=kernel).values
            for each in (spins, truth)
        )
        found["coarse_fields_off_by"] = float(np.sqrt(np.square(ours - theirs).mean()))
    return found


def line(setting: str, found: dict) -> str:
    kappa4, errors = found["kappa4"]
    shown = [f"{x:+.4f}({e * 1e4:.0f})" for x, e in zip(kappa4, errors, strict=True)]
    shown += [f"p {found['p_value']:.2g}"]
    shown += [f"e {found['energy'][0]:+.4f}({found['energy'][1] * 1e4:.0f})"]
    shown += [f"C {found['specific_heat'][0]:+.3f}({found['specific_heat'][1] * 1e3:.0f})"]
    if "overlap" in found:
        shown.append(f"overlap {found['overlap'][0]:.4f}({found['overlap'][1] * 1e4:.0f})")
    if "coarse_fields_off_by" in found:
        shown.append(f"off {found['coarse_fields_off_by']:.4f}")
    return f"{setting:24s} " + " ".join(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("held_out")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--n-evals", type=int, default=20)
    parser.add_argument("--stochastic", action="store_true", help="the reversed SDE")
    parser.add_argument("--settings", nargs="+", default=SETTINGS)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, help="JSON file")
    given = parser.parse_args()
    model, truth = sk.load(given.checkpoint), sk.open(given.held_out)[: given.samples].load()
    sampler = (sk.Stochastic if given.stochastic else sk.Multistep)(given.n_evals)
    rows = {}
    for setting in given.settings:
        how = {"sampler": sampler, "seed": given.seed, "progress": sk.bar}
        made = of_setting(model, setting, truth, **how)
        rows[setting] = row(truth, made, setting)
        print(line(setting, rows[setting]), flush=True)
    if given.out:
        results = {"checkpoint": given.checkpoint, "samples": len(truth), **rows}
        given.out.write_text(json_text(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
