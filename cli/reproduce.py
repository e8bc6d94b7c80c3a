"""skild-physics reproduce: the whole pipeline, every stage once."""

from pathlib import Path
from typing import Any, Literal

import click

from skild_physics.cli.console import progress, say, show
from skild_physics.cli.help import Command
from skild_physics.observables.results import Correlators
from skild_physics.pipeline.reproduce import FACTOR, HELDOUT, SAMPLES, reproduce
from skild_physics.tables import with_error


@click.command("reproduce", cls=Command)
@click.argument("case", type=click.Choice(["ising", "photographs"]), default="ising")
@click.option(
    "--L", "L", type=int, help="ising: side of the lattice.  [default: 64; 32 with --retrain]"
)
@click.option("--heldout", type=int, help=f"ising: fields to evaluate on.  [default: {HELDOUT}]")
@click.option("--factor", type=float, help=f"ising: ratio of resolutions.  [default: {FACTOR:g}]")
@click.option(
    "--steps",
    "n_evals",
    type=int,
    default=20,
    show_default=True,
    help="Evaluations of the network per field.",
)
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
def command(case: Literal["ising", "photographs"], **options: Any) -> None:
    """The paper's figure on two cores, in minutes.

    Makes critical Ising lattices that the model was not trained on, fits their spectrum, makes
    them again three times, by super-resolution from what diffusion left of them, from their block
    averages, and unconditionally, and compares four-point correlators with the truth. With
    --retrain a small model is trained first. Interrupted or run again, it goes on after the last
    finished stage.

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
    run = reproduce(case, progress=progress, **options)
    law, out = run.spectrum.fit.law, run.figure.parent
    say(f"alpha of the spectrum: {with_error(law.alpha, run.spectrum.law_stderr[2])}")
    if isinstance(run.quality, Correlators):
        for line in run.quality.in_words():
            say(line)
        made = f"truth={out / 'heldout.h5'} SKILD={out / 'super_resolved.h5'}"
        say(f"tables: skild-physics eval-correlators {made}")
    else:
        show(run.quality)
    say(f"all results: {out}")
    click.echo(run.figure)
