"""Labelled arrays of square fields that are read where and when they are looked at.

What the package calls fields is an xarray.DataArray (sample, y, x), or (sample, channel, y, x), of
int8 spins +-1 or of floats, for pictures in [-1, 1]; with the coordinate `sample`, `channel` if
there are several, `picture` if patches of one picture belong together, `name` if they come from
pictures in files, and attributes:

    source      name shown to people
    basis       natural basis of the modes, "periodic", "cosine", or "unknown", which is taken as
                cosine where modes are wanted
    channels    names of the channels, separated by commas

and whatever else is known about them.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import DTypeLike, NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from skild_physics.fields.arrays import DamagedError
from skild_physics.fields.checks import check_values
from skild_physics.files import InputError
from skild_physics.kspace import Basis
from skild_physics.progress import logger

BATCH_VALUES = 2**20
Read = Callable[[NDArray[np.int64]], NDArray[Any]]
"""Numbers of fields (n,) -> the fields, shape (n, channel, y, x)."""


class UnusableError(InputError):
    """A picture that cannot be used: its file, and why."""

    def __init__(self, folder: object, file: str, reason: str):
        super().__init__(f"{folder}/{file}: {reason}")
        self.file, self.reason = file, reason


class _Lazy(BackendArray):
    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike, read: Read):
        self.shape, self.dtype, self._read = shape, np.dtype(dtype), read

    def __getitem__(self, key: Any) -> Any:
        support = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._get)

    def _get(self, key: tuple[Any, ...]) -> Any:
        wanted = np.arange(self.shape[0])[key[0]]
        values = self._read(np.atleast_1d(wanted)).reshape(-1, *self.shape[1:])
        for axis in range(len(key) - 1, 0, -1):
            values = values[(*[slice(None)] * axis, key[axis])]
        return values if np.ndim(wanted) else values[0]


def labelled(
    read: Read,
    count: int,
    size: int,
    channels: tuple[str, ...],
    basis: Basis | Literal["unknown"],
    source: str,
    *,
    dtype: DTypeLike = np.float32,
    picture: NDArray[np.int64] | None = None,
) -> xr.DataArray:
    """Fields that ``read`` gives, of one channel without that dimension."""
    several = len(channels) > 1
    dims = ("sample", "channel", "y", "x") if several else ("sample", "y", "x")
    shape = (count, *([len(channels)] if several else []), size, size)
    array = indexing.LazilyIndexedArray(_Lazy(shape, dtype, read))
    coords: dict[str, Any] = {"sample": np.arange(count)}
    if several:
        coords["channel"] = list(channels)
    if picture is not None:
        coords["picture"] = ("sample", picture)
    attrs = {"source": source, "basis": basis, "channels": ",".join(channels)}
    return xr.DataArray(xr.Variable(dims, array, attrs), coords, name="field")


def of_bytes(pixels: xr.DataArray) -> xr.DataArray:
    """Fields in [-1, 1] of bytes 0 .. 255, with all that is known of them."""

    def read(numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        return scaled(pixels[numbers].values)

    return read_by(read, pixels, np.float32).rename("field")


def read_by(read: Read, fields: xr.DataArray, dtype: DTypeLike) -> xr.DataArray:
    """The same fields, but their values come from another function, with this type."""
    array = indexing.LazilyIndexedArray(_Lazy(fields.shape, dtype, read))
    variable = xr.Variable(fields.dims, array, fields.attrs)
    return xr.DataArray(variable, fields.coords, name=fields.name)


def channels_of(fields: xr.DataArray) -> tuple[str, ...]:
    """Names of the channels."""
    names = tuple(str(fields.attrs.get("channels", "field")).split(","))
    if "channel" not in fields.dims:
        # one of several keeps the attributes of all
        one = str(fields.coords["channel"].item()) if "channel" in fields.coords else "field"
        return names if len(names) == 1 else (one,)
    if "channel" in fields.coords:
        return tuple(str(name) for name in fields.coords["channel"].values)
    count = fields.sizes["channel"]
    return names if len(names) == count else tuple(f"channel {i + 1}" for i in range(count))


def named_channels(fields: xr.DataArray) -> xr.DataArray:
    """Fields whose channels are called as their attributes say."""
    names = str(fields.attrs.get("channels", "")).split(",")
    if fields.sizes.get("channel") != len(names):
        return fields
    return fields.assign_coords(channel=names)


def basis_of(fields: xr.DataArray) -> Basis:
    """The natural basis of the modes: periodic if the fields are said to be, or cosine."""
    return "periodic" if fields.attrs.get("basis") == "periodic" else "cosine"


def pictures_of(fields: xr.DataArray) -> NDArray[np.int64]:
    """Which picture each field is a patch of, from 0; fields that are no patches are their own."""
    if "picture" not in fields.coords:
        return np.arange(len(fields))
    numbers: NDArray[np.int64] = np.unique(fields["picture"].values, return_inverse=True)[1]
    return numbers


def slices(start: int, stop: int, step: int) -> Iterator[slice]:
    """Consecutive slices of at most ``step`` items that cover start .. stop - 1."""
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))


def batches(
    fields: xr.DataArray,
    start: int = 0,
    stop: int | None = None,
    skipped: MutableMapping[str, str] | None = None,
    length: int | None = None,
) -> Iterator[NDArray[np.floating]]:
    """Fields one after another, as float batches (n, channel, y, x) in bounded memory.

    Args:
        fields: (sample, y, x) or (sample, channel, y, x).
        start: number of the first.
        stop: number after the last; None: all.
        skipped: takes the names of pictures that cannot be used, and why, which are left out then;
            None: the first is an error.
        length: fields in a batch; None: of about 2**20 values.

    Raises:
        InputError: fields cannot be read, or hold nan, infinity or codes of missing values.
    """
    for _, batch in numbered(fields, start, stop, skipped, length):
        yield batch


def numbered(
    fields: xr.DataArray,
    start: int = 0,
    stop: int | None = None,
    skipped: MutableMapping[str, str] | None = None,
    length: int | None = None,
) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """What :func:`batches` gives, with the number of each batch's first field."""
    stop = len(fields) if stop is None else min(stop, len(fields))
    shape = (len(channels_of(fields)), *fields.shape[-2:])
    for part in slices(start, stop, length or max(1, BATCH_VALUES // int(np.prod(shape)))):
        try:
            yield part.start, _floats(fields[part], shape)
        except UnusableError:
            if skipped is None:
                raise
            for one in slices(part.start, part.stop, 1):
                try:
                    yield one.start, _floats(fields[one], shape)
                except UnusableError as error:
                    skipped[error.file] = error.reason


def _floats(fields: xr.DataArray, shape: tuple[int, ...]) -> NDArray[np.floating]:
    values = _read(fields).reshape(-1, *shape)
    check_values(values, fields)
    floats: NDArray[np.floating] = np.asarray(
        values, np.result_type(values.dtype, np.float32), order="C"
    )
    return floats


def _read(fields: xr.DataArray) -> NDArray[Any]:
    try:
        values: NDArray[Any] = fields.values
    except (OSError, RuntimeError, DamagedError) as error:
        # how HDF5 reports damage and a failing disk
        first, name = fields["sample"].values[0], fields.attrs.get("source", "fields")
        raise InputError(f"{name}: damaged; fields from {first} on cannot be read") from error
    return values


def digest(values: NDArray[Any]) -> str:
    """SHA-256 of an array's values, numbers or texts, in hexadecimal."""
    if values.dtype.kind in "OT":
        values = values.astype(np.str_)
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def content(fields: xr.DataArray) -> str:
    """SHA-256 of fields, in parts, for they may be read where they are looked at."""
    parts = [digest(_read(fields[i : i + 256])) for i in range(0, len(fields), 256)]
    return parts[0] if len(parts) == 1 else digest(np.array(parts))


def scaled(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Pixels 0 .. 255 as float32 in [-1, 1]."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def log_skipped(skipped: Mapping[str, str], fields: xr.DataArray) -> None:
    """Name the pictures that were left out, and why."""
    for file, reason in skipped.items():
        logger.info(f"skipped {file}: {reason}")
    if skipped:
        logger.info(f"{len(skipped)} of {pictures_of(fields)[-1] + 1} files skipped")
