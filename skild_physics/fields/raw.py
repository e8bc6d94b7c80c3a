"""Arrays of anybody's files, told by their first bytes; variance maps."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_physics.fields.arrays import npy_array, npz_array, plain, text_array, torch_array
from skild_physics.fields.containers import hdf5_array, netcdf_array, zarr_array
from skild_physics.files import InputError, split_array

_ZARR = (".zgroup", ".zarray", "zarr.json")


@dataclass(frozen=True, eq=False)
class Raw:
    """An array of a file.

    Attributes:
        array: read where it lies, if the format allows.
        label: name of the file and, if it was given, of the array.
        text: of a text, whose lines may be as long as they like.
        made: what an archive says of how it was made, in JSON.
    """

    array: xr.DataArray
    label: str
    text: bool = False
    made: str | None = None


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr store."""
    return any((path / each).exists() for each in _ZARR)


def split_name(source: str | Path) -> tuple[Path, str | None]:
    """A path, and the name of one of the arrays in that file after a colon.

    Raises:
        InputError: there is no such file.
    """
    file, name = split_array(source)
    path = Path(file)
    if not os.path.exists(path):
        raise InputError(f"{source}: no such file or folder")
    if not (path.is_file() or path.is_dir()):
        # a pipe or a device may never end
        raise InputError(f"{source}: is neither a file nor a folder")
    return path, name or None


def raw_array(path: Path, name: str | None = None) -> Raw:
    """An array of a file or of a Zarr store, by its name if there are several.

    Raises:
        InputError: unreadable, or not clear which.
    """
    label = path.name if name is None else f"{path.name}:{name}"
    if path.is_dir():
        return Raw(zarr_array(path, name), label)
    with open(path, "rb") as file:
        magic = file.read(8)
    suffix = path.suffix.lower()
    if h5py.is_hdf5(path):
        return Raw(hdf5_array(path, name), label)
    if magic.startswith(b"CDF"):
        return Raw(netcdf_array(path, name), label)
    if suffix in (".pt", ".pth"):
        return Raw(torch_array(path, name), label)
    if magic.startswith(b"PK") or suffix == ".npz":
        array, made = npz_array(path, name)
        return Raw(array, label, made=made)
    if name is not None:
        raise InputError(f"{path}: holds one array, which has no name; got {name!r}")
    if magic.startswith(b"\x93NUMPY") or suffix == ".npy":
        return Raw(npy_array(path), label)
    return Raw(text_array(path), label, text=True)


def load_variance_map(source: Any) -> NDArray[np.float64]:
    """A variance map (N, N) or (channel, N, N), of any file or an array, as (channel, N, N).

    Raises:
        InputError: a file that cannot be read, another shape, or a variance that is negative, nan
            or infinite.
    """
    name, array = "array", source
    if isinstance(source, str | Path):
        name, array = str(source), raw_array(*split_name(source)).array
    values = plain(array)
    shape = values.shape
    if values.dtype.kind not in "fiu":
        raise InputError(f"{name}: holds {values.dtype}; a variance map is of numbers")
    if values.ndim not in (2, 3) or shape[-1] != shape[-2] or not values.size:
        raise InputError(f"{name}: shape {shape}; a variance map is (N, N) or (channel, N, N)")
    variance = np.array(values, np.float64).reshape(-1, *shape[-2:])
    if not np.isfinite(variance).all():
        raise InputError(f"{name}: a variance map has no nan or infinity")
    if (variance < 0).any():
        raise InputError(f"{name}: a variance map has no negative values")
    return variance
