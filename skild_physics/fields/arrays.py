"""Arrays of numbers in files of NumPy, torch and text, never unpickled."""

import gzip
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.lib import format as npy
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from skild_physics.files import InputError, is_locked
from skild_physics.memory import check_memory, free_memory
from skild_physics.progress import logger

SAID = ("model", "beta", "boundary", "basis", "T", "temperature")
"""What files may say of all fields, by itself or as an attribute."""
COORDINATES = ("sample", "chain", "picture", "name")
"""What archives that are written here hold of each field."""
_GZIP = b"\x1f\x8b"
LISTED = 8
TEXT_MEMORY = 64
"""Bytes that a character of a text, or an empty line of it, may take on the way to numbers."""
Shapes = Mapping[str, tuple[int, ...]]


class DamagedError(InputError):
    """A part of a file that cannot be read."""


class _Stored(BackendArray):
    """An array of a file, which is found anew whenever it is read.

    So what was mapped into memory and read leaves it again.
    """

    def __init__(self, path: Path, again: Callable[[], Any]):
        array = again()
        self.shape, self.dtype, self._path, self._again = array.shape, array.dtype, path, again

    def __getitem__(self, key: Any) -> Any:
        support = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._get)

    def _get(self, key: tuple[Any, ...]) -> Any:
        try:
            return _read(self._again(), tuple(map(_contiguous, key)))
        except Exception as error:
            # a failing disk, a wrong checksum, compressed data that is none: as the library likes
            raise DamagedError(f"{self._path}: damaged ({_reason(error)})") from error


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


def lazily(path: Path, again: Callable[[], Any], dims: Sequence[str] | None = None) -> xr.DataArray:
    """An array that is read when it is looked at.

    Args:
        path: its file, for messages.
        again: finds it there.
        dims: names of its axes; None: dim_0, dim_1, ...
    """
    backend = _Stored(path, again)
    names = dims or [f"dim_{i}" for i in range(len(backend.shape))]
    return xr.DataArray(xr.Variable(names, indexing.LazilyIndexedArray(backend)))


def choose(path: Path | str, name: str | None, shapes: Shapes) -> str:
    """The array of a file that is meant: the one named, or the only one of two dimensions or more.

    Raises:
        InputError: another name, or none where it is not clear.
    """
    some = [f"{each} {shape}" for each, shape in islice(shapes.items(), LISTED)]
    more = [f"{len(shapes) - LISTED} more"] if len(shapes) > LISTED else []
    listed = ", ".join(some + more) or "no arrays"
    if name is not None:
        if name not in shapes:
            raise InputError(f"{path}: has no array {name!r}; it holds {listed}")
        return name
    found = [each for each, shape in shapes.items() if len(shape) > 1] or list(shapes)
    if len(found) != 1:
        is_file = isinstance(path, Path)
        example = f"; name one, as {path}:{found[0]}" if found and is_file else ""
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
        raise unreadable(path, ".npy", error) from None
    if not mapped.ndim or not mapped.size:
        return xr.DataArray(np.asarray(mapped))
    order: Literal["C", "F"] = "C" if mapped.flags.c_contiguous else "F"
    again = partial(np.memmap, path, mapped.dtype, "r", mapped.offset, mapped.shape, order)
    return lazily(path, again)


def npz_array(path: Path, name: str | None = None) -> tuple[xr.DataArray, str | None]:
    """An array of an .npz archive, and what the archive says of how it was made.

    Raises:
        InputError: unreadable, pickled, or not clear which.
    """
    try:
        with np.load(path) as archive:
            shapes = _shapes(path, archive.zip)
            joined = singles(path, name, shapes)
            if joined:
                array = xr.DataArray(np.stack([archive[each] for each in joined]))
            else:
                array = xr.DataArray(archive[choose(path, name, shapes)])
            array = beside(array, {key: archive[key] for key in SAID if key in archive.files})
            if "provenance" not in archive.files:
                return array, None
            known = {name: archive[name] for name in COORDINATES if name in archive.files}
            own = {name: (array.dims[0], each) for name, each in known.items()}
            return array.assign_coords(own), str(archive["provenance"])
    except InputError:
        raise
    except Exception as error:
        raise unreadable(path, ".npz", error) from None


