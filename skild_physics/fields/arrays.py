"""Arrays of numbers in files of NumPy, torch and text, never unpickled."""

import gzip
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.lib import format as npy
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from skild_physics.files import InputError

COORDINATES = ("sample", "chain", "picture", "name")
"""What archives that are written here hold of each field."""
_GZIP = b"\x1f\x8b"
Shapes = Mapping[str, tuple[int, ...]]


class _Stored(BackendArray):
    """An array of a file, which is found anew whenever it is read.

    So what was mapped into memory and read leaves it again.
    """

    def __init__(self, again: Callable[[], Any]):
        array = again()
        self.shape, self.dtype, self._again = array.shape, array.dtype, again

    def __getitem__(self, key: Any) -> Any:
        support = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._get)

    def _get(self, key: tuple[Any, ...]) -> Any:
        return _read(self._again(), tuple(map(_contiguous, key)))


def _contiguous(key: Any) -> Any:
    """Numbers that follow one another as a slice."""
    if isinstance(key, np.ndarray) and np.all(np.diff(key) == 1):
        return slice(int(key[0]), int(key[-1]) + 1) if len(key) else slice(0, 0)
    return key


def _read(stored: Any, key: tuple[Any, ...]) -> NDArray[Any]:
    """Part of an array, of numbers, slices, and arrays of numbers each for its own axis."""
    for axis, numbers in enumerate(key):
        if isinstance(numbers, np.ndarray):
            # fifty times faster than HDF5 gathers scattered ones; in order, as chunks hold several
            order = np.argsort(numbers, kind="stable")
            found = [
                _read(stored, (*key[:axis], slice(i, i + 1), *key[axis + 1 :]))
                for i in numbers[order].tolist()
            ]
            place = sum(isinstance(each, slice) for each in key[:axis])
            return np.concatenate(found, place).take(np.argsort(order), place)
    return np.array(stored[key])


def lazily(again: Callable[[], Any], dims: Sequence[str] | None = None) -> xr.DataArray:
    """An array that is read when it is looked at.

    Args:
        again: finds it in its file.
        dims: names of its axes; None: dim_0, dim_1, ...
    """
    backend = _Stored(again)
    names = dims or [f"dim_{i}" for i in range(len(backend.shape))]
    return xr.DataArray(xr.Variable(names, indexing.LazilyIndexedArray(backend)))


def choose(path: Path, name: str | None, shapes: Shapes) -> str:
    """The array of a file that is meant: the one named, or the only one of two dimensions or more.

    Raises:
        InputError: another name, or none where it is not clear.
    """
    listed = ", ".join(f"{each} {shape}" for each, shape in shapes.items()) or "no arrays"
    if name is not None:
        if name not in shapes:
            raise InputError(f"{path}: has no array {name!r}; it holds {listed}")
        return name
    found = [each for each, shape in shapes.items() if len(shape) > 1] or list(shapes)
    if len(found) != 1:
        example = f"; name one, as {path}:{found[0]}" if found else ""
        raise InputError(f"{path}: which array? It holds {listed}{example}")
    return found[0]


def npy_array(path: Path) -> xr.DataArray:
    """The array of a .npy file, where it lies.

    Raises:
        InputError: unreadable, or pickled.
    """
    try:
        mapped = npy.open_memmap(path, mode="r")
    except Exception as error:
        # headers are evaluated as Python literals: broken ones raise what they like
        raise _unreadable(path, ".npy", error) from None
    if not mapped.ndim or not mapped.size:
        return xr.DataArray(np.asarray(mapped))
    order: Literal["C", "F"] = "C" if mapped.flags.c_contiguous else "F"
    again = partial(np.memmap, path, mapped.dtype, "r", mapped.offset, mapped.shape, order)
    return lazily(again)


def npz_array(path: Path, name: str | None = None) -> tuple[xr.DataArray, str | None]:
    """An array of an .npz archive, and what the archive says of how it was made.

    Raises:
        InputError: unreadable, pickled, or not clear which.
    """
    try:
        with np.load(path) as archive:
            shapes = _shapes(archive.zip)
            chosen = choose(path, name, shapes)
            array = xr.DataArray(archive[chosen])
            if "provenance" not in archive.files:
                return array, None
            known = {name: archive[name] for name in COORDINATES if name in archive.files}
            own = {name: (array.dims[0], each) for name, each in known.items()}
            return array.assign_coords(own), str(archive["provenance"])
    except InputError:
        raise
    except Exception as error:
        raise _unreadable(path, ".npz", error) from None


def _shapes(archive: zipfile.ZipFile) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of an archive, of which only the headers are read, but for texts."""
    shapes = {}
    for member in archive.namelist():
        if not member.endswith(".npy"):
            continue
        with archive.open(member) as file:
            version = npy.read_magic(file)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = header(file)
        if dtype.kind not in "US":
            shapes[member.removesuffix(".npy")] = shape
    return shapes


def torch_array(path: Path, name: str | None = None) -> xr.DataArray:
    """A tensor of a file of torch, or one of a dictionary or list of them.

    Raises:
        InputError: unreadable, not of plain tensors, or not clear which.
    """
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _unreadable(path, path.suffix, error) from None
    if isinstance(found, torch.Tensor):
        return xr.DataArray(plain(found))
    pairs = found.items() if isinstance(found, dict) else enumerate(found)
    tensors = {str(key): each for key, each in pairs if isinstance(each, torch.Tensor)}
    chosen = choose(path, name, {key: tuple(each.shape) for key, each in tensors.items()})
    return xr.DataArray(plain(tensors[chosen]))


def plain(array: Any) -> NDArray[Any]:
    """An array of NumPy of what may be a tensor of torch, on a GPU or with a gradient."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        # NumPy has no bfloat16
        array = array.float() if str(array.dtype) == "torch.bfloat16" else array
    return np.asarray(array)


def text_array(path: Path) -> xr.DataArray:
    """Numbers of a text, perhaps compressed by gzip: rows, separated by blanks or commas.

    Rows of 0 and 1, or of + and -, may stand without anything between them.

    Raises:
        InputError: not a table of numbers.
    """
    try:
        with open(path, "rb") as raw:
            compressed = raw.read(2) == _GZIP
        with gzip.open(path, "rt") if compressed else open(path) as file:
            lines = [line.split("#")[0].strip() for line in file]
        lines = [line for line in lines if line]
        if lines and all(re.fullmatch(r"[01]{2,}|[+-]{2,}", line) for line in lines):
            signs = str.maketrans("+-", "10")
            rows = [list(map(int, line.translate(signs))) for line in lines]
            return xr.DataArray(np.array(rows, np.int8))
        delimiter = "," if lines and "," in lines[0] else None
        table = np.loadtxt(lines, delimiter=delimiter, ndmin=2)
    except Exception as error:
        raise _unreadable(path, "text", error) from None
    if not table.size:
        raise InputError(f"{path}: not a readable text file (it is empty)")
    return xr.DataArray(table)


def _unreadable(path: Path, kind: str, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"{path}: not a readable {kind} file ({reason})")
