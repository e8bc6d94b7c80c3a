"""skild-physics train."""

import json
from pathlib import Path

import click
from skild_physics.cli.console import progress, say

from skild_physics.training.config import Config, load_config
from skild_physics.training.trainer import train


@click.command("train")
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a value."
)
@click.option("--overwrite", is_flag=True, help="Discard a run that is in the output folder.")
def command(config: Path, overrides: tuple[str, ...], overwrite: bool) -> None:
    r"""Train a SKILD model as CONFIG, a TOML file, says. Rerunning the same command resumes.

    \b
    Example:
      skild-physics train ising.toml --set training.steps=2000
    """
    run = load_config(config, overrides)
    say(json.dumps(run.to_json(), indent=2))
    click.echo(run_training(run, overwrite))


def run_training(config: Config, overwrite: bool = False) -> Path:
    """Train with a progress display and return the path of the checkpoint."""
    with progress("train", config.training.steps) as show:
        return train(
            config,
            progress=lambda step, loss: show(step, f"loss {loss:.4f}"),
            log=say,
            overwrite=overwrite,
        )