def beside(array: xr.DataArray, said: Mapping[str, Any]) -> xr.DataArray:
    """An array with what lies beside it: numbers as attributes, one for each field as coordinates.

    Args:
        array: the fields along its first axis, or what may be an array of them.
        said: by its names.
    """
    for name, each in said.items():
        value = np.asarray(each)
        if value.size == 1:
            array = array.assign_attrs({name: value.item()})
        elif array.ndim and value.shape == array.shape[:1]:
            array = array.assign_coords({name: (array.dims[0], value)})
    return array


def singles(path: Path, name: str | None, shapes: Shapes) -> list[str]:
    """The arrays of a file that holds one field in each, called c0, c1, c2, ...; else none.

    Args:
        path: the file.
        name: of the array that is meant, if it was given.
        shapes: of all arrays.
    """
    fields = {each: shape for each, shape in shapes.items() if len(shape) > 1}
    numbered = {each: re.fullmatch(r"(.*?[^\d.]|)(\d+)", each) for each in fields}
    if name is not None or len(fields) < 2 or not all(numbered.values()):
        return []
    number = {each: int(found[2]) for each, found in numbered.items() if found}
    stems = {found[1] for found in numbered.values() if found}
    (first, *others), (square, *more) = sorted(number.values()), set(fields.values())
    follow = [first, *others] == list(range(first, first + len(fields)))
    if len(stems) > 1 or more or not follow or len(square) != 2 or square[0] != square[1]:
        return []
    found = sorted(number, key=number.__getitem__)
    logger.warning(f"{path.name}: {found[0]} .. {found[-1]} are a field each")
    return found


def _shapes(path: Path, archive: zipfile.ZipFile) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of an archive, of which only the headers are read, but for texts.

    Raises:
        InputError: one is larger than its file, or than the memory.
    """
    shapes = {}
    for member in archive.namelist():
        if not member.endswith(".npy"):
            continue
        with archive.open(member) as file:
            version = npy.read_magic(file)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = header(file)
        size, held = math.prod(shape) * dtype.itemsize, archive.getinfo(member).file_size
        if min(shape, default=0) < 0 or size > held:
            raise InputError(f"{path}: {member} claims {shape} of {dtype}, and holds {held} bytes")
        check_memory(f"{path}: {member}", size)
        if dtype.kind not in "US":
            shapes[member.removesuffix(".npy")] = shape
    return shapes


def torch_array(path: Path, name: str | None = None) -> xr.DataArray:
    """A tensor of a file of torch, or one of those in its dictionaries and lists.

    Tensors of one shape in a list are taken together.

    Raises:
        InputError: unreadable, not of plain tensors, or not clear which.
    """
    found = _torch_content(path)
    if isinstance(found, list | tuple) and name is None and len(found) > 1:
        shapes = {getattr(each, "shape", None) for each in found}
        if len(shapes) == 1 and None not in shapes:
            return xr.DataArray(np.stack([plain(each, path) for each in found]))
    said = {key: found[key] for key in SAID if key in found} if isinstance(found, dict) else {}
    said = {key: plain(value, path) for key, value in said.items()}
    tensors = {key: each for key, each in _tensors(found, "") if key not in said}
    if list(tensors) == [""]:
        return xr.DataArray(plain(tensors[""], path))
    shapes_of = {key: tuple(each.shape) for key, each in tensors.items()}
    joined = singles(path, name, shapes_of)
    if joined:
        stacked = np.stack([plain(tensors[each], path) for each in joined])
        return beside(xr.DataArray(stacked), said)
    return beside(xr.DataArray(plain(tensors[choose(path, name, shapes_of)], path)), said)


def tensor_names(path: Path) -> list[str]:
    """Names of the tensors of a file of torch; that of one alone is empty.

    Raises:
        InputError: unreadable, or not of plain tensors.
    """
    return [name for name, _ in _tensors(_torch_content(path), "")]


def _torch_content(path: Path) -> Any:
    import torch

    try:
        check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: not a readable {path.suffix} file (it holds other objects than tensors, "
            "which are not unpickled)"
        ) from None
    except Exception as error:
        raise unreadable(path, path.suffix, error) from None


def check_archive(path: Path) -> None:
    """Refuse an archive of torch that claims more than it is or is damaged: torch does not look.

    Raises:
        InputError: it does, or is.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        claimed = sum(each.file_size for each in archive.infolist())
        if claimed > path.stat().st_size:
            raise InputError(f"{path}: claims to hold {claimed} bytes, more than it has")
        damaged = archive.testzip()
    if damaged is not None:
        raise InputError(f"{path}: damaged (the checksum of {damaged} differs)")


