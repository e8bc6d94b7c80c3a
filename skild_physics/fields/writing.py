"""Fields out of the package: HDF5, folders of PNG pictures, .npz archives.

Pictures are 8 bits: -1 .. 1 is rounded to 0 .. 255, and what lies outside is clipped, counted and
said. In a folder they keep the names of the pictures that they were made of. An .npz archive holds
uint8 (sample, y, x, channel) as its first array, arr_0, which the evaluators of the ADM and EDM
families read. Everything is written batch by batch, in bounded memory.
"""

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from skild_physics.claims import (
    check_unfinished,
    claimed,
    discard,
    replacing,
    replacing_folder,
)
from skild_physics.fields.clipping import Clipping, are_made, pixels
from skild_physics.fields.hdf5 import check_attributes, write_hdf5
from skild_physics.fields.lazy import (
    BATCH_VALUES,
    batches,
    channels_of,
    content,
    digest,
    named_channels,
    slices,
)
from skild_physics.fields.picture_files import PROVENANCE, is_picture
from skild_physics.fields.sources import open_fields
from skild_physics.files import InputError, check_folder, check_output, check_regular, json_text
from skild_physics.progress import logger
from skild_physics.requests import REQUEST, is_made, request

Kind = Literal["hdf5", "png", "npz"]
Arrays = Mapping[str, NDArray[Any]]
# what would be taken for another format
_OTHERS = {".npy", ".pt", ".pth", ".zarr", ".txt", ".csv", ".tsv", ".dat", ".gz", ".zip", ".json"}
_FILES = "files"
# what is known of a field that was made of another: where that comes from
_KEPT = ("sample", "chain", "picture", "name", "channel")
START = "start_sha256"
"""Says of fields what they started from, where that is a file of its own."""
# what a file says of itself
_OWN = ("schema", "schema_version", "package_version", "source")
# what inputs are called, which are known again by what they hold
_NAMES = ("input", "checkpoint")


def output_kind(path: Path) -> Kind:
    """A folder of PNG files if there is no suffix, .npz, or else HDF5."""
    return "png" if not path.suffix else "npz" if path.suffix.lower() == ".npz" else "hdf5"


