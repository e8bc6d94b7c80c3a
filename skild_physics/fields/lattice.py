"""Lattice ensembles and generated fields in HDF5, opened as labelled arrays.

All files are NetCDF-4 (hence HDF5): an ensemble holds int8 `spins`, model output float32 `field`,
each with dimensions (sample, y, x), or (sample, channel, y, x) for several channels, and prepared
pictures uint8 `pixels` (sample, channel, y, x).
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import h5netcdf
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_physics import __version__
from skild_physics.files import InputError, replacing
from skild_physics.kspace import Basis

ENSEMBLE_SCHEMA = "skild_physics.ising"
FIELDS_SCHEMA = "skild_physics.fields"
SCHEMA_VERSION = 1
PICTURES_SCHEMA = "skild_physics.pictures"
_VARIABLE = {ENSEMBLE_SCHEMA: "spins", FIELDS_SCHEMA: "field", PICTURES_SCHEMA: "pixels"}


def _open(path: str | Path, schemas: tuple[str, ...]) -> xr.Dataset:
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        data = xr.open_dataset(path, engine="h5netcdf")
    except Exception as error:
        # h5netcdf reports a foreign or truncated file through many exception types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable HDF5 field file ({reason})") from None
    schema = data.attrs.get("schema")
    if schema not in schemas or _VARIABLE[schema] not in data:
        data.close()
        raise InputError(f"{path}: holds no fields written by skild-physics")
    if int(data.attrs["schema_version"]) > SCHEMA_VERSION:
        data.close()
        raise InputError(f"{path}: written by a newer version of skild_physics")
    return data


def open_ensemble(path: str | Path) -> xr.Dataset:
    """A lattice ensemble, lazily: `spins` (sample, y, x), `energy`, `magnetization`, provenance.

    Raises:
        InputError: the file is missing, foreign, truncated, or of a newer schema.
    """
    return _open(path, (ENSEMBLE_SCHEMA,))


def load_fields(path: str | Path) -> xr.DataArray:
    """Spins of an ensemble or fields of a model, lazily, as (sample, y, x) with provenance.

    The numbers of an ensemble's chains are the coordinate `chain`.

    Use it as a context manager, or close it, to release the file.

    Raises:
        InputError: the file is missing, foreign, truncated, of a newer schema, or holds fields of
            several channels.
    """
    data = _open(path, (ENSEMBLE_SCHEMA, FIELDS_SCHEMA))
    fields = data[_VARIABLE[data.attrs["schema"]]].assign_attrs(data.attrs)
    if "chain" in data:
        fields = fields.assign_coords(chain=data["chain"].load())
    if "channel" in fields.dims:
        data.close()
        raise InputError(f"{path}: holds fields of {fields.sizes['channel']} channels, not of one")
    fields.set_close(data.close)
    return fields


def open_fields(path: str | Path) -> tuple[xr.DataArray, Basis, tuple[str, ...]]:
    """Fields of any of these files, lazily, the natural basis, and the names of the channels.

    Raises:
        InputError: the file is missing, foreign, truncated, or of a newer schema.
    """
    data = _open(path, tuple(_VARIABLE))
    fields = data[_VARIABLE[data.attrs["schema"]]].assign_attrs(data.attrs)
    fields.set_close(data.close)
    basis: Basis = "cosine" if data.attrs.get("basis") == "cosine" else "periodic"
    if "channels" in data.attrs:
        return fields, basis, tuple(str(data.attrs["channels"]).split(","))
    if "channel" in fields.dims:
        return fields, basis, tuple(f"channel {i + 1}" for i in range(fields.sizes["channel"]))
    return fields, basis, ("spin" if fields.name == "spins" else "field",)


def save_fields(
    path: str | Path,
    field: NDArray[np.float32],
    attributes: dict[str, str | int | float],
    **others: NDArray[np.float32],
) -> None:
    """Write model output with its provenance, replacing an existing file at once.

    Args:
        path: NetCDF-4 file.
        field: the fields, shape (sample, y, x), or (sample, channel, y, x) for several channels.
        attributes: root attributes that say how they were made.
        others: further variables of the same shape, such as what the model started from.
    """
    dims = ("sample", "channel", "y", "x") if field.ndim == 4 else ("sample", "y", "x")
    data = xr.Dataset(
        {name: (dims, values) for name, values in {"field": field, **others}.items()},
        attrs={
            "schema": FIELDS_SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "package_version": __version__,
            **attributes,
        },
    )
    encoding = {name: {"zlib": True, "complevel": 1, "shuffle": True} for name in data.data_vars}
    with replacing(path) as temporary:
        data.to_netcdf(temporary, engine="h5netcdf", encoding=encoding)


def save_pictures(
    path: str | Path,
    batches: Iterable[NDArray[np.uint8]],
    channels: tuple[str, ...],
    size: int,
    attributes: Mapping[str, str | int],
    skipped: Mapping[str, str],
) -> int:
    """Write bytes of pictures, replacing an existing file at once; returns their number.

    Args:
        path: NetCDF-4 file; a picture is a chunk, not compressed, so any is read quickly.
        batches: pixels, shape (sample, channel, size, size).
        channels: their names.
        size: pixels per side.
        attributes: root attributes that say how they were made.
        skipped: why pictures were left out, by name.
    """
    count, shape = 0, (len(channels), size, size)
    with replacing(path) as temporary:
        with h5netcdf.File(temporary, "w") as file:
            file.dimensions = {"sample": None, "channel": shape[0], "y": size, "x": size}
            pixels = file.create_variable(
                "pixels", ("sample", "channel", "y", "x"), np.uint8, chunks=(1, *shape)
            )
            pixels.attrs["units"] = "1/255 of white"
            for batch in filter(len, batches):
                file.resize_dimension("sample", count + len(batch))
                pixels[count : count + len(batch)] = batch
                count += len(batch)
            file.attrs.update(
                {
                    "schema": PICTURES_SCHEMA,
                    "schema_version": SCHEMA_VERSION,
                    "package_version": __version__,
                    "basis": "cosine",
                    "channels": ",".join(channels),
                    "skipped": json.dumps(dict(skipped)),
                    **attributes,
                }
            )
        if not count:
            raise InputError(f"{path}: no picture can be used, of {len(skipped)}")
    return count
