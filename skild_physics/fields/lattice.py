"""Fields in HDF5, read as labelled arrays where they lie.

All files are NetCDF-4 (hence HDF5): an ensemble holds int8 `spins`, model output float32 `field`,
each with dimensions (sample, y, x), or (sample, channel, y, x) for several channels, and prepared
pictures uint8 `pixels` (sample, channel, y, x).
"""

from pathlib import Path

import h5py
import numpy as np
import xarray as xr

from skild_physics.fields.arrays import lazily, unreadable
from skild_physics.fields.containers import stored
from skild_physics.fields.lazy import channels_of, of_bytes
from skild_physics.files import InputError

ENSEMBLE_SCHEMA = "skild_physics.ising"
FIELDS_SCHEMA = "skild_physics.fields"
SCHEMA_VERSION = 1
PICTURES_SCHEMA = "skild_physics.pictures"
_VARIABLE = {ENSEMBLE_SCHEMA: "spins", FIELDS_SCHEMA: "field", PICTURES_SCHEMA: "pixels"}


def schema_of(path: Path) -> str | None:
    """The schema of an HDF5 file, empty if it says none; None: it cannot be read."""
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs.get("schema", ""))
    except (OSError, RuntimeError):
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
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        data = xr.open_dataset(path, engine="h5netcdf", cache=False)
    except Exception as error:
        raise unreadable(path, "HDF5 field", error) from None
    variable = _VARIABLE.get(data.attrs.get("schema", ""))
    if variable not in data:
        data.close()
        raise InputError(f"{path}: holds no fields written by skild-physics")
    if int(data.attrs["schema_version"]) > SCHEMA_VERSION:
        data.close()
        raise InputError(f"{path}: written by a newer version of skild_physics")
    return data


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
    lazy = lazily(dataset, [str(dim) for dim in fields.dims]).variable
    fields = xr.DataArray(lazy, fields.coords, name=fields.name)
    if fields.name == "pixels":
        fields = of_bytes(fields)
        fields.attrs = {}
        # of one channel without that dimension, as from everywhere else
        fields = fields if len(channels) > 1 else fields.isel(channel=0, drop=True)
    if "sample" not in fields.coords:
        fields = fields.assign_coords(sample=np.arange(len(fields)))
    for name, variable in data.variables.items():
        if variable.dims == ("sample",) and name != "sample":
            fields = fields.assign_coords({str(name): data[name].load()})
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
