"""Arrays of files that hold several, by their names: HDF5, NetCDF and Zarr of anybody."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from xarray.backends import CachingFileManager

from skild_physics.fields.arrays import choose, lazily
from skild_physics.files import InputError, is_locked

KNOWN = ("model", "beta", "boundary", "basis")
"""Attributes of anybody's files that mean what they mean here."""


@dataclass(frozen=True)
class Dataset:
    """A dataset of an HDF5 file, which is opened in every process that reads it."""

    file: CachingFileManager[h5py.File]
    name: str

    def __call__(self) -> Any:
        """It, of the open file."""
        return self.file.acquire()[self.name]


def stored(path: Path, name: str) -> Dataset:
    """A dataset by its name."""
    return Dataset(CachingFileManager(h5py.File, path, mode="r"), name)


def hdf5_array(path: Path, name: str | None = None) -> xr.DataArray:
    """A dataset of an HDF5 file, where it lies, with the attributes that are known here.

    Dimensions are named where the file does, by scales or labels.

    Raises:
        InputError: unreadable, or not clear which.
    """
    try:
        with h5py.File(path, "r") as file:
            shapes: dict[str, tuple[int, ...]] = {}
            is_netcdf = "_NCProperties" in file.attrs

            def note(each: str, item: Any) -> None:
                is_array = isinstance(item, h5py.Dataset) and item.ndim
                is_scale = item.attrs.get("CLASS") == b"DIMENSION_SCALE"
                if is_array and not is_scale and item.dtype.kind in "biuf":
                    shapes[each] = item.shape

            file.visititems(note)
            name = name.strip("/") if name else name
            if name is not None and name in file and name not in shapes:
                raise InputError(f"{path}: {name} is no array of numbers")
            chosen = choose(path, name, shapes)
            if file[chosen].is_virtual or file[chosen].external:
                raise InputError(f"{path}: {chosen} lies in other files; give these, or copy it")
            attributes = {
                key: _plain(value)
                for holder in (file, file[chosen])
                for key, value in holder.attrs.items()
                if key in KNOWN
            }
            names = [_dimension(file[chosen].dims[i], i) for i in range(file[chosen].ndim)]
    except InputError:
        raise
    except Exception as error:
        raise unreadable(path, "HDF5", error) from None
    if is_netcdf:
        return netcdf_array(path, chosen, attributes)
    dataset = stored(path, chosen)
    array = lazily(dataset, names).assign_attrs(attributes)
    array.set_close(dataset.file.close)
    return array


def _dimension(dimension: Any, place: int) -> str:
    if dimension.label:
        return str(dimension.label)
    scales = [str(scale.name).rpartition("/")[2] for scale in dimension.values()]
    return scales[0] if scales else f"dim_{place}"


def netcdf_array(
    path: Path, name: str | None = None, attributes: dict[str, Any] | None = None
) -> xr.DataArray:
    """A variable of a NetCDF file or a Zarr store, lazily, missing values as nan.

    Args:
        path: file or folder.
        name: of the variable, in groups as group/name; None: the only one.
        attributes: that are known of it.

    Raises:
        InputError: unreadable, not clear which, or zarr is not installed.
    """
    group, _, variable = (name or "").strip("/").rpartition("/")
    options: dict[str, Any] = {"group": group or None, "cache": False, "decode_times": False}
    if path.is_dir():
        options |= {"engine": "zarr", "chunks": None}
    else:
        options |= {"engine": "h5netcdf" if h5py.is_hdf5(path) else "scipy"}
    with ExitStack() as stack:
        try:
            data = xr.open_dataset(path, **options)
        except Exception as error:
            if "unrecognized engine" in str(error) and path.is_dir():
                raise InputError(
                    f"{path}: a Zarr store is read with the package zarr: pip install zarr"
                ) from None
            raise unreadable(path, "Zarr" if path.is_dir() else "NetCDF", error) from None
        stack.callback(data.close)
        shapes = {str(each): tuple(data[each].shape) for each in data.data_vars}
        array = data[choose(path, variable or None, shapes)]
        stack.pop_all()
    found = {
        key: _plain(value)
        for holder in (data, array)
        for key, value in holder.attrs.items()
        if key in KNOWN
    }
    known = array.drop_attrs().assign_attrs({**(attributes or {}), **found})
    known.set_close(data.close)
    return known


def _plain(value: Any) -> Any:
    value = (
        value.item() if isinstance(value, np.generic | np.ndarray) and value.size == 1 else value
    )
    return value.decode() if isinstance(value, bytes) else value


def unreadable(path: Path, kind: str, error: Exception) -> InputError:
    """What to say of a file that its library cannot open."""
    if is_locked(error):
        return InputError(f"{path}: is open elsewhere, for writing; wait until it is closed")
    # libraries report a foreign or truncated file through many exception types
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"{path}: not a readable {kind} file ({reason})")
