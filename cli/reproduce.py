"""skild-physics reproduce: the whole pipeline, every stage once."""

import os
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import xarray as xr

from skild_physics.cli.coarse_grain import coarse_grain
from skild_physics.cli.console import progress, say
from skild_physics.cli.eval_correlators import LAST_RUN, evaluate_files, save_results, show_results
from skild_physics.cli.fit_spectrum import show_fit
from skild_physics.cli.generate import ends_in_noise, run_generation
from skild_physics.cli.reproduce_photographs import reproduce_photographs
from skild_physics.cli.stages import Stages, claim
from skild_physics.cli.super_resolve import run_super_resolution
from skild_physics.cli.train import run_training
from skild_physics.data_gen import IsingParameters, generate
from skild_physics.fields import open_source
from skild_physics.files import check_none_given, replacing
from skild_physics.plots import correlator_figure, save_figure, spectrum_figure
from skild_physics.spectrum import Spectrum, measure_blocks, spectrum_from_blocks
from skild_physics.training.checkpoint import BUNDLED, load_model
from skild_physics.training.config import load_config

MADE = (
    "spectrum.nc",
    "super_resolved.h5",
    "coarse.h5",
    "from_blocks.h5",
    "generated.h5",
)
HELDOUT, FACTOR, SAMPLES = 1024, 4.0, 40_000


@click.command("reproduce")
@click.argument("case", type=click.Choice(["ising", "photographs"]), default="ising")
@click.option(
    "--L", "L", type=int, help="ising: side of the lattice.  [default: 64; 32 with --retrain]"
)
@click.option("--heldout", type=int, help=f"ising: fields to evaluate on.  [default: {HELDOUT}]")
@click.option("--factor", type=float, help=f"ising: ratio of resolutions.  [default: {FACTOR:g}]")
@click.option("--steps", type=int, default=20, show_default=True, help="Network calls per field.")
@click.option("--retrain", is_flag=True, help="Train a model instead of using the bundled one.")
@click.option(
    "--samples",
    type=int,
    help=f"ising, with --retrain: fields to train on.  [default: {SAMPLES}]",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="With --retrain: change the training.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the run.  [default: runs/CASE]",
)
@click.option("--overwrite", is_flag=True, help="Discard a run of other settings in the folder.")
def command(
    case: str,
    L: int | None,
    heldout: int | None,
    factor: float | None,
    steps: int,
    retrain: bool,
    samples: int | None,
    overrides: tuple[str, ...],
    out: Path | None,
    overwrite: bool,
) -> None:
    """The paper's figure on two cores, in minutes.

    Makes critical Ising lattices that the model was not trained on, fits their spectrum, makes
    them again three times, by super-resolution from what diffusion left of them, from their block
    averages, and from nothing, and compares four-point correlators with the truth. With --retrain a
    small model is trained first. Interrupted or run again, it goes on after the last finished
    stage.

    The case photographs does the same with the pictures that come with scikit-image and
    scikit-learn: spectrum, super-resolution by 2, 3 and 4 of photographs the model was not trained
    on, and their PSNR, SSIM and consistency beside bicubic interpolation. With --retrain it trains
    the model first, about 20 minutes.

    \b
    Example:
      skild-physics reproduce
      skild-physics reproduce photographs
      skild-physics reproduce --retrain --out runs/ising-L32
    """
    began = time.perf_counter()
    if case != "ising":
        of_ising = {"L": L, "heldout": heldout, "factor": factor, "samples": samples}
        check_none_given(of_ising, "goes with the case ising")
    if not retrain:
        check_none_given({"samples": samples, "overrides": overrides}, "goes with `retrain=True`")
    if case == "photographs":
        picture = reproduce_photographs(
            out or Path("runs/photographs"), steps, retrain, overrides, overwrite
        )
    else:
        picture = _reproduce_ising(
            (32 if retrain else 64) if L is None else L,
            HELDOUT if heldout is None else heldout,
            FACTOR if factor is None else factor,
            steps,
            retrain,
            SAMPLES if samples is None else samples,
            overrides,
            out or LAST_RUN,
            overwrite,
        )
    say(f"done in {time.perf_counter() - began:.0f} s")
    click.echo(picture)