def check_fields_output(path: str | Path) -> Kind:
    """The kind of an output, if fields may be written there at all.

    Raises:
        InputError: what :func:`skild_physics.files.check_output` raises even if an older result may
            be replaced; or a file where a folder is due, or one that is not empty and not of
            pictures written here, which nothing replaces; or the name of one picture or of a file
            of another format.
    """
    path = Path(path)
    kind = output_kind(path)
    if is_picture(path):
        raise InputError(
            f"{path}: is the name of one picture; pictures go into a folder, a name without a "
            "suffix"
        )
    if path.suffix.lower() in _OTHERS:
        raise InputError(
            f"{path}: fields are written as HDF5 (.h5), .npz or, without a suffix, as pictures, "
            f"not as {path.suffix}"
        )
    if kind != "png":
        check_output(path, overwrite=True)
        return kind
    check_regular(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; a name without a suffix is that of a folder")
    _check_ours(path)
    check_folder(path.parent)
    return kind


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
        InputError: the output may not be written, see :func:`check_fields_output`, or holds other
            fields and ``overwrite`` is not set; or 8 bits for fields that nothing here made, of
            which more than 1 % lies outside [-1, 1].

    >>> import numpy as np, tempfile
    >>> import skild_physics as sk
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sk.save(np.zeros((3, 8, 8)), f"{folder}/zeros.h5").shape
    (3, 8, 8)
    """
    kind = check_fields_output(out)
    fields = open_fields(fields)
    is_spins = kind == "hdf5" and fields.dtype == np.int8
    attributes = {**fields.attrs, "channels": ",".join(channels_of(fields))}
    made = _spins(fields) if is_spins else batches(fields)
    return made_from(made, fields, attributes, out, overwrite)


def _spins(fields: xr.DataArray) -> Iterator[NDArray[np.int8]]:
    """Spins in batches as they are, (n, 1, y, x)."""
    for part in slices(0, len(fields), max(1, BATCH_VALUES // fields[0].size)):
        yield fields[part].values[:, None]


def made_from(
    made: Iterable[NDArray[Any]],
    given: xr.DataArray,
    attributes: Mapping[str, Any],
    out: str | Path | None,
    overwrite: bool = False,
) -> xr.DataArray:
    """Fields made one by one of given ones, in memory or, if there is ``out``, in a file.

    Args:
        made: batches (n, channel, y, x), as many fields as given.
        given: what they were made of; their `sample`, `chain`, `picture` and `name` are kept.
        attributes: how they were made; None: does not apply.
        out: file to write, see :func:`save`.
        overwrite: replace other fields.
    """
    # what they are made of was asked for in another way
    dropped = (REQUEST, START, *_OWN)
    attrs = {k: v for k, v in attributes.items() if v is not None and k not in dropped}
    if out is None:
        return in_memory({"field": np.concatenate(list(made))}, attrs, given)
    out = Path(out)
    attrs[REQUEST] = requested(
        out, attrs, given, fields=content(given), dtype=str(given.dtype), shape=list(given.shape)
    )
    if is_made(out, attrs[REQUEST], overwrite):
        return reopened(out, attrs, given)
    parts = ({"field": batch} for batch in made)
    with claimed(out):
        check_unfinished(out, overwrite)
        written = write_fields(out, parts, len(given), attrs, given)
        discard(out)
    return written


def requested(
    out: Path, attributes: Mapping[str, Any], given: xr.DataArray | None, **others: Any
) -> str:
    """The request that fields are made for; nothing is written yet.

    Args:
        out: the file or folder.
        attributes: how they are made, but for the names of inputs, which say nothing.
        given: what they are made of, which they are named and numbered after.
        others: what else they depend on.

    Raises:
        InputError: attributes that files cannot hold.
    """
    plain = {name: _plain(value) for name, value in attributes.items()}
    check_attributes(plain, out)
    known = {name: digest(each.values) for name, each in _kept(given).items()}
    made = {name: value for name, value in plain.items() if name not in _NAMES}
    return request(output=output_kind(out), made=made, known=known, **others)


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
    coords |= {name: each for name, each in _kept(given).items() if set(each.dims) <= set(dims)}
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
            shape, (sample, channel, y, x); with uint8 perhaps `outside` (sample,), how many values
            of each were clipped.
        count: number of fields.
        attributes: how they were made, plain values or those of NumPy.
        given: what they were made of.

    Raises:
        InputError: pictures of other than one or three channels, or, of fields that nothing here
            made, more than 1 % of the values outside [-1, 1].
    """
    kind = output_kind(path)
    made = {k: _plain(v) for k, v in attributes.items() if k not in _OWN}
    kept = _kept_of_samples(given)
    if kind == "hdf5":
        write_hdf5(path, parts, made, {"sample": np.arange(count)} | kept)
        return open_fields(path)
    stored = _bytes(path, parts, count, are_made(attributes))
    if kind == "npz":
        write_npz(path, stored, count, made, kept)
    else:
        write_png(path, stored, count, made, _file_names(path, given, count))
    return reopened(path, attributes, given)


def reopened(
    path: Path, attributes: Mapping[str, Any], given: xr.DataArray | None = None
) -> xr.DataArray:
    """Fields that :func:`write_fields` wrote, with what the file cannot say of itself."""
    written, kind = open_fields(path), output_kind(path)
    if kind == "hdf5":
        return written
    if kind == "png":
        names = _file_names(path, given, len(written))
        if names is None:
            written = written.drop_vars("name")
        else:
            # a folder is read in the order of its names
            place = {name: i for i, name in enumerate(written["name"].values)}
            written = written[[place[name] for name in names]]
    made = {k: _plain(v) for k, v in attributes.items()}
    return named_channels(written.assign_attrs(made).assign_coords(_kept_of_samples(given)))


def _kept_of_samples(given: xr.DataArray | None) -> dict[str, Any]:
    return {k: v for k, v in _kept(given).items() if v.dims == ("sample",)}


def _bytes(
    path: Path, parts: Iterable[Arrays], count: int, are_ours: bool
) -> Iterator[NDArray[np.uint8]]:
    advice = "write HDF5, which holds all numbers, or fields in [-1, 1]"
    clipping: Clipping | None = None
    for part in parts:
        field = part["field"]
        if clipping is None:
            total = count * int(np.prod(field.shape[1:]))
            clipping = Clipping(str(path), total, None if are_ours else advice)
        if field.dtype == np.uint8:
            clipping.count += int(np.sum(part.get("outside", 0)))
            yield field
        else:
            clipping.see(field)
            yield pixels(field)
    if clipping is not None:
        clipping.say()


def _file_names(path: Path, given: xr.DataArray | None, count: int) -> list[str] | None:
    """Names of the pictures that fields were made of, if files can be called so; or None."""
    if given is None or "name" not in given.coords:
        return None
    names = [str(name) for name in given["name"].values]
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    # of a foreign file they may be anything, and must not lead out of the folder
    parts = [part for name in names for part in name.split("/")]
    if any(not part or part.startswith(".") or "\0" in part for part in parts):
        reason = "are no names of files"
    elif len(set(names)) < count:
        reason = "are those of several"
    elif not folders.isdisjoint(f"{name}.png" for name in names):
        reason = "are those of folders too"
    else:
        return names
    logger.info(f"{path}: pictures are numbered, for the names of what they were made of {reason}")
    return None


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def write_png(
    folder: Path,
    parts: Iterable[NDArray[np.uint8]],
    count: int,
    made: Mapping[str, Any],
    names: Sequence[str] | None = None,
) -> None:
    """A folder of PNG pictures, all of it or nothing, with its provenance.

    Args:
        folder: a new or empty one, or one of such pictures, which is replaced.
        parts: pixels, shape (sample, channel, y, x), of one or three channels.
        count: number of pictures.
        made: how they were made.
        names: of the pictures, without suffix, perhaps in subfolders, which the provenance lists
            then; None: 000000, 000001, ...

    Raises:
        InputError: other numbers of channels.
    """
    files = [f"{name}.png" for name in names] if names else None
    with replacing_folder(folder) as temporary:
        for number, picture in zip(range(count), chain.from_iterable(parts), strict=True):
            if len(picture) not in (1, 3):
                raise InputError(
                    f"{folder}: pictures have one or three channels, not {len(picture)}; HDF5 and "
                    ".npz files have any number"
                )
            shown = np.moveaxis(picture, 0, -1)
            file = temporary / (files[number] if files else f"{number:06d}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(shown.squeeze(-1) if shown.shape[-1] == 1 else shown).save(file)
        said = dict(made) | ({_FILES: files} if files else {})
        (temporary / PROVENANCE).write_text(json_text(said, indent=2))
        # somebody may have put something there meanwhile
        _check_ours(folder)


def write_npz(
    path: Path,
    parts: Iterable[NDArray[np.uint8]],
    count: int,
    made: Mapping[str, Any],
    coordinates: Mapping[str, Any] = {},
) -> None:
    """An .npz archive with arr_0 uint8 (sample, y, x, channel) and the text provenance.

    Args:
        path: the file.
        parts: pixels, shape (sample, channel, y, x).
        count: number of pictures.
        made: how they were made.
        coordinates: what there is of each, (sample,), in arrays of these names.
    """
    texts = {"provenance": np.array(json_text(dict(made), indent=2))}
    for name, known in coordinates.items():
        column = np.asarray(known)
        texts[name] = column.astype(str) if column.dtype == object else column
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            _stream(file, count, (np.moveaxis(part, 1, -1) for part in parts))
        for name, array in texts.items():
            with archive.open(f"{name}.npy", "w") as file:
                npy.write_array(file, array, allow_pickle=False)


def write_npy(path: Path, parts: Iterable[NDArray[Any]], count: int) -> None:
    """An .npy file of so many fields, of the type and shape of the first part."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        _stream(file, count, parts)


def values_digest(parts: Iterable[NDArray[Any]]) -> str:
    """SHA-256 of an array that comes in parts along its first axis."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(np.ascontiguousarray(part).data)
    return whole.hexdigest()


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


def _check_ours(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not _is_ours(folder):
        raise InputError(f"{folder}: holds other files; choose an empty or a new folder")


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds pictures that were written here, and nothing else."""
    found = [
        Path(os.path.relpath(os.path.join(where, name), folder))
        for where, folders, names in os.walk(folder)
        for name in (*folders, *names)
    ]
    try:
        made = json.loads((folder / PROVENANCE).read_text())
        listed = {Path(file) for file in made.get(_FILES, [])}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return False
    ours = listed | {parent for file in listed for parent in file.parents} | {Path(PROVENANCE)}
    return not any((folder / path).is_symlink() for path in found) and all(
        path in ours or (not listed and re.fullmatch(r"\d{6,}\.png", str(path))) for path in found
    )
