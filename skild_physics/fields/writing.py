"""Fields out of the package: HDF5, folders of PNG pictures, .npz archives.

Pictures are 8 bits: -1 .. 1 is rounded to 0 .. 255, and what lies outside is clipped. An .npz
archive holds uint8 (sample, y, x, channel) as its first array, arr_0, which the evaluators of the
ADM and EDM families read. Everything is written batch by batch, in bounded memory.
"""

import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from skild_physics.fields.hdf5 import write_hdf5
from skild_physics.fields.lazy import batches, channels_of
from skild_physics.fields.sources import open_fields
from skild_physics.files import InputError, check_folder, check_output, json_text, replacing

Kind = Literal["hdf5", "png", "npz"]
Arrays = Mapping[str, NDArray[Any]]
PROVENANCE = "provenance.json"
# what is known of a field that was made of another: where that comes from
_KEPT = ("sample", "chain", "picture", "channel")
# what a file says of itself
_OWN = ("schema", "schema_version", "package_version", "source")


def output_kind(path: Path) -> Kind:
    """A folder of PNG files if there is no suffix, .npz, or else HDF5."""
    return "png" if not path.suffix else "npz" if path.suffix == ".npz" else "hdf5"


def check_fields_output(path: str | Path, overwrite: bool) -> Kind:
    """The kind of an output, if it may be written.

    Raises:
        InputError: as :func:`skild_physics.files.check_output`; or a file where a folder is due, or
            one that is not empty and not of pictures written here, which nothing replaces.
    """
    path = Path(path)
    kind = output_kind(path)
    if kind != "png":
        check_output(path, overwrite)
        return kind
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; a name without a suffix is that of a folder")
    if path.is_dir() and any(path.iterdir()):
        if not _is_ours(path):
            raise InputError(f"{path}: holds other files; choose an empty or a new folder")
        if not overwrite:
            raise InputError(
                f"{path}: holds pictures already; pass `overwrite=True` to replace them"
            )
    check_folder(path.parent)
    return kind


