"""Options and opening of fields that commands share."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from skild_physics.files import split_array
from skild_physics.kspace import BASES

fields_output = click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="HDF5 file; .npz; or, without a suffix, a folder of PNG pictures. The last two hold 8 "
    "bits.",
)
start_option = click.option(
    "--start",
    type=click.Path(path_type=Path),
    help="What the reversed process starts from, in pixels, as --start-out writes it, so that two "
    "codes or samplers go on from the same noise; or a .pt file with modes x_init_k.  [default: "
    "drawn]",
)
start_out_option = click.option(
    "--start-out",
    type=click.Path(path_type=Path),
    help=".npy file of what the reversed process starts from, in pixels, for other codes.",
)
choose_option = click.option(
    "--choose-seed",
    type=click.IntRange(min=0),
    help="Choose so many --samples at random; of as many inputs every command chooses the same "
    "with the same seed.  [default: the first ones]",
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


def number_or(word: str, number: type, called: str) -> Callable[..., Any]:
    """What reads an option that is a number or one word."""

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
        try:
            return value if value in (word, None) else number(value)
        except ValueError:
            raise click.BadParameter(f"{value!r} is neither {called} nor {word!r}") from None

    return read


seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="Root of all random numbers."
)
workers_option = click.option(
    "--workers",
    default="auto",
    show_default=True,
    callback=number_or("auto", int, "an integer"),
    help="Threads; the fields do not depend on it.",
)


def picture_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of :func:`skild_physics.fields.open_fields` to a command."""
    for option in reversed(_PICTURES):
        command = option(command)
    return command


def labelled(values: Sequence[str], what: str) -> dict[str, str]:
    """Arguments of the form LABEL=WHAT, or WHAT alone, by their labels.

    Without one, the label is the name of a folder, of a file without its suffix, or a word; where
    several datasets of one file are given, FILE:DATASET, that with the last part of the dataset.

    Raises:
        click.BadParameter: nothing on one side of =, or a label that there is twice.
    """
    pairs = [_label_and_source(value) for value in values]
    bare = [_name(source) for label, source in pairs if label is None]
    sources: dict[str, str] = {}
    for value, (label, source) in zip(values, pairs, strict=True):
        own = label
        if own is None:
            own = _name(source)
            array = split_array(source)[1]
            if bare.count(own) > 1 and array:
                own += ":" + array.rpartition("/")[2]
        if not own or not source:
            raise click.BadParameter(f"expected {what} or LABEL={what}, got {value!r}")
        if own in sources and label is None:
            raise click.BadParameter(
                f"two sources go by {own!r}: give them labels, as in LABEL={source}"
            )
        if own in sources:
            raise click.BadParameter(f"label {own!r} is given twice")
        sources[own] = source
    return sources


def _label_and_source(value: str) -> tuple[str | None, str]:
    """The label, None if there is none, and the source: = may also be in the name of a folder."""
    label, equals, source = value.partition("=")
    exists = os.path.exists(value)
    is_path = ((exists or "/" in label) and not os.path.exists(source)) or ("/" in label and exists)
    return (None, value) if not equals or is_path else (label, source)


def _name(source: str) -> str:
    path = Path(split_array(source)[0])
    return path.resolve().name if path.is_dir() else path.stem


def _dims(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value.split(","))


def _data_range(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> float | tuple[float, ...] | None:
    if value is None:
        return None
    try:
        numbers = tuple(float(each) for each in value.split(","))
    except ValueError:
        raise click.BadParameter(f"expected WHITE or BLACK,WHITE, got {value!r}") from None
    return numbers[0] if len(numbers) == 1 else numbers


_ARRAYS = {
    "L": click.option("--L", "L", type=click.IntRange(min=1), help="Side of flattened fields."),
    "dims": click.option(
        "--dims",
        callback=_dims,
        help="What each axis of an array is, of sample, channel, y and x, as y,x,sample.",
    ),
    "data_range": click.option(
        "--data-range",
        callback=_data_range,
        metavar="[BLACK,]WHITE",
        help="Pixels that are no bytes: their range, as 1 or 255; -1,1: values as they are.",
    ),
    "beta": click.option("--beta", type=float, help="Inverse temperature, of fields without it."),
    "boundary": click.option(
        "--boundary",
        type=click.Choice(["periodic", "open"]),
        help="Of a torus, or of patches, where fields do not say it.",
    ),
    "basis": click.option(
        "--basis",
        type=click.Choice(BASES),
        help="Natural basis of the modes.  [default: what fields say, or their edges fit]",
    ),
}


def array_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options of these names that say of foreign arrays what these cannot."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names or tuple(_ARRAYS)):
            command = _ARRAYS[name](command)
        return command

    return add
