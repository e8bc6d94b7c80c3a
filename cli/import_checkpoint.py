"""skild-physics import-checkpoint."""

from pathlib import Path
from typing import Literal

import click

from skild_physics.cli.console import say
from skild_physics.files import InputError, check_output
from skild_physics.networks import StepNetwork
from skild_physics.training.build import build_network, build_process, spectrum_of
from skild_physics.training.checkpoint import Model, save_model
from skild_physics.training.config import load_config
from skild_physics.training.published import fit_weights, read_published

CHANNELS = {1: ("field",), 3: ("red", "green", "blue")}


@click.command("import-checkpoint")
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
    help="The moving average, or the last weights.",
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

    Only tensors are read: a file that holds other objects is refused, and nothing in it is run.

    \b
    Example:
      skild-physics import-checkpoint ising.pt --config ising128-x4 --out runs/published-ising
      skild-physics generate runs/published-cifar10 --samples 16 --out made.h5 --plot made.png
    """
    config = load_config(name, overrides)
    if config.network.kind != "ncsnpp":
        raise InputError(f"{name}: published models have network.kind = 'ncsnpp'")
    path = check_output(out / "model.safetensors", overwrite)
    tensors, step = read_published(checkpoint, weights)
    # the convolution that first meets the fields
    stem = tensors.get("all_modules.2.weight")
    channels = CHANNELS.get(stem.shape[1] if stem is not None and stem.ndim == 4 else 0)
    if channels is None:
        raise InputError(f"{checkpoint}: its first convolution takes neither 1 nor 3 channels")
    process = build_process(config, *spectrum_of(config))
    network = build_network(config, process, len(channels))
    assert isinstance(network, StepNetwork)
    fit_weights(network.network, tensors, checkpoint)
    save_model(path, Model(network, process, config, channels, step))
    say(
        f"{sum(p.numel() for p in network.parameters()):,} parameters, {len(channels)} channels of "
        f"{process.N} x {process.N}, {weights} weights after {step:,} steps"
    )
    click.echo(path)
