"""skild-physics prepare-images."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from skild_physics.cli.console import progress, say, say_skipped, speaks
from skild_physics.cli.inputs import picture_options
from skild_physics.fields import open_source
from skild_physics.fields.lattice import save_pictures
from skild_physics.fields.writing import pixels
from skild_physics.files import check_output
from skild_physics.parts import discard_parts, make_parts, read_parts
from skild_physics.training.distributed import joined_world


@click.command("prepare-images")
@click.argument("source")
@picture_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="HDF5 file.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def command(source: str, out: Path, overwrite: bool, **options: Any) -> None:
    """Decode pictures once, into an HDF5 file of bytes that every command takes in their place.

    SOURCE is a folder of pictures of any format, looked through with its subfolders, or one of the
    words cifar10, cifar10-test, photographs and photographs-test. Pictures that cannot be used are
    counted and named, and listed in the file. Interrupted, the same command goes on; under torchrun
    processes share the work.

    \b
    Example:
      skild-physics prepare-images imagenet/train --size 256 --resize --out imagenet256.h5
      skild-physics train imagenet256-x4 --set data.source=imagenet256.h5
    """
    check_output(out, overwrite)
    with joined_world() as world, open_source(source, **options) as stream:

        def part(first: int, last: int) -> dict[str, NDArray[Any]]:
            before = set(stream.skipped)
            batches = [pixels(batch) for batch in stream.read(first, last)]
            shape = (0, len(stream.channels), stream.size, stream.size)
            skipped = {k: why for k, why in stream.skipped.items() if k not in before}
            return {
                "pixels": np.concatenate([np.empty(shape, np.uint8), *batches]),
                "skipped": np.array(json.dumps(skipped)),
            }

        given = {name: str(value) for name, value in options.items() if value}
        settings = {"source": source, "items": stream.count, **given}
        with progress("decode", stream.count) as show:
            make_parts(out, settings, stream.count, 256, part, world, show, overwrite)
        if not world.is_main:
            return
        skipped: dict[str, str] = {}
        for found in read_parts(out, "skipped"):
            skipped |= json.loads(str(found))
        count = save_pictures(
            out, read_parts(out, "pixels"), stream.channels, stream.size, settings, skipped
        )
        discard_parts(out)
    say_skipped(skipped, stream.count)
    say(f"{count} fields of {stream.size} x {stream.size}")
    if speaks:
        click.echo(out)
