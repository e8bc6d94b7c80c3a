"""Stacks of fields and variance maps in NumPy's .npy and .npz files, never unpickled."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from skild_physics.fields.lazy import labelled, scaled
from skild_physics.files import InputError

MAX_CHANNELS = 4


def _open(path: str | Path) -> NDArray[Any]:
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        if path.suffix == ".npz":
            with np.load(path) as archive:
                array: NDArray[Any] = archive[archive.files[0]]
        else:
            array = open_memmap(path, mode="r")
    except Exception as error:
        # headers are evaluated as Python literals: broken ones raise what they like
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable {path.suffix} file ({reason})") from None
    if array.dtype.kind not in "fiu":
        raise InputError(f"{path}: holds {array.dtype}; save numbers, integer or floating")
    return array


def _is_map(shape: tuple[int, ...]) -> bool:
    leading = shape[:-2]
    square = len(shape) >= 2 and shape[-1] == shape[-2] > 0
    return square and (leading == () or (len(leading) == 1 and 1 <= leading[0] <= MAX_CHANNELS))


def is_variance_map(path: str | Path) -> bool:
    """Whether a .npy file has the shape of a variance map: (N, N), or (channel, N, N) up to 4.

    Raises:
        InputError: the file is missing, truncated, or holds no numbers.
    """
    return _is_map(_open(path).shape)


def load_variance_map(path: str | Path) -> NDArray[np.float64]:
    """A variance map (N, N) or (channel, N, N) as (channel, N, N).

    Raises:
        InputError: the file cannot be read, its shape is another, or a variance is negative, nan
            or infinite.
    """
    array = _open(path)
    if array.ndim not in (2, 3) or array.shape[-1] != array.shape[-2] or array.size == 0:
        raise InputError(
            f"{path}: shape {array.shape}; a variance map is (N, N) or (channel, N, N)"
        )
    variance = np.array(array, np.float64).reshape(-1, *array.shape[-2:])
    if not np.isfinite(variance).all():
        raise InputError(f"{path}: a variance map has no nan or infinity")
    if (variance < 0).any():
        raise InputError(f"{path}: a variance map has no negative values")
    return variance


def array_file(path: str | Path) -> xr.DataArray:
    """Fields of a .npy file, lazily, or of the first array of an .npz file, in memory.

    Raises:
        InputError: the file cannot be read, or as :func:`array_fields`.
    """
    array = _open(path)
    if not isinstance(array, np.memmap):
        return array_fields(array, str(path))
    order: Literal["C", "F"] = "C" if array.flags.c_contiguous else "F"
    again = partial(np.memmap, path, array.dtype, "r", array.offset, array.shape, order)
    return array_fields(array, str(path), again)


def check_numbers(dtype: np.dtype[Any], source: str) -> None:
    """Refuse what is no field.

    Raises:
        InputError: not of bytes, signed integers or floats.
    """
    if dtype.kind not in "fi" and dtype != np.uint8:
        raise InputError(f"{source}: holds {dtype}; fields are uint8, signed integers or floats")


def array_fields(
    array: NDArray[Any], source: str = "array", again: Callable[[], NDArray[Any]] | None = None
) -> xr.DataArray:
    """Fields of an array (sample, N, N), (sample, channel, N, N) or (sample, N, N, channel).

    The first of these shapes that fits is taken, with up to 4 channels. Bytes 0 .. 255 are mapped
    to [-1, 1]; floats and signed integers are taken as they are.

    Args:
        array: the fields.
        source: their name, or that of their file.
        again: maps them anew whenever they are read, so that what was read before leaves the
            memory; None: they stay where they are.

    Raises:
        InputError: another shape or type.
    """
    check_numbers(array.dtype, source)
    fields = _arranged(array)
    if fields.size == 0:
        raise InputError(
            f"{source}: shape {array.shape}; a stack of fields is (sample, N, N), "
            "(sample, channel, N, N) or (sample, N, N, channel) with 1 to 4 channels"
        )
    is_bytes = fields.dtype == np.uint8

    def read(numbers: NDArray[np.int64]) -> NDArray[Any]:
        found = (_arranged(again()) if again else fields)[numbers]
        return scaled(found) if is_bytes else np.asarray(found)

    count, n_channels, size, _ = fields.shape
    names = tuple(f"channel {i + 1}" for i in range(n_channels)) if n_channels > 1 else ("field",)
    dtype = np.float32 if is_bytes else fields.dtype
    return labelled(read, count, size, names, "unknown", Path(source).name, dtype=dtype)


def _arranged(array: NDArray[Any]) -> NDArray[Any]:
    """The same values as (sample, channel, N, N), or none if they are no such stack."""
    match array.shape:
        case (_, N, M) if N == M:
            return array[:, None]
        case (_, channels, N, M) if N == M and 1 <= channels <= MAX_CHANNELS:
            return array
        case (_, N, M, channels) if N == M and 1 <= channels <= MAX_CHANNELS:
            return np.moveaxis(array, -1, 1)
    return array[:0]
