"""Options and opening of fields that commands share."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from skild_physics.fields import FieldStream, open_pictures

fields_output = click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="HDF5 file; .npz; or, without a suffix, a folder of PNG pictures. The last two hold 8 "
    "bits.",
)
size_option = click.option(
    "--size",
    type=click.IntRange(min=1),
    help="Pictures: the central so many pixels of each.  [default: all, if they are equal squares]",
)


def read_fields(
    source: Path, samples: int | None, size: int | None = None
) -> tuple[NDArray[np.float32], FieldStream]:
    """The first fields of a source, shape (sample, channel, N, N), and what they came from.

    Raises:
        ValueError: samples < 1, or the source cannot be read whole.
    """
    if samples is not None and samples < 1:
        raise ValueError(f"--samples must be at least 1, got {samples}")

    def one_by_one(stream: FieldStream) -> Iterator[NDArray[np.floating]]:
        for batch in stream.read(0, stream.count):
            yield from batch

    with open_pictures(source, size) as stream:
        fields = np.stack(list(islice(one_by_one(stream), samples)))
    if stream.skipped:
        name, reason = next(iter(stream.skipped.items()))
        raise ValueError(
            f"{source}: {len(stream.skipped)} of the pictures cannot be used, the first {name}: "
            f"{reason}"
        )
    return fields, stream