def _tensors(found: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Tensors in dictionaries and lists, by names such as state/samples."""
    if hasattr(found, "detach"):
        yield name, found
    elif isinstance(found, dict | list | tuple):
        for key, each in found.items() if isinstance(found, dict) else enumerate(found):
            yield from _tensors(each, f"{name}/{key}" if name else str(key))


def plain(array: Any, name: str | Path = "array") -> NDArray[Any]:
    """An array of NumPy of what may be a tensor of torch, on a GPU or with a gradient.

    Args:
        array: the array.
        name: what to call it in messages.

    Raises:
        InputError: it is no array of numbers, or some are masked.
    """
    try:
        if hasattr(array, "detach"):
            # one that repeats itself is stored as small as it likes
            check_memory(f"{name}: {tuple(array.shape)}", array.numel() * array.element_size())
            array = array.detach().cpu()
            # NumPy has no bfloat16
            array = array.float() if str(array.dtype) == "torch.bfloat16" else array
        found = np.asarray(array)
    except InputError:
        raise
    except Exception as error:
        # of sparse tensors, lists of several lengths and the like: what they like
        reason = _reason(error)
        raise InputError(f"{name}: {type(array).__name__} is no array ({reason})") from None
    if np.ma.is_masked(array):
        raise InputError(f"{name}: holds masked values; fill them in, or leave their fields out")
    return found


def text_array(path: Path) -> xr.DataArray:
    """Numbers of a text, perhaps compressed by gzip, separated by blanks or commas.

    Rows of 0 and 1, or of + and -, may stand without anything between them. Squares of rows between
    empty lines are fields; lines of other lengths are numbers in a row.

    Raises:
        InputError: other things than numbers.
    """
    try:
        with open(path, "rb") as raw:
            compressed = raw.read(2) == _GZIP
        with gzip.open(path, "rt") if compressed else open(path, encoding="utf-8-sig") as file:
            lines = [line.split("#")[0].strip() for line in _bounded(file, path)]
        rows = [line for line in lines if line]
        if not rows:
            raise InputError(f"{path}: not a readable text file (it is empty)")
        if all(re.fullmatch(r"[01]{2,}|[+-]{2,}", row) for row in rows):
            signs = str.maketrans("+-", "10")
            table: NDArray[Any] = np.array(
                [list(map(int, row.translate(signs))) for row in rows], np.int8
            )
        elif len({row.count(",") or len(row.split()) for row in rows}) == 1:
            table = np.loadtxt(rows, delimiter="," if "," in rows[0] else None, ndmin=2)
        else:
            return xr.DataArray(np.array(" ".join(rows).replace(",", " ").split(), np.float64))
    except InputError:
        raise
    except Exception as error:
        raise unreadable(path, "text", error) from None
    n, M = table.shape
    if M == 1:
        return xr.DataArray(table.ravel())
    starts = [i for i, line in enumerate(lines) if line and (not i or not lines[i - 1])]
    if n > M and n == len(starts) * M and all(all(lines[i : i + M]) for i in starts):
        return xr.DataArray(table.reshape(-1, M, M))
    return xr.DataArray(table)


def _bounded(file: Iterable[str], path: Path) -> Iterator[str]:
    """The lines of a text that fits into the memory, where its numbers take several times more."""
    most, length = free_memory() // TEXT_MEMORY, 0
    for line in file:
        length += len(line) + TEXT_MEMORY
        if length > most:
            raise InputError(f"{path}: more than {most} characters, too many for the memory")
        yield line


def unreadable(path: Path, kind: str, error: Exception) -> InputError:
    """What to say of a file that its library cannot open."""
    if is_locked(error):
        return InputError(f"{path}: is open elsewhere, for writing; wait until it is closed")
    return InputError(f"{path}: not a readable {kind} file ({_reason(error)})")


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
