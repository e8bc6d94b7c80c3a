"""skild-physics reproduce: the whole pipeline, every stage once."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import xarray as xr
from skild_physics.cli.console import progress, say
from skild_physics.cli.eval_correlators import LAST_RUN, evaluate_files, save_results, show_results
from skild_physics.cli.fit_spectrum import show_fit
from skild_physics.cli.super_resolve import run_super_resolution
from skild_physics.cli.train import run_training
from skild_physics.data_gen import IsingParameters, generate

from skild_physics.diffusion.superresolution import Sampling
from skild_physics.fields import open_source
from skild_physics.files import replacing
from skild_physics.plots import correlator_figure, save_figure, spectrum_figure
from skild_physics.spectrum import Spectrum, measure_blocks, spectrum_from_blocks
from skild_physics.training.config import load_config


@click.command("reproduce")
@click.argument("case", type=click.Choice(["ising"]), default="ising")
@click.option("--L", "L", type=int, default=32, show_default=True, help="Side of the lattice.")
@click.option("--samples", type=int, default=40_000, show_default=True, help="Training fields.")
@click.option("--heldout", type=int, default=1024, show_default=True, help="Fields to evaluate on.")
@click.option("--factor", type=float, default=4.0, show_default=True, help="Ratio of resolutions.")
@click.option("--steps", type=int, default=20, show_default=True, help="Network calls per field.")
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change the training."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=LAST_RUN,
    show_default=True,
    help="Folder of the run.",
)
@click.option("--overwrite", is_flag=True, help="Discard a run of other settings in the folder.")
def command(
    case: str,
    L: int,
    samples: int,
    heldout: int,
    factor: float,
    steps: int,
    overrides: tuple[str, ...],
    out: Path,
    overwrite: bool,
) -> None:
    r"""Critical Ising fields from nothing to the paper's figure, on two cores, in minutes.

    Generates lattices, fits their spectrum, trains a small SKILD model, reconstructs held-out
    fields from a quarter of their resolution, and compares four-point correlators with the truth.
    Interrupted or run again, it goes on after the last finished stage.

    \b
    Example:
      skild-physics reproduce ising --out runs/ising-L32
    """
    began = time.perf_counter()
    settings = {
        "case": case,
        "L": L,
        "samples": samples,
        "heldout": heldout,
        "factor": factor,
        "steps": steps,
        "set": list(overrides),
    }
    fresh = _claim(out, settings, overwrite)

    with _stage(1, "critical Ising fields: Wolff clusters from an ordered start"):
        for name, seed, count in (("train", 1, samples), ("heldout", 2, heldout)):
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

    with _stage(2, "variance spectrum S0(k) and its power law"):
        spectrum_path = out / "spectrum.nc"
        if fresh or not spectrum_path.exists():
            with open_source(out / "train.h5") as stream:
                with progress("measure", stream.count) as show:
                    blocks = measure_blocks(stream, progress=show)
                spectrum_from_blocks(blocks, stream.basis, source=stream.name).save(spectrum_path)
        spectrum = Spectrum.load(spectrum_path)
        save_figure(spectrum_figure([spectrum]), out / "spectrum.png")
        show_fit(spectrum)

    with _stage(3, "training SKILD"):
        template = files("skild_physics.cli").joinpath("reproduce_ising.toml").read_text()
        with replacing(out / "config.toml") as temporary:
            temporary.write_text(template)
        fitting = (
            f"process.schedule.resolution={L / factor!r}",
            f"data.heldout={max(1, min(256, samples // 8))}",
        )
        config = load_config(out / "config.toml", (*fitting, *overrides))
        checkpoint = run_training(config, overwrite=fresh)

    with _stage(4, f"super-resolution {L / factor:g} -> {L} of held-out fields"):
        result = out / "super_resolved.h5"
        if fresh or not result.exists():
            run_super_resolution(
                checkpoint, out / "heldout.h5", result, factor, Sampling(calls=steps)
            )
        say(f"{result}: {heldout} fields")

    with _stage(5, "connected four-point correlators against the truth"):
        results, pictures = evaluate_files({"truth": out / "heldout.h5", "SKILD": result})
        save_results(results, out / "correlators.nc")
        show_results(results)
        picture = out / "correlators.png"
        titled = {
            "truth, held out": pictures["truth"],
            f"start: effective resolution {L / factor:g}": _first_start(result),
            f"SKILD, {steps} network calls": pictures["SKILD"],
        }
        save_figure(correlator_figure(results[0], titled), picture)
    say(f"done in {time.perf_counter() - began:.0f} s")
    click.echo(picture)


def _claim(out: Path, settings: dict[str, Any], overwrite: bool) -> bool:
    """Whether the folder starts afresh: it is new, or another run in it is to be discarded."""
    note = out / "settings.json"
    if note.exists():
        if json.loads(note.read_text()) == settings:
            return False
        if not overwrite:
            raise ValueError(
                f"{out}: holds a run of other settings; choose another --out, or pass --overwrite "
                "to discard it"
            )
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: is not empty and not a run of reproduce; choose another --out")
    for old in (
        "spectrum.nc",
        "state.pt",
        "state.previous.pt",
        "model.safetensors",
        "super_resolved.h5",
    ):
        (out / old).unlink(missing_ok=True)
    with replacing(note) as temporary:
        temporary.write_text(json.dumps(settings, indent=2))
    return True


@contextmanager
def _stage(number: int, title: str) -> Iterator[None]:
    say(f"[{number}/5] {title}")
    began = time.perf_counter()
    yield
    say(f"[{number}/5] {time.perf_counter() - began:.1f} s")


def _first_start(path: Path):  # type: ignore[no-untyped-def]
    with xr.open_dataset(path, engine="h5netcdf") as data:
        return data["start"][0].values
