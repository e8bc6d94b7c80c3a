"""Fields into HDF5, part by part; :mod:`skild_physics.fields.lattice` reads them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from skild_physics.claims import replacing
from skild_physics.disk import onto_disk
from skild_physics.fields.lattice import FIELDS_SCHEMA, PICTURES_SCHEMA, SCHEMA_VERSION
from skild_physics.files import InputError
from skild_physics.version import __version__

CHUNK_BYTES = 2**18


def write_hdf5(
    path: Path,
    parts: Iterable[Mapping[str, NDArray[Any]]],
    attributes: Mapping[str, Any],
    coordinates: Mapping[str, ArrayLike],
) -> None:
    """Write fields, int8 spins or float32, replacing an existing file at once.

    Args:
        path: NetCDF-4 file, compressed.
        parts: arrays of one shape (sample, channel, y, x), of the same names in every part.
        attributes: how they were made, plain values.
        coordinates: what there is of each field, in order.
    """
    done = 0
    with (
        replacing(path) as temporary,
        onto_disk(temporary) as disk,
        h5netcdf.File(disk, "w") as file,
    ):
        for part in parts:
            n, *shape = part["field"].shape
            if shape[0] == 1:
                shape = shape[1:]
            if not done:
                dims = ("sample", *(["channel"] if len(shape) == 3 else []), "y", "x")
                file.dimensions = {"sample": None, **dict(zip(dims[1:], shape, strict=True))}
                length = max(1, CHUNK_BYTES // (4 * int(np.prod(shape))))
                for name, values in part.items():
                    file.create_variable(
                        name,
                        dims,
                        np.int8 if values.dtype == np.int8 else np.float32,
                        chunks=(length, *shape),
                        compression="gzip",
                        compression_opts=1,
                        shuffle=True,
                        fletcher32=True,
                    )
            file.resize_dimension("sample", done + n)
            for name, values in part.items():
                file[name][done : done + n] = values.reshape(n, *shape)
            done += n
            disk.check()
        for name, known in coordinates.items():
            _write_column(file, name, np.asarray(known)[:done])
        file.attrs.update(
            {
                "schema": FIELDS_SCHEMA,
                "schema_version": SCHEMA_VERSION,
                "package_version": __version__,
                **attributes,
            }
        )


def check_attributes(attributes: Mapping[str, Any], path: Path) -> None:
    """Refuse what HDF5 cannot hold, before there is work to lose.

    Raises:
        InputError: naming the first such attribute.
    """
    with h5netcdf.File("memory", "w", driver="core", backing_store=False) as file:
        for name, value in attributes.items():
            try:
                file.attrs[name] = value
            except Exception as error:
                # whatever h5py says of what it has no type for
                raise InputError(f"{path}: cannot hold the attribute {name!r} ({error})") from None


def _write_column(file: h5netcdf.File, name: str, column: NDArray[Any]) -> None:
    """What there is of each field: numbers or texts."""
    is_text = column.dtype.kind in "OU"
    dtype = h5py.string_dtype() if is_text else column.dtype
    # HDF5 has no checksums of texts
    variable = file.create_variable(name, ("sample",), dtype, fletcher32=not is_text)
    variable[:] = column.astype(object) if is_text else column


def write_pictures(
    path: str | Path,
    parts: Iterable[NDArray[np.uint8]],
    channels: tuple[str, ...],
    size: int,
    attributes: Mapping[str, str | int],
    skipped: Mapping[str, str],
    names: Sequence[str] = (),
) -> int:
    """Write bytes of pictures, replacing an existing file at once; returns their number.

    Args:
        path: NetCDF-4 file; a picture is a chunk, not compressed, so any is read quickly.
        parts: pixels, shape (sample, channel, size, size).
        channels: their names.
        size: pixels per side.
        attributes: root attributes that say how they were made.
        skipped: why pictures were left out, by name.
        names: of each, looked at when all parts are written; none: they have no names.
    """
    count, shape = 0, (len(channels), size, size)
    with replacing(path) as temporary:
        with onto_disk(temporary) as disk, h5netcdf.File(disk, "w") as file:
            file.dimensions = {"sample": None, "channel": shape[0], "y": size, "x": size}
            stored = file.create_variable(
                "pixels",
                ("sample", "channel", "y", "x"),
                np.uint8,
                chunks=(1, *shape),
                fletcher32=True,
            )
            stored.attrs["units"] = "1/255 of white"
            for part in filter(len, parts):
                file.resize_dimension("sample", count + len(part))
                stored[count : count + len(part)] = part
                count += len(part)
                disk.check()
            if names:
                _write_column(file, "name", np.array(names, object))
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
            name, reason = next(iter(skipped.items()))
            raise InputError(
                f"{path}: no picture can be used, of {len(skipped)}; the first is {name}: {reason}"
            )
    return count
