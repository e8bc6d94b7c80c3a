"""How far made Ising lattices are from the truth, in every observable.

    python benchmarks/lattices.py make CHECKPOINT HELD_OUT.h5 FOLDER [--samples 1024]
        [--n-evals 20] [--order 2] [--settings "box:4 box:2 spectral:4 reconstruct:4 generate"]
    python benchmarks/lattices.py table FOLDER...

Every setting makes one field from each held-out one. A kernel and a factor, as `box:4`, are of
super-resolution from coarse fields; of a factor that leaves no whole sites, the nearest that does.
`reconstruct:F` goes on from diffused fields, as the paper does; `generate` makes as many from
nothing; `enlarge:F` makes lattices F times as wide, which those of --larger are the truth of.
`box:4@32` starts from true fields that were diffused to an effective resolution of 32, given their
averages as well: nothing is wrong there yet, so what is wrong in the end was made from there on;
such fields are made all at once, and anew every time.

The spins are the signs. The held-out lattices may be larger than those that the checkpoint was
trained on. Averages over whole blocks have exact draws of the spins, which have no residuals: their
row, their overlap, and the ranks of what was made among them. Fields are kept in the folder, and
what was measured as a NetCDF file of each setting, with the values, errors and covariances, and how
it was made; the same command goes on from them.

The table of several folders, of trainings of different seeds, has the mean over them, the error of
one, and the standard deviation between them.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import xarray as xr
from against_truth import ENDING, line, measured, read, table

import skild_physics as sk
from skild_physics.claims import work_folder
from skild_physics.diffusion.noise import Noise
from skild_physics.diffusion.prediction import Denoiser
from skild_physics.diffusion.reverse import sample
from skild_physics.disk import write_netcdf
from skild_physics.fields.downsampling import DOWNSAMPLINGS, downsample
from skild_physics.fields.lazy import content
from skild_physics.models.making import parameters_of
from skild_physics.models.skild import Skild

SETTINGS = "box:4 box:2 box:8 spectral:4 gaussian:4 reconstruct:4 generate"


@dataclass(frozen=True)
class Setting:
    """A way to make lattices: a kernel or a verb, its factor, and where to start from."""

    text: str
    way: str
    factor: float
    within: float | None

    @classmethod
    def parsed(cls, text: str) -> "Setting":
        before, _, within = text.partition("@")
        way, _, factor = before.partition(":")
        try:
            found = cls(text, way, float(factor or 1), float(within) if within else None)
        except ValueError:
            raise click.BadParameter(f"{text}: not a word:number or word:number@number") from None
        ways = (*DOWNSAMPLINGS, "reconstruct", "enlarge", "generate")
        if way not in ways or bool(factor) == (way == "generate") or not 1 <= found.factor < np.inf:
            raise click.BadParameter(f"{text}: not generate, or WORD:FACTOR of {', '.join(ways)}")
        if found.within is not None and not found.of_coarse:
            raise click.BadParameter(f"{text}: @ is for coarse fields")
        if found.within is not None and not 0 < found.within < np.inf:
            raise click.BadParameter(f"{text}: an effective resolution is positive")
        return found

    @property
    def of_coarse(self) -> bool:
        return self.way in DOWNSAMPLINGS

    def coarse_side(self, L: int) -> int:
        return max(1, round(L / self.factor))

    def has_exact(self, L: int) -> bool:
        """Whether exact draws of its spins are known."""
        is_whole = self.factor.is_integer() and L % self.factor == 0
        return self.way == "box" and self.within is None and is_whole


def signs(fields: xr.DataArray, truth: xr.DataArray) -> xr.DataArray:
    """Spins, which are meant to be at the temperature of the truth if they do not say theirs."""
    about = {**parameters_of(truth.attrs), **fields.attrs}
    return xr.where(fields > 0, 1, -1).astype(np.int8).assign_attrs(about)


def from_within(
    model: Skild, setting: Setting, R: float, truth: xr.DataArray, sampler: Any, seed: int
) -> xr.DataArray:
    """What is made of fields at resolution R and of their coarse fields."""
    x_0 = torch.as_tensor(truth.values, dtype=torch.float32)[:, None]
    L, M = truth.shape[-1], setting.coarse_side(truth.shape[-1])
    y = downsample(x_0, setting.way, M, model.basis)
    known = model.observed(M, L / M, setting.way)
    within = model.diffused(L, L / R)
    if within.n > known.n:
        raise sk.InputError(f"coarse fields say more than an effective resolution of {R:g}")

    def draw(given: torch.Tensor, noise: Noise) -> tuple[torch.Tensor, Denoiser]:
        return within.draw(x_0, noise)[0], known.draw(given, noise)[1]

    start = replace(known, n=within.n, resolution=R, draw=draw)
    made = sample(start, y, sampler, seed, len(truth)).result[:, 0]
    said = {**parameters_of(truth.attrs), **model.origin, **sampler.describe(), "seed": seed}
    return truth.copy(data=made.numpy()).drop_attrs().assign_attrs(said)


def fields_of(
    model: sk.Model, setting: Setting, truth: xr.DataArray, out: Path, **how: Any
) -> xr.DataArray:
    L = truth.shape[-1]
    if setting.way == "generate":
        return model.generate(len(truth), L=L, out=out, **how)
    if setting.way == "reconstruct":
        return model.reconstruct(truth, setting.factor, out=out, **how)
    if setting.way == "enlarge":
        return model.enlarge(truth, setting.factor, out=out, **how)
    factor = L / setting.coarse_side(L)
    coarse = sk.coarse_grain(truth, factor=factor, kernel=setting.way)
    return model.super_resolve(coarse, factor, out=out, **how)


def off_by(setting: Setting, truth: xr.DataArray, spins: xr.DataArray) -> float:
    """Root mean square by which the coarse fields of spins differ from the truth's."""
    factor = truth.shape[-1] / setting.coarse_side(truth.shape[-1])
    theirs, ours = (
        sk.coarse_grain(each, factor=factor, kernel=setting.way) for each in (truth, spins)
    )
    return float(np.sqrt(np.square(ours.values - theirs.values).mean()))


