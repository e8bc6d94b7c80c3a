"""skild-physics import-checkpoint."""

from pathlib import Path
from typing import Literal

import click

from skild_physics.cli.console import say
from skild_physics.cli.help import Command
from skild_physics.models.published import import_checkpoint


@click.command("import-checkpoint", cls=Command)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--config",
    "name",
    type=click.Path(path_type=Path),
    required=True,
    help="What it was trained as: the name of a published configuration, or a TOML file.",
)
@click.option(
    "--weights",
    type=click.Choice(["ema", "model"]),
    default="ema",
    show_default=True,
    help="The moving average, or the last weights; for files that hold both.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a value."
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the imported model."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing model.")
def command(
    checkpoint: Path,
    name: Path,
    weights: Literal["ema", "model"],
    overrides: tuple[str, ...],
    out: Path,
    overwrite: bool,
) -> None:
    """Convert CHECKPOINT, a .pt of the published code, to a model of this package.

    Only tensors are read: other objects, such as the configuration that the published training
    saves, are passed over, and nothing in the file is run.

    \b
    Example:
      skild-physics import-checkpoint ising.pt --config ising128-x4 \\
          --out runs/ising
      skild-physics import-checkpoint ema_0.9999_1000000.pt \\
          --config celeba64-ssd --out runs/celeba
      skild-physics generate runs/celeba --samples 9 --out made.h5 --plot made.png
    """
    model = import_checkpoint(
        checkpoint, config=name, weights=weights, overrides=overrides, out=out, overwrite=overwrite
    )
    say(f"{model}, {weights} weights")
    click.echo(model.origin["checkpoint"])