def _reproduce_ising(
    L: int,
    heldout: int,
    factor: float,
    steps: int,
    retrain: bool,
    samples: int,
    overrides: tuple[str, ...],
    out: Path,
    overwrite: bool,
) -> Path:
    """The stages; returns the path of the figure."""
    settings = {
        "case": "ising",
        "L": L,
        "heldout": heldout,
        "factor": factor,
        "steps": steps,
        "retrain": retrain,
        "samples": samples if retrain else 0,
        "set": list(overrides),
    }
    fresh = claim(out, settings, MADE, overwrite)
    stages = Stages(5 if retrain else 4)

    with stages.next("critical Ising fields: Wolff clusters from an ordered start"):
        # seed 1 is that of the fields the bundled model was trained on
        for name, seed, count in (("train", 1, samples), ("heldout", 2, heldout)):
            if name == "train" and not retrain:
                continue
            with progress(name, count) as show:
                made = generate(
                    out / f"{name}.h5",
                    IsingParameters.planned(L, seed=seed),
                    count,
                    workers=os.cpu_count() or 1,
                    progress=show,
                    overwrite=fresh,
                )
            say(f"{out / name}.h5: {count} fields, {made} of them made now")

    with stages.next("variance spectrum S0(k) and its power law"):
        spectrum_path = out / "spectrum.nc"
        if fresh or not spectrum_path.exists():
            with open_source(out / ("train.h5" if retrain else "heldout.h5")) as stream:
                with progress("measure", stream.count) as show:
                    blocks = measure_blocks(stream, progress=show)
                spectrum_from_blocks(blocks, stream.basis, source=stream.name).save(spectrum_path)
        spectrum = Spectrum.load(spectrum_path)
        save_figure(spectrum_figure([spectrum]), out / "spectrum.png")
        show_fit(spectrum)

    checkpoint = Path(BUNDLED)
    if retrain:
        with stages.next("training SKILD"):
            template = files("skild_physics.cli").joinpath("reproduce_ising.toml").read_text()
            with replacing(out / "config.toml") as temporary:
                temporary.write_text(template)
            fitting = f"data.heldout={max(1, min(256, samples // 8))}"
            config = load_config(out / "config.toml", (fitting, *overrides))
            checkpoint = run_training(config, overwrite=fresh)

    with stages.next(f"lattices of {L} x {L}, from {L / factor:g} x {L / factor:g} or nothing"):
        made_files = _make(checkpoint, out, L, heldout, factor, {"calls": steps}, fresh)

    with stages.next("connected four-point correlators against the truth"):
        sources = {"truth": out / "heldout.h5", **made_files}
        results, pictures = evaluate_files(sources, binarize="sign")
        save_results(results, out / "correlators.nc")
        show_results(results)
        picture = out / "correlators.png"
        titled = {
            "truth, held out": pictures["truth"],
            f"effective resolution {L / factor:g}": _first_start(made_files["SKILD"]),
            **{label: field for label, field in pictures.items() if label != "truth"},
        }
        save_figure(correlator_figure(results[0], titled), picture)
    return picture


def _make(
    checkpoint: Path,
    out: Path,
    L: int,
    count: int,
    factor: float,
    sampling: dict[str, Any],
    fresh: bool,
) -> dict[str, Path]:
    """The held-out fields made again from less and less, by label."""
    paired, generated = out / "super_resolved.h5", out / "generated.h5"
    coarse, observed = out / "coarse.h5", out / "from_blocks.h5"
    if fresh or not paired.exists():
        run_super_resolution(checkpoint, out / "heldout.h5", paired, factor, sampling)
    found = {"SKILD": paired}
    if L % factor == 0:
        if fresh or not observed.exists():
            coarse_grain(out / "heldout.h5", coarse, factor, "box")
            run_super_resolution(checkpoint, coarse, observed, factor, sampling, None, "observed")
        found["from block averages"] = observed
    model = load_model(checkpoint)
    if model.process.N == L and ends_in_noise(model):
        if fresh or not generated.exists():
            run_generation(checkpoint, generated, count, sampling)
        found["from nothing"] = generated
    return found


def _first_start(path: Path):  # type: ignore[no-untyped-def]
    with xr.open_dataset(path, engine="h5netcdf") as data:
        return data["start"][0].values
