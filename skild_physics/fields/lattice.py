"""Lattice ensembles and generated fields in HDF5, opened as labelled arrays.

Both kinds of file are NetCDF-4 (hence HDF5): an ensemble holds int8 `spins`, model output holds
float32 `field`, each with dimensions (sample, y, x).
"""

from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_physics import __version__
from skild_physics.files import replacing

ENSEMBLE_SCHEMA = "skild_physics.ising"
FIELDS_SCHEMA = "skild_physics.fields"
SCHEMA_VERSION = 1
_VARIABLE = {ENSEMBLE_SCHEMA: "spins", FIELDS_SCHEMA: "field"}


def _open(path: str | Path, schemas: tuple[str, ...]) -> xr.Dataset:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        data = xr.open_dataset(path, engine="h5netcdf")
    except Exception as error:
        # h5netcdf reports a foreign or truncated file through many exception types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a readable HDF5 field file ({reason})") from None
    schema = data.attrs.get("schema")
    if schema not in schemas or _VARIABLE[schema] not in data:
        data.close()
        raise ValueError(f"{path}: holds no fields written by skild-physics")
    if int(data.attrs["schema_version"]) > SCHEMA_VERSION:
        data.close()
        raise ValueError(f"{path}: written by a newer version of skild_physics")
    return data


def open_ensemble(path: str | Path) -> xr.Dataset:
    """A lattice ensemble, lazily: `spins` (sample, y, x), `energy`, `magnetization`, provenance.

    Raises:
        ValueError: the file is missing, foreign, truncated, or of a newer schema.
    """
    return _open(path, (ENSEMBLE_SCHEMA,))


def load_fields(path: str | Path) -> xr.DataArray:
    """Spins of an ensemble or fields of a model, lazily, as (sample, y, x) with provenance.

    The numbers of an ensemble's chains are the coordinate `chain`.

    Use it as a context manager, or close it, to release the file.

    Raises:
        ValueError: the file is missing, foreign, truncated, of a newer schema, or holds fields of
            several channels.
    """
    data = _open(path, tuple(_VARIABLE))
    fields = data[_VARIABLE[data.attrs["schema"]]].assign_attrs(data.attrs)
    if "chain" in data:
        fields = fields.assign_coords(chain=data["chain"].load())
    if "channel" in fields.dims:
        data.close()
        raise ValueError(f"{path}: holds fields of {fields.sizes['channel']} channels, not of one")
    fields.set_close(data.close)
    return fields


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
