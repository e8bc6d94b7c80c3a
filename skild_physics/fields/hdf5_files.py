"""The one door of HDF5 and NetCDF-4 files: what is looked at before anything else reads them.

HDF5 files may name other files, or themselves, and may claim to be larger than anything they hold.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from skild_physics.fields.arrays import unreadable
from skild_physics.files import InputError, check_file
from skild_physics.heaps import open_hdf5
from skild_physics.memory import MOST_COMPRESSED, check_memory

UNCHECKED = 2**16
"""Bytes that any dataset may claim."""


def check_hdf5(path: str | Path, kind: str = "HDF5") -> dict[str, Any]:
    """The root attributes of an HDF5 file, which is refused if it is not what it seems.

    Args:
        path: the file.
        kind: of file that it should be, for messages.

    Raises:
        InputError: it is missing, damaged, holds links to other files or arrays that lie there, or
            arrays that were never written.
    """
    path = check_file(path)
    try:
        with open_hdf5(path) as file:
            for name, dataset in datasets(file, path):
                _check_dataset(path, name, dataset)
            return {name: file.attrs[name] for name in file.attrs}
    except InputError:
        raise
    except Exception as error:
        # of damaged files HDF5 raises what it likes
        raise unreadable(path, kind, error) from None


def datasets(file: h5py.File, path: Path) -> Iterator[tuple[str, h5py.Dataset]]:
    """All datasets by their names, each once.

    Raises:
        InputError: a link to another file.
    """
    seen: set[Any] = set()
    waiting: list[tuple[str, h5py.Group]] = [("", file)]
    while waiting:
        where, group = waiting.pop()
        for key in group:
            name = f"{where}{key}"
            link = group.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise InputError(f"{path}: {name} lies in other files; give these, or copy it")
            if isinstance(link, h5py.SoftLink):
                continue
            item = group[key]
            about = h5py.h5o.get_info(item.id)
            if (about.fileno, about.addr) in seen:
                continue
            seen.add((about.fileno, about.addr))
            if isinstance(item, h5py.Dataset):
                yield name, item
            elif isinstance(item, h5py.Group):
                waiting.append((f"{name}/", item))


def _check_dataset(path: Path, name: str, dataset: h5py.Dataset) -> None:
    if dataset.is_virtual or dataset.external:
        raise InputError(f"{path}: {name} lies in other files; give these, or copy it")
    if b"not a netCDF variable" in bytes(np.bytes_(dataset.attrs.get("NAME", b""))):
        # a dimension of NetCDF, which holds nothing
        return
    size = math.prod(dataset.shape or ()) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if size > UNCHECKED + MOST_COMPRESSED * stored or (size and not stored):
        raise InputError(
            f"{path}: {name}, {dataset.shape} of {dataset.dtype}, was not written: "
            f"the file holds {stored} bytes of it"
        )
    if dataset.chunks and stored and not _is_indexed(dataset):
        raise InputError(f"{path}: {name}: the index of its chunks is damaged")


def _is_indexed(dataset: h5py.Dataset) -> bool:
    """Whether all stored chunks are found: one in no place is read as if it had not been written.

    The older index, which is still the default, has no checksum.
    """
    places: list[tuple[int, ...]] = []
    dataset.id.chunk_iter(lambda chunk: places.append(chunk.chunk_offset))
    return len(set(places)) == len(places) and all(
        not at % step and at < stop
        for place in places
        for at, step, stop in zip(place, dataset.chunks, dataset.shape, strict=True)
    )


def open_netcdf(path: str | Path, kind: str = "NetCDF", **options: Any) -> xr.Dataset:
    """A NetCDF-4 file or a group of it, lazily, if :func:`check_hdf5` lets it pass.

    Args:
        path: the file.
        kind: of file that it should be, for messages.
        options: of :func:`xarray.open_dataset`.

    Raises:
        InputError: it cannot be read.
    """
    check_hdf5(path, kind)
    how: Any = {"phony_dims": "access", **options}
    try:
        # absolute: xarray takes a tilde in a name for somebody's home
        return xr.open_dataset(os.path.abspath(path), engine="h5netcdf", **how)
    except Exception as error:
        raise unreadable(Path(path), kind, error) from None


def loaded(data: xr.Dataset, path: str | Path) -> xr.Dataset:
    """All of a dataset, in memory.

    Raises:
        InputError: it is damaged, or larger than the memory.
    """
    check_memory(f"{path}: all that it holds", data.nbytes)
    try:
        return data.load()
    except Exception as error:
        raise unreadable(Path(path), "NetCDF", error) from None