def stem(folder: Path, label: str) -> str:
    """What the names of the files of a setting begin with."""
    return str(folder / label.replace(":", "").replace(" ", "-"))


def seconds_before(path: Path) -> float:
    """What an earlier call, which made the fields, noted."""
    if not path.exists():
        return float("nan")
    with xr.open_dataset(path, engine="h5netcdf") as found:
        return float(found.attrs["seconds"])


def keep(
    path: Path,
    label: str,
    setting: Setting,
    truth: xr.DataArray,
    made: xr.DataArray,
    seconds: float,
) -> xr.Dataset:
    """Measure, write and print what was made in a setting."""
    spins = signs(made, truth)
    found = measured(truth, spins)
    about = {**made.attrs, "truth_sha256": content(truth), "setting": label, "seconds": seconds}
    if setting.of_coarse:
        about["coarse_fields_off_by"] = off_by(setting, truth, spins)
    known = {name: value for name, value in about.items() if value is not None}
    found = found.assign_attrs({**known, **found.attrs})
    write_netcdf(path, {None: found})
    print(line(label, found), flush=True)
    return found


def results(
    folder: Path,
    setting: Setting,
    model: sk.Model,
    truth: xr.DataArray,
    larger: str | None,
    draws: int,
    how: dict[str, Any],
) -> dict[str, list[xr.Dataset]]:
    """What was measured of a setting, and of exact draws where there are any."""
    text, given = setting.text, truth
    if setting.way == "enlarge":
        truth = sk.open(larger)[: len(given)].load()
        given = given[: len(truth)]
        L, wanted = truth.shape[-1], setting.factor * given.shape[-1]
        if wanted != L:
            raise sk.InputError(f"{larger} has {L} sites a side, expected {wanted:g}")
    begins = stem(folder, text)
    out, path = Path(f"{begins}.h5"), Path(f"{begins}{ENDING}")
    is_new = not out.exists() and not work_folder(out).exists()
    began = time.perf_counter()
    if setting.within is not None:
        made = from_within(model, setting, setting.within, given, **how)
    else:
        made = fields_of(model, setting, given, out, progress=sk.bar, **how).load()
    seconds = time.perf_counter() - began if is_new else seconds_before(path)
    found = {text: [keep(path, text, setting, truth, made, seconds)]}
    if draws and setting.has_exact(truth.shape[-1]):
        factor, label = int(setting.factor), f"{text} exact"
        coarse, begins_exact = sk.coarse_grain(truth, factor=factor), stem(folder, label)
        exact = sk.sample_exact(coarse, factor=factor, draws=draws, out=f"{begins_exact}.h5")
        one, path = exact[::draws].load(), Path(f"{begins_exact}{ENDING}")
        found[label] = [keep(path, label, setting, truth, one, float("nan"))]
        ranks = sk.eval_draws(truth=truth, exact=exact, made=made, out=f"{begins}.nc")
        print(ranks, flush=True)
    return found


@click.group(help=(__doc__ or "").partition("\n")[0])
def main() -> None:
    pass


@main.command("make")
@click.argument("checkpoint")
@click.argument("held_out")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--samples", default=1024, show_default=True, help="Of the held-out fields.")
@click.option("--n-evals", default=20, show_default=True, help="Evaluations of the network.")
@click.option("--order", default=2, show_default=True, help="Of the deterministic sampler.")
@click.option("--stochastic", is_flag=True, help="The reversed SDE.")
@click.option("--ancestral", is_flag=True, help="The paper's steps, for SR3.")
@click.option("--settings", default=SETTINGS, show_default=True)
@click.option("--larger", help="Held-out lattices of the side that enlarge makes.")
@click.option("--draws", default=15, show_default=True, help="Exact ones of a field; 0: none.")
@click.option("--seed", default=7, show_default=True, help="Of what is drawn.")
def make(
    checkpoint: str,
    held_out: str,
    folder: Path,
    samples: int,
    n_evals: int,
    order: int,
    stochastic: bool,
    ancestral: bool,
    settings: str,
    larger: str | None,
    draws: int,
    seed: int,
) -> None:
    """Make lattices in every setting, and measure them."""
    wanted = [Setting.parsed(text) for text in settings.split()]
    if larger is None and any(each.way == "enlarge" for each in wanted):
        raise click.UsageError("enlarge needs --larger, lattices to compare with")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        model, truth = sk.load(checkpoint), sk.open(held_out)[:samples].load()
        sampler = (sk.Stochastic if stochastic else sk.Multistep)(n_evals, order=order)
        if ancestral:
            sampler = sk.Ancestral(n_evals, spacing="log-resolution")
    except sk.InputError as error:
        raise click.ClickException(str(error)) from error
    how = {"sampler": sampler, "seed": seed}
    found: dict[str, list[xr.Dataset]] = {}
    for setting in wanted:
        try:
            found |= results(folder, setting, model, truth, larger, draws, how)
        except sk.InputError as error:
            raise click.ClickException(f"{setting.text}: {error}") from error
    print(table(found))


@main.command("table")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
def show(folders: tuple[Path, ...]) -> None:
    """What was measured in folders, one table."""
    try:
        if len(folders) > 1:
            print("mean(error of one) [standard deviation between trainings]\n")
        print(table(read(folders)))
    except sk.InputError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
