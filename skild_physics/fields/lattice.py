"""Fields in HDF5, read as labelled arrays where they lie.

All files are NetCDF-4 (hence HDF5): an ensemble holds int8 `spins`, model output float32 `field`,
each with dimensions (sample, y, x), or (sample, channel, y, x) for several channels, and prepared
pictures uint8 `pixels` (sample, channel, y, x).
"""

import math
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import xarray as xr
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt

from skild_physics.fields.arrays import lazily
from skild_physics.fields.containers import stored
from skild_physics.fields.hdf5_files import loaded, open_netcdf
from skild_physics.fields.lazy import channels_of, of_bytes
from skild_physics.files import InputError
from skild_physics.heaps import open_hdf5
from skild_physics.kspace import Basis
from skild_physics.schema import plain_attributes, plain_value, validated

ENSEMBLE_SCHEMA = "skild_physics.ising"
FIELDS_SCHEMA = "skild_physics.fields"
SCHEMA_VERSION = 1
PICTURES_SCHEMA = "skild_physics.pictures"
_VARIABLE = {ENSEMBLE_SCHEMA: "spins", FIELDS_SCHEMA: "field", PICTURES_SCHEMA: "pixels"}
_DTYPES = {
    "spins": (np.dtype(np.int8),),
    "field": (np.dtype(np.float32), np.dtype(np.int8)),
    "pixels": (np.dtype(np.uint8),),
}


def schema_of(path: Path) -> str | None:
    """The schema of an HDF5 file, empty if it says none; None: it cannot be read."""
    try:
        with open_hdf5(path) as file:
            return str(plain_value(file.attrs.get("schema", "")))
    except Exception:
        # of damaged ones it raises what it likes
        return None


def is_field_file(path: Path) -> bool:
    """Whether a file says that it was written here, or can no longer say whose it is."""
    schema = schema_of(path)
    if schema is None:
        return h5py.is_hdf5(path) or path.suffix.lower() in (".h5", ".hdf5")
    return schema.startswith("skild_physics.")


def open_dataset(path: str | Path) -> xr.Dataset:
    """All that a file of fields holds, lazily.

    Raises:
        InputError: the file is missing, foreign, truncated, or of a newer schema.
    """
    path = Path(path)
    data = open_netcdf(path, "HDF5 field", cache=False)
    try:
        about = validated(_Attributes, plain_attributes(data.attrs), path)
        _check(data, about, path)
    except InputError:
        data.close()
        raise
    # as attributes are wherever they come from
    return data.assign_attrs(about.model_dump(by_alias=True, exclude_unset=True))


class _Attributes(BaseModel):
    """What a file of fields says of them; there may be more."""

    model_config = ConfigDict(extra="allow")

    schema_: str = Field(alias="schema")
    schema_version: int
    model: str | None = None
    beta: FiniteFloat | None = None
    boundary: Literal["periodic", "open"] | None = None
    basis: Basis | Literal["unknown"] | None = None
    channels: str | None = None
    L: PositiveInt | None = None
    n_chains: PositiveInt | None = None
    factor: FiniteFloat | None = None
    downsampling: str | None = None
    protocol: str | None = None


def _check(data: xr.Dataset, about: _Attributes, path: Path) -> None:
    """Refuse what are no fields, or not all of them.

    Raises:
        InputError: naming what is wrong.
    """
    variable = _VARIABLE.get(about.schema_, "")
    if variable not in data:
        raise InputError(f"{path}: holds no fields written by skild-physics")
    if about.schema_version > SCHEMA_VERSION:
        raise InputError(f"{path}: written by a newer version of skild_physics")
    fields = data[variable]
    dims, dtype = tuple(map(str, fields.dims)), _DTYPES[variable]
    if dims not in (("sample", "y", "x"), ("sample", "channel", "y", "x")) or not fields.size:
        raise InputError(
            f"{path}: its `{variable}` is an array ({', '.join(dims)}) of shape {fields.shape}, "
            "expected fields (sample, y, x) or (sample, channel, y, x)"
        )
    if fields.dtype not in dtype:
        raise InputError(f"{path}: its `{variable}` holds {fields.dtype}, expected {dtype[0]}")
    with open_hdf5(path) as file:
        stored = file[variable]
        chunks = stored.chunks and math.prod(
            -(-n // m) for n, m in zip(stored.shape, stored.chunks, strict=True)
        )
        if chunks and stored.id.get_num_chunks() < chunks:
            raise InputError(f"{path}: not all of its fields were written")


def field_file(path: str | Path) -> xr.DataArray:
    """The fields of a file with their provenance; what there is of each field are coordinates.

    Spins stay int8; pixels become float32 in [-1, 1]. The coordinates of an ensemble are `chain`,
    `update`, `energy` and `magnetization`, all in memory, of the output of a model `start`, what it
    started from, lazily.

    Raises:
        InputError: as :func:`open_dataset`, or fields that are not square.
    """
    data = open_dataset(path)
    fields = data[_VARIABLE[data.attrs["schema"]]]
    if fields.shape[-2] != fields.shape[-1]:
        data.close()
        raise InputError(
            f"{path}: fields of {fields.shape[-2]} x {fields.shape[-1]} sites; only square ones "
            "have modes"
        )
    named = "spin" if fields.name == "spins" else "field"
    channels = channels_of(fields.assign_attrs(data.attrs))
    channels = (named,) if channels == ("field",) else channels
    known = {
        "source": Path(path).name,
        "basis": data.attrs.get("basis", "periodic"),
        "channels": ",".join(channels),
    }
    dataset = stored(Path(path), str(fields.name))
    lazy = lazily(Path(path), dataset, [str(dim) for dim in fields.dims]).variable
    fields = xr.DataArray(lazy, fields.coords, name=fields.name)
    if fields.name == "pixels":
        fields = of_bytes(fields)
        fields.attrs = {}
        # of one channel without that dimension, as from everywhere else
        fields = fields if len(channels) > 1 else fields.isel(channel=0, drop=True)
    if "sample" not in fields.coords:
        fields = fields.assign_coords(sample=np.arange(len(fields)))
    columns = data.drop_vars([n for n, v in data.variables.items() if v.dims != ("sample",)])
    for name, column in loaded(columns, path).variables.items():
        if name != "sample":
            fields = fields.assign_coords({str(name): column})
    if "start" in data and data["start"].shape == fields.shape:
        fields = fields.assign_coords(start=data["start"].variable)
    if "channel" in fields.dims and "channel" not in fields.coords:
        fields = fields.assign_coords(channel=list(channels))
    fields = fields.assign_attrs(data.attrs | known)
    fields.encoding["source"] = str(path)

    def close() -> None:
        dataset.file.close()
        data.close()

    fields.set_close(close)
    return fields
