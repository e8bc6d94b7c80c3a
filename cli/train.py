"""skild-physics train."""

from pathlib import Path
from typing import Any

import click

from skild_physics.cli.console import progress, say, speaks
from skild_physics.cli.help import Command
from skild_physics.config import load_config
from skild_physics.files import check_none_given, json_text
from skild_physics.training.run import dry_run
from skild_physics.training.train import train


@click.command("train", cls=Command)
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a value."
)
@click.option(
    "--dry-run", "dry", is_flag=True, help="Say what a run needs, after a few steps; write nothing."
)
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: the numbers as JSON.")
@click.option("--overwrite", is_flag=True, help="Discard a run that is in the output folder.")
def command(
    config: Path, overrides: tuple[str, ...], dry: bool, as_json: bool, overwrite: bool
) -> None:
    """Train a model as CONFIG says: a TOML file, or the name of a shipped configuration.

    Rerunning the same command resumes. SKILD as published: cifar10-linear, cifar10-log-linear,
    imagenet128-x4, imagenet128-x8, imagenet256-x4, ising128-x4. Scale Space Diffusion as
    published: celeba64-ssd, celeba64-ssd4, celeba128-ssd3, celeba128-ssd5, celeba256-ssd3,
    celeba256-ssd6, imagenet64-ssd, and their baseline celeba64-ddpm. For two CPU cores:
    ising64-coarse and photographs64, the bundled SKILD models; ising64, which is not conditioned on
    coarse fields; ising64-sr3, its baseline; ising64-ssd; ising64-ddpm, with one level.

    \b
    Example:
      skild-physics train ising.toml --set training.steps=2000
      torchrun --nproc_per_node=8 -m skild_physics.cli train ising128-x4
    """
    run = load_config(config, overrides)
    if dry:
        check_none_given({"overwrite": overwrite}, "does not go with `dry=True`: it writes nothing")
        found = dry_run(run, log=say)
        answer = json_text(found, indent=2) if as_json else _needs(found)
    else:
        check_none_given({"as_json": as_json}, "goes with `dry=True`")
        answer = train(run, overwrite=overwrite, progress=progress).origin["checkpoint"]
    if speaks:
        click.echo(answer)


def _needs(found: dict[str, Any]) -> str:
    return (
        f"{found['parameters']:,} parameters; {found['seconds_per_step']:.3g} s per step, "
        f"{found['fields_per_second']:.4g} fields/s, {found['hours']:.3g} h in all; peak memory "
        f"{found['peak_memory_gib']:.3g} GiB; {found['state_gib']:.3g} GiB per saved state"
    )
