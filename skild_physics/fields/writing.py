"""Fields out of the package: HDF5, folders of PNG pictures, .npz archives, .npy arrays.

Pictures are 8 bits: -1 .. 1 is rounded to 0 .. 255, and what lies outside is clipped. An .npz
archive holds uint8 (sample, y, x, channel) as its first array, arr_0, which the evaluators of the
ADM and EDM families read.
"""

import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from skild_physics.fields.lattice import save_fields
from skild_physics.files import InputError, check_folder, check_output, json_text, replacing

Kind = Literal["hdf5", "png", "npz"]
PROVENANCE = "provenance.json"


def output_kind(path: Path) -> Kind:
    """A folder of PNG files if there is no suffix, .npz, or else HDF5."""
    return "png" if not path.suffix else "npz" if path.suffix == ".npz" else "hdf5"


def check_fields_output(path: Path, overwrite: bool) -> Kind:
    """The kind of an output, if it may be written.

    Raises:
        InputError: as :func:`skild_physics.files.check_output`; or a file where a folder is due, or
            one that is not empty and not of pictures written here, which nothing replaces.
    """
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


def write_fields(path: Path, fields: NDArray[np.floating], made: Mapping[str, Any]) -> None:
    """Fields (sample, channel, y, x) in the format that the suffix of ``path`` names."""
    kind = output_kind(path)
    if kind == "hdf5":
        squeezed = fields[:, 0] if fields.shape[1] == 1 else fields
        save_fields(path, squeezed.astype(np.float32), dict(made))
    elif kind == "npz":
        write_npz(path, [pixels(fields)], fields.shape, made)
    else:
        write_png(path, [pixels(fields)], made)


def write_png(folder: Path, batches: Iterable[NDArray[np.uint8]], made: Mapping[str, Any]) -> None:
    """A folder of 000000.png, 000001.png, ..., all of it or nothing, with its provenance.

    Args:
        folder: a new or empty one, or one of such pictures, which is replaced.
        batches: pixels, shape (sample, channel, y, x), of one or three channels.
        made: how they were made.
    """
    temporary = folder.parent / f".{folder.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    number = 0
    for batch in batches:
        for picture in np.moveaxis(batch, 1, -1):
            Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(
                temporary / f"{number:06d}.png"
            )
            number += 1
    (temporary / PROVENANCE).write_text(json_text(dict(made), indent=2))
    if folder.exists():
        shutil.rmtree(folder)
    temporary.replace(folder)


def write_npz(
    path: Path,
    batches: Iterable[NDArray[np.uint8]],
    shape: tuple[int, ...],
    made: Mapping[str, Any],
) -> None:
    """An .npz archive with arr_0 uint8 (sample, y, x, channel) and the text provenance.

    Args:
        path: the file.
        batches: pixels, shape (sample, channel, y, x).
        shape: of all of them together.
        made: how they were made.
    """
    count, channels, height, width = shape
    provenance = np.array(json_text(dict(made), indent=2))
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            _stream(file, (count, height, width, channels), np.uint8, _channels_last(batches))
        with archive.open("provenance.npy", "w") as file:
            npy.write_array(file, provenance, allow_pickle=False)


def write_npy(path: Path, batches: Iterable[NDArray[np.float32]], shape: tuple[int, ...]) -> None:
    """float32 fields of ``shape``, (sample, channel, y, x), in an .npy file."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        _stream(file, shape, np.float32, batches)


def _stream(
    file: Any, shape: tuple[int, ...], dtype: type, batches: Iterable[NDArray[Any]]
) -> None:
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    npy.write_array_header_2_0(file, header)
    for batch in batches:
        file.write(np.ascontiguousarray(batch, dtype).tobytes())


def _channels_last(batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    for batch in batches:
        yield np.moveaxis(batch, 1, -1)


def _is_ours(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    return PROVENANCE in names and all(
        re.fullmatch(r"\d{6,}\.png", name) for name in names - {PROVENANCE}
    )
