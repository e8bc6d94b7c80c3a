"""Arrays of files that hold several, by their names: HDF5, NetCDF and Zarr of anybody."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from xarray.backends import CachingFileManager

from skild_physics.fields.arrays import SAID, beside, choose, lazily, singles, unreadable
from skild_physics.fields.hdf5_files import check_hdf5, datasets, open_netcdf
from skild_physics.files import InputError
from skild_physics.heaps import open_hdf5
from skild_physics.schema import plain_value

ZARR_COMPRESSED = 100_000
"""Bytes that one byte of a Zarr store can stand for, at most."""


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
    """A dataset of an HDF5 file, where it lies, with what the file says of all its fields.

    Dimensions are named where the file does, by scales or labels.

    Raises:
        InputError: unreadable, or not clear which.
    """
    check_hdf5(path)
    try:
        with open_hdf5(path) as file:
            is_netcdf = "_NCProperties" in file.attrs
            shapes: dict[str, tuple[int, ...]] = {
                each: item.shape
                for each, item in datasets(file, path)
                if item.ndim
                and item.dtype.kind in "biuf"
                and item.attrs.get("CLASS") != b"DIMENSION_SCALE"
            }
            name = name.strip("/") if name else name
            if name is not None and isinstance(file.get(name), h5py.Group):
                # those of a group
                shapes = {k: shape for k, shape in shapes.items() if k.startswith(f"{name}/")}
                name = None
            if name is not None and name in file and name not in shapes:
                raise InputError(f"{path}: {name} is no array of numbers")
            joined = singles(path, name, shapes)
            chosen = joined[0] if joined else choose(path, name, shapes)
            said = _all_said(file, chosen)
            for each in joined:
                if _all_said(file, each) != said:
                    raise InputError(f"{path}: {chosen} says {said}, {each} something else")
            if joined:
                return beside(xr.DataArray(np.stack([file[each][()] for each in joined])), said)
            is_netcdf |= bool({"scale_factor", "add_offset"} & {*file[chosen].attrs})
            names = [_dimension(file[chosen].dims[i], i) for i in range(file[chosen].ndim)]
    except InputError:
        raise
    except Exception as error:
        raise unreadable(path, "HDF5", error) from None
    if is_netcdf:
        return netcdf_array(path, chosen)
    dataset = stored(path, chosen)
    array = beside(lazily(path, dataset, names), said)
    array.set_close(dataset.file.close)
    return array


def _all_said(file: h5py.File, name: str) -> dict[str, Any]:
    """What is said of a dataset: of all of a file, of its group and by itself."""
    holders = (file, file[name].parent, file[name])
    return {key: plain_value(value) for holder in holders for key, value in _said(holder)}


def _said(holder: Any) -> Iterator[tuple[str, Any]]:
    """What a group says, in attributes or in datasets, or what a dataset says."""
    for name in SAID:
        item = holder.get(name) if isinstance(holder, h5py.Group) else None
        if name in holder.attrs:
            yield name, holder.attrs[name]
        elif isinstance(item, h5py.Dataset) and item.ndim < 2:
            yield name, item[()]


def _dimension(dimension: Any, place: int) -> str:
    if dimension.label:
        return str(dimension.label)
    scales = [str(scale.name).rpartition("/")[2] for scale in dimension.values()]
    return scales[0] if scales else f"dim_{place}"


def netcdf_array(path: Path, name: str | None = None) -> xr.DataArray:
    """A variable of a NetCDF file, lazily, missing values as nan.

    Args:
        path: the file.
        name: of the variable, in groups as group/name; None: the only one.

    Raises:
        InputError: unreadable, or not clear which.
    """
    group, _, variable = (name or "").strip("/").rpartition("/")
    how: Any = {"group": group or None, "cache": False, "decode_times": False}
    with ExitStack() as stack:
        if h5py.is_hdf5(path):
            data = open_netcdf(path, **how)
        else:
            try:
                data = xr.open_dataset(os.path.abspath(path), engine="scipy", **how)
            except Exception as error:
                raise unreadable(path, "NetCDF", error) from None
        stack.callback(data.close)
        known = of_dataset(path, variable or None, data)
        stack.pop_all()
    known.set_close(data.close)
    return known


def of_dataset(name: Path | str, variable: str | None, data: xr.Dataset) -> xr.DataArray:
    """A variable of a dataset, with what the dataset says of it.

    Args:
        name: of the dataset, for messages.
        variable: its name; None: the only one.
        data: the dataset.

    Raises:
        InputError: not clear which.
    """
    shapes = {str(each): tuple(data[each].shape) for each in data.data_vars if each not in SAID}
    array = data[choose(name, variable, shapes)]
    said = {key: data.attrs[key] for key in SAID if key in data.attrs}
    said |= {key: data[key].values for key in SAID if key in data.data_vars}
    said |= {key: array.attrs[key] for key in SAID if key in array.attrs}
    kept = array.drop_attrs()
    for key, value in said.items():
        variable_dims = data[key].dims if key in data.data_vars else ()
        if np.size(value) > 1 and variable_dims and set(variable_dims) <= set(kept.dims):
            kept = kept.assign_coords({key: (variable_dims, value)})
        else:
            kept = kept.assign_attrs({key: plain_value(np.asarray(value)[()])})
    return kept


def zarr_array(path: Path, name: str | None = None) -> xr.DataArray:
    """An array of a Zarr store, lazily.

    Raises:
        InputError: unreadable, not clear which, or zarr is not installed.
    """
    try:
        import zarr
    except ImportError:
        raise InputError(
            f"{path}: a Zarr store is read with the package zarr: pip install zarr"
        ) from None
    try:
        store: Any = zarr.open(path, mode="r")
        arrays = dict(_arrays(store, ""))
        if list(arrays) == [""] and name is None:
            chosen = ""
        else:
            shapes = {key: tuple(each.shape) for key, each in arrays.items()}
            chosen = choose(path, name.strip("/") if name else None, shapes)
        found = arrays[chosen]
        attributes = {**dict(store.attrs), **dict(found.attrs)}
        names = getattr(found.metadata, "dimension_names", None)
        names = names or attributes.get("_ARRAY_DIMENSIONS")
        held = sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
        if found.nbytes > ZARR_COMPRESSED * held:
            raise InputError(
                f"{path}: claims {tuple(found.shape)} of {found.dtype}, and holds {held} bytes"
            )
        array = lazily(path, ZarrArray(path, chosen), names)
    except InputError:
        raise
    except Exception as error:
        # notes of any types, and what the library makes of them
        raise unreadable(path, "Zarr", error) from None
    return array.assign_attrs({key: attributes[key] for key in SAID if key in attributes})


@dataclass(frozen=True)
class ZarrArray:
    """An array of a Zarr store, which is opened in every process that reads it."""

    path: Path
    name: str

    def __call__(self) -> Any:
        """It, of the open store."""
        import zarr

        store: Any = zarr.open(self.path, mode="r")
        return store[self.name] if self.name else store


def _arrays(store: Any, name: str) -> Iterator[tuple[str, Any]]:
    if hasattr(store, "shape"):
        yield name, store
        return
    for key, each in sorted(store.arrays()):
        yield f"{name}/{key}" if name else key, each
    for key, group in sorted(store.groups()):
        yield from _arrays(group, f"{name}/{key}" if name else key)
