"""Sources of pictures to be compared: arrays of fields, or files of pictures of their own sizes."""

import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_physics.fields import batches, channels_of
from skild_physics.fields.clipping import Clipping, Rounding, are_made, pixels
from skild_physics.fields.identity import identity, pictures_content
from skild_physics.fields.images import MOST_THREADS, decoded
from skild_physics.fields.lazy import BATCH_VALUES, UnusableError, slices
from skild_physics.fields.picture_files import (
    find_pictures,
    picture_names,
    stored_size,
    upright_size,
)
from skild_physics.fields.sources import said_by_folder
from skild_physics.files import InputError, check_none_given
from skild_physics.progress import logger

CLIP = "clip them, if they are pictures in [-1, 1]"
Numbers = NDArray[np.int64]
Skipped = MutableMapping[str, str] | None
Read = Callable[[Numbers, Skipped, int], Iterator[NDArray[np.uint8]]]


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures that are read one after another, as 8-bit pixels (channel, y, x).

    Attributes:
        channels: 1 or 3.
        sizes: width and height of each as it is stored, shape (picture, 2); 0 where its file does
            not tell.
        names: of the pictures, by which they find their partners; None: they have a place only.
        identity: tells them from others.
        read: gives those of these numbers, in this order, so many at most. Takes the files of
            pictures that cannot be used, and why, which are left out then; with None in its place
            they are an error.
        upright: width and height of the picture of a number, turned as it will be read.
        crop: the central so many pixels per side are taken; None: all.
        shrinks: pictures are shrunk first.
        alone: a single file, which is a partner by that.
        samples: numbers of the pictures in their ensemble, all different; None: not known.
        interpolated: they say that an interpolation made them.
    """

    channels: int
    sizes: NDArray[np.int64]
    names: list[str] | None
    identity: Callable[[], Any]
    read: Read
    upright: Callable[[int], tuple[int, int]]
    crop: int | None = None
    shrinks: bool = False
    alone: bool = False
    samples: Numbers | None = None
    interpolated: bool = False

    def __len__(self) -> int:
        return len(self.sizes)

    def taken(self) -> NDArray[np.int64]:
        """Width and height of what is taken of each picture, shape (picture, 2)."""
        return self.sizes if self.crop is None else np.full_like(self.sizes, self.crop)

    def name(self, number: int) -> str:
        """What a picture is called in messages."""
        return self.names[number] if self.names else f"picture {number + 1}"


def of_files(
    label: str,
    source: str | Path,
    size: int | None = None,
    *,
    resize: bool = False,
    grey: bool = False,
) -> Pictures:
    """Pictures in a folder, or a single one, with all their pixels unless a size is given.

    Args:
        label: of the source.
        source: the folder or file.
        size: the central so many pixels; None: all.
        resize: shrink pictures to that size first.
        grey: luminance instead of colours.

    Raises:
        InputError: no pictures, an unreadable folder, or resize without a size.
    """
    if size is None:
        check_none_given({"resize": resize}, f"of {source} goes with `size`")
    folder, files = find_pictures(source)
    sizes = np.array([stored_size(folder / file) or (0, 0) for file in files], np.int64)
    values = (1 if grey else 3) * int(sizes.prod(axis=1).max())
    length = max(MOST_THREADS, BATCH_VALUES // max(1, values))

    def read(numbers: Numbers, skipped: Skipped, most: int) -> Iterator[NDArray[np.uint8]]:
        for part in slices(0, len(numbers), length):
            wanted = [files[i] for i in numbers[part].tolist()]
            found = decoded(folder, wanted, size, resize=resize, grey=grey)
            for file, picture in zip(wanted, found, strict=True):
                if not isinstance(picture, str):
                    yield picture
                    most -= 1
                    if not most:
                        return
                elif skipped is None:
                    raise _no_pair(label, file, picture)
                else:
                    skipped[file] = picture

    def upright(number: int) -> tuple[int, int]:
        return upright_size(folder / files[number]) or (0, 0)

    return Pictures(
        1 if grey else 3,
        sizes,
        picture_names(files),
        lambda: pictures_content(source),
        read,
        upright,
        size,
        resize,
        alone=not os.path.isdir(source),
        interpolated=_are_interpolated(said_by_folder(folder)),
    )


def of_fields(
    label: str,
    fields: xr.DataArray,
    advice: str | None = CLIP,
    rounding: Rounding = "nearest",
) -> Pictures:
    """Pictures of square fields in [-1, 1].

    Args:
        label: of the source.
        fields: (sample, y, x) or (sample, channel, y, x).
        advice: what to do if more than 1 % of the values lie outside, unless this package made
            them; None: nothing, for their range is known.
        rounding: of the values to bytes.

    Raises:
        InputError: other than one or three channels.
    """
    channels, side = len(channels_of(fields)), fields.shape[-1]
    if channels not in (1, 3):
        raise InputError(f"{label}: {channels} channels; pictures have one or three")
    if are_made(fields.attrs):
        advice = None

    def read(numbers: Numbers, skipped: Skipped, most: int) -> Iterator[NDArray[np.uint8]]:
        follow = len(numbers) and np.all(np.diff(numbers) == 1)
        part = fields[numbers[0] : numbers[-1] + 1] if follow else fields[numbers]
        clipping = Clipping(label, most * part[0].size, advice)
        darkest = np.inf
        for batch in _batches(label, part, skipped):
            clipping.see(batch[:most])
            darkest = min(darkest, float(batch.min()))
            yield from pixels(batch[:most], rounding)
            most -= len(batch[:most])
            if not most:
                break
        clipping.say()
        if 0 <= darkest < np.inf:
            logger.warning(
                f"{label}: no value of these fields in [-1, 1] is negative; if they were mapped to "
                "0 .. 1 meanwhile, pass their `.values` with `data_range=1`"
            )

    names = [str(name) for name in fields["name"].values] if "name" in fields.coords else None
    samples = fields["sample"].values if "sample" in fields.coords else None
    if samples is not None and (samples.dtype.kind not in "iu" or len(set(samples)) < len(samples)):
        samples = None
    sizes = np.full((len(fields), 2), side, np.int64)
    return Pictures(
        channels,
        sizes,
        names,
        lambda: identity(None, fields),
        read,
        lambda number: (side, side),
        samples=samples,
        interpolated=_are_interpolated(fields.attrs),
    )


def _are_interpolated(attributes: Mapping[str, Any]) -> bool:
    return str(attributes.get("protocol")) == "interpolation"


def _batches(label: str, fields: xr.DataArray, skipped: Skipped) -> Iterator[NDArray[np.floating]]:
    try:
        yield from batches(fields, skipped=skipped)
    except UnusableError as error:
        raise _no_pair(label, error.file, error.reason) from None
    except InputError as error:
        raise InputError(f"{label}: {error}") from None


def _no_pair(label: str, file: str, reason: str) -> InputError:
    return InputError(
        f"{label}: {file} cannot be used ({reason}), and pictures are compared in pairs; remove "
        "it and its partners"
    )
