"""skild-physics prepare-images."""

from pathlib import Path
from typing import Any

import click

from skild_physics.cli.console import progress, speaks
from skild_physics.cli.help import Command
from skild_physics.cli.inputs import choose_option, picture_options
from skild_physics.fields.prepare import prepare_images


@click.command("prepare-images", cls=Command)
@click.argument("source")
@click.option("--samples", type=click.IntRange(min=1), help="So many pictures, the first ones.")
@choose_option
@picture_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="HDF5 file.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def command(source: str, out: Path, overwrite: bool, **options: Any) -> None:
    """Decode pictures once, into an HDF5 file of bytes that every command takes in their place.

    SOURCE is a folder of pictures of any format, looked through with its subfolders, links to
    folders too; one picture; or one of the words cifar10, cifar10-test, photographs and
    photographs-test. Numbers are in their order: 2.png before 10.png. Pictures that cannot be used
    are counted and named, and listed in the file. Interrupted, the same command goes on; under
    torchrun processes share the work.

    \b
    Example:
      skild-physics prepare-images imagenet/train --size 256 --resize \\
          --out imagenet256.h5
      skild-physics prepare-images imagenet/val --size 256 --resize \\
          --samples 3000 --choose-seed 0 --out val256.h5
      skild-physics train imagenet256-x4 --set data.source=imagenet256.h5
    """
    prepare_images(source, out=out, overwrite=overwrite, progress=progress, **options)
    if speaks:
        click.echo(out)