def pixels(fields: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Fields in [-1, 1] as bytes, any shape."""
    whole: NDArray[np.uint8] = np.clip(np.rint((fields + 1) * 127.5), 0, 255).astype(np.uint8)
    return whole


def save(fields: Any, out: str | Path, *, overwrite: bool = False) -> xr.DataArray:
    """Write fields, with what is known about them, in the format that the suffix names.

    Args:
        fields: anything that :func:`skild_physics.fields.open_fields` takes.
        out: HDF5 file; .npz; or, without a suffix, a folder of PNG pictures. The last two hold 8
            bits.
        overwrite: replace an existing result.

    Returns:
        The fields as they are in the file.

    Raises:
        InputError: the output may not be written, see :func:`check_fields_output`.

    >>> import numpy as np, tempfile
    >>> import skild_physics as sk
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sk.save(np.zeros((3, 8, 8)), f"{folder}/zeros.h5").shape
    (3, 8, 8)
    """
    check_fields_output(out, overwrite)
    fields = open_fields(fields)
    return derived(batches(fields), fields, dict(fields.attrs), out)


def derived(
    made: Iterable[NDArray[np.floating]],
    given: xr.DataArray,
    attributes: Mapping[str, Any],
    out: str | Path | None,
) -> xr.DataArray:
    """Fields made one by one of given ones, in memory or, if there is ``out``, in a file.

    Args:
        made: float batches (n, channel, y, x), as many fields as given.
        given: what they were made of; their `sample`, `chain` and `picture` are kept.
        attributes: how they were made; None: does not apply.
        out: file to write, see :func:`save`.
    """
    attrs = {name: value for name, value in attributes.items() if value is not None}
    if out is None:
        return in_memory({"field": np.concatenate(list(made))}, attrs, given)
    parts = ({"field": batch} for batch in made)
    return write_fields(Path(out), parts, len(given), attrs, given)


def in_memory(
    arrays: Arrays, attributes: Mapping[str, Any], given: xr.DataArray | None = None
) -> xr.DataArray:
    """Labelled fields of arrays field and perhaps start, both (sample, channel, y, x)."""
    several = arrays["field"].shape[1] > 1
    dims = ("sample", "channel", "y", "x") if several else ("sample", "y", "x")
    plain = {name: a if several else a[:, 0] for name, a in arrays.items()}
    fields = xr.DataArray(plain["field"], dims=dims, name="field", attrs=dict(attributes))
    fields.attrs.setdefault("source", "fields")
    coords: dict[str, Any] = {"sample": np.arange(len(fields))}
    if several:
        coords["channel"] = list(channels_of(fields))
    coords |= _kept(given)
    if "start" in plain:
        coords["start"] = (dims, plain["start"])
    return fields.assign_coords(coords)


def _kept(given: xr.DataArray | None) -> dict[str, Any]:
    coords = {} if given is None else given.coords
    return {name: coords[name].variable for name in _KEPT if name in coords}


def write_fields(
    path: Path,
    parts: Iterable[Arrays],
    count: int,
    attributes: Mapping[str, Any],
    given: xr.DataArray | None = None,
) -> xr.DataArray:
    """Write fields in the format that the suffix of ``path`` names, and open them.

    Args:
        path: the file or folder, replaced at once.
        parts: arrays `field`, for pictures uint8 or in [-1, 1], and, for HDF5, others of the same
            shape, (sample, channel, y, x).
        count: number of fields.
        attributes: how they were made, plain values or those of NumPy.
        given: what they were made of.

    Raises:
        InputError: pictures of other than one or three channels.
    """
    kind = output_kind(path)
    made = {k: _plain(v) for k, v in attributes.items() if k not in _OWN}
    kept = {k: v for k, v in _kept(given).items() if v.dims == ("sample",)}
    if kind == "hdf5":
        write_hdf5(path, parts, made, {"sample": np.arange(count)} | kept)
        return open_fields(path)
    values = (part["field"] for part in parts)
    stored = (part if part.dtype == np.uint8 else pixels(part) for part in values)
    (write_npz if kind == "npz" else write_png)(path, stored, count, made)
    grey = kind == "png" and len(str(made.get("channels", "")).split(",")) == 1
    # what the file cannot say of itself
    written = open_fields(path, grey=grey).assign_attrs(made).assign_coords(kept)
    several = {"channel": list(channels_of(written))} if "channel" in written.dims else {}
    return written.assign_coords(several)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def write_png(
    folder: Path, parts: Iterable[NDArray[np.uint8]], count: int, made: Mapping[str, Any]
) -> None:
    """A folder of 000000.png, 000001.png, ..., all of it or nothing, with its provenance.

    Args:
        folder: a new or empty one, or one of such pictures, which is replaced.
        parts: pixels, shape (sample, channel, y, x), of one or three channels.
        count: number of pictures.
        made: how they were made.

    Raises:
        InputError: other numbers of channels.
    """
    temporary = folder.parent / f".{folder.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for number, picture in zip(range(count), chain.from_iterable(parts), strict=True):
            if len(picture) not in (1, 3):
                raise InputError(
                    f"{folder}: pictures have one or three channels, not {len(picture)}; HDF5 and "
                    ".npz files have any number"
                )
            shown = np.moveaxis(picture, 0, -1)
            Image.fromarray(shown.squeeze(-1) if shown.shape[-1] == 1 else shown).save(
                temporary / f"{number:06d}.png"
            )
        (temporary / PROVENANCE).write_text(json_text(dict(made), indent=2))
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_npz(
    path: Path, parts: Iterable[NDArray[np.uint8]], count: int, made: Mapping[str, Any]
) -> None:
    """An .npz archive with arr_0 uint8 (sample, y, x, channel) and the text provenance.

    Args:
        path: the file.
        parts: pixels, shape (sample, channel, y, x).
        count: number of pictures.
        made: how they were made.
    """
    provenance = np.array(json_text(dict(made), indent=2))
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            _stream(file, count, (np.moveaxis(part, 1, -1) for part in parts))
        with archive.open("provenance.npy", "w") as file:
            npy.write_array(file, provenance, allow_pickle=False)


def write_npy(path: Path, parts: Iterable[NDArray[Any]], count: int) -> None:
    """An .npy file of so many fields, of the type and shape of the first part."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        _stream(file, count, parts)


def _stream(file: Any, count: int, parts: Iterable[NDArray[Any]]) -> None:
    rest: Iterator[NDArray[Any]] = iter(parts)
    first = next(rest)
    header = {
        "descr": first.dtype.str,
        "fortran_order": False,
        "shape": (count, *first.shape[1:]),
    }
    npy.write_array_header_2_0(file, header)
    for part in chain([first], rest):
        file.write(np.ascontiguousarray(part).tobytes())


def _is_ours(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    return PROVENANCE in names and all(
        re.fullmatch(r"\d{6,}\.png", name) for name in names - {PROVENANCE}
    )
