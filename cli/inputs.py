"""Options and opening of fields that commands share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

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

_PICTURES = (
    click.option(
        "--size",
        type=int,
        help="Images: side of the square taken.  [default: all, if they are equal squares]",
    ),
    click.option("--tile", is_flag=True, help="Images: all patches of that side, not the centre."),
    click.option(
        "--resize",
        is_flag=True,
        help="Images: shrink before the crop: halve with a box filter while twice too large, then "
        "bicubic.",
    ),
    click.option("--grey", is_flag=True, help="Images: luminance instead of red, green, blue."),
    click.option("--strict", is_flag=True, help="Images: stop at the first that cannot be used."),
    click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        help="cifar10: folder of the archive.  [default: the user's cache]",
    ),
)


def picture_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of :func:`skild_physics.fields.open_fields` to a command."""
    for option in reversed(_PICTURES):
        command = option(command)
    return command


def labelled(values: Sequence[str], what: str) -> dict[str, str]:
    """Arguments of the form LABEL=WHAT by their labels.

    Raises:
        click.BadParameter: another form, or a label that is given twice.
    """
    sources: dict[str, str] = {}
    for value in values:
        label, equals, source = value.partition("=")
        if not equals or not label or not source:
            raise click.BadParameter(f"expected LABEL={what}, got {value!r}")
        if label in sources:
            raise click.BadParameter(f"label {label!r} is given twice")
        sources[label] = source
    return sources
