"""Stacks of fields and variance maps in NumPy's .npy and .npz files, never unpickled."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from skild_physics.fields.stream import FieldStream, batch_length, scaled, slices
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


def array_stack(path: str | Path) -> FieldStream:
    """Fields of a .npy file, lazily, or of the first array of an .npz file, in memory.

    The shape is (sample, N, N), (sample, channel, N, N) or (sample, N, N, channel) with up to 4
    channels; the first that fits is taken. Bytes 0 .. 255 are mapped to [-1, 1]; floats and
    signed integers are taken as they are.

    Raises:
        InputError: the file cannot be read, or its shape or type is another.
    """
    path = Path(path)
    array = _open(path)
    if _is_map(array.shape):
        raise InputError(
            f"{path}: shape {array.shape} is a variance map, not a stack of fields "
            "(few fields: save them as (sample, 1, N, N))"
        )
    if array.dtype.kind == "u" and array.dtype != np.uint8:
        raise InputError(f"{path}: holds {array.dtype}; save uint8, signed integers or floats")
    match array.shape:
        case (_, N, M) if N == M:
            fields = array[:, None]
        case (_, channels, N, M) if N == M and 1 <= channels <= MAX_CHANNELS:
            fields = array
        case (_, N, M, channels) if N == M and 1 <= channels <= MAX_CHANNELS:
            fields = np.moveaxis(array, -1, 1)
        case _:
            fields = array[:0]
    if fields.size == 0:
        raise InputError(
            f"{path}: shape {array.shape}; a stack of fields is (sample, N, N), "
            "(sample, channel, N, N) or (sample, N, N, channel) with 1 to 4 channels"
        )
    count, n_channels, size, _ = fields.shape
    dtype = np.result_type(fields.dtype, np.float32)

    def read(start: int, stop: int) -> Iterator[NDArray[np.floating]]:
        for part in slices(start, min(stop, count), batch_length(n_channels, size)):
            batch = fields[part]
            yield scaled(batch) if batch.dtype == np.uint8 else np.array(batch, dtype, order="C")

    names = tuple(f"channel {i + 1}" for i in range(n_channels)) if n_channels > 1 else ("field",)
    return FieldStream(path.name, size, names, count, "cosine", read)
