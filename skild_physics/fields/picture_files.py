"""Files of pictures: which there are, in what order, what they are called and how large they are.

The order is the natural one, of which numbers are compared as numbers: 1.png, 2.png, 10.png.
"""

import os
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from skild_physics.fields.raw import is_zarr
from skild_physics.files import InputError
from skild_physics.progress import logger

PROVENANCE = "provenance.json"
"""In folders of pictures that are written here, how they were made."""
# Pillow only recognises most of these; for EPS it would run Ghostscript
_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)


def formats() -> list[str]:
    """What Pillow may decode."""
    Image.init()
    return [name for name in Image.ID if name not in _NOT_PICTURES]


def picture_suffixes() -> set[str]:
    """Suffixes, in lower case with their dot, of the files that are taken for pictures."""
    known = formats()
    return {suffix for suffix, name in Image.registered_extensions().items() if name in known}


def is_picture(path: str | Path) -> bool:
    """Whether this is the name of a picture, in upper or lower case."""
    return os.path.splitext(path)[1].lower() in picture_suffixes()


def holds_pictures(source: Any) -> bool:
    """Whether a source of fields is a folder or the file of a picture."""
    if not isinstance(source, str | Path):
        return False
    path = Path(source)
    return not is_zarr(path) if path.is_dir() else path.is_file() and is_picture(path)


def find_pictures(source: str | Path) -> tuple[Path, list[str]]:
    """A folder and the paths of the pictures below it, relative to it, in natural order.

    Folders that are symbolic links are followed; one that was seen already is not read again.
    Hidden files and folders are not looked at.

    Args:
        source: the folder, or a single picture in one.

    Raises:
        InputError: no pictures, or a folder that cannot be read.
    """
    source = Path(source)
    if not source.is_dir():
        return source.parent, [source.name]
    files = _below(source)
    if not files:
        raise InputError(f"{source}: no pictures in this folder")
    return source, files


def _below(folder: Path) -> list[str]:
    def stop(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})")

    suffixes = picture_suffixes()
    seen, found = {os.path.realpath(folder): str(folder)}, []
    for where, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        paths = [os.path.join(where, n) for n in sorted(folders) if not n.startswith(".")]
        new = []
        for path in paths:
            same = seen.setdefault(os.path.realpath(path), path)
            if same == path:
                new.append(os.path.basename(path))
            else:
                logger.warning(f"{path}: is the same folder as {same}, and not read twice")
        folders[:] = new
        for name in names:
            path = os.path.join(where, name)
            if name.startswith("."):
                continue
            if os.path.splitext(name)[1].lower() in suffixes:
                if os.path.exists(path) and not os.path.isfile(path):
                    # a pipe or a device may never end
                    logger.warning(f"{path}: is no file, and left out")
                else:
                    found.append(os.path.relpath(path, folder))
            elif os.path.islink(path) and not os.path.exists(path):
                logger.warning(f"{path}: is a broken link, and left out")
    return sorted(found, key=_natural)


def _natural(file: str) -> tuple[list[list[str | int]], str]:
    # every second piece is a number
    pieces = [re.split(r"(\d+)", part) for part in os.path.splitext(file)[0].split(os.sep)]
    return [[int(p) if i % 2 else p for i, p in enumerate(each)] for each in pieces], file


def picture_names(files: list[str]) -> list[str]:
    """What pictures are called: their paths without suffix, but for those that differ in it alone.

    Args:
        files: paths relative to a folder.
    """
    # what is no Unicode in a name could not be written into files
    shown = [os.fsencode(file).decode(errors="replace").replace(os.sep, "/") for file in files]
    stems = [os.path.splitext(file)[0] for file in shown]
    times = Counter(stems)
    return [stem if times[stem] == 1 else file for stem, file in zip(stems, shown, strict=True)]


def stored_size(path: Path) -> tuple[int, int] | None:
    """Width and height as they are stored, of the header; None if it cannot be read."""
    return _header(path, upright=False)


def upright_size(path: Path) -> tuple[int, int] | None:
    """Width and height of a picture that is turned as its EXIF data say; None if damaged."""
    return _header(path, upright=True)


def _header(path: Path, *, upright: bool) -> tuple[int, int] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=formats()) as opened:
                width, height = opened.size
                turned = upright and opened.getexif().get(_ORIENTATION) in _TURNED
    except Exception:
        # reading the picture says which are damaged and why
        return None
    return (height, width) if turned else (width, height)


def common_size(source: str | Path, folder: Path, files: list[str]) -> int:
    """Pixels per side of the pictures of a folder, or of one, of which the headers are read.

    Args:
        source: the folder or the picture.
        folder: with ``files`` what :func:`find_pictures` finds there.
        files: paths below it.

    Raises:
        InputError: they are not squares of one size, or none can be read.
    """
    sizes: dict[tuple[int, int], str] = {}
    is_folder = os.path.isdir(source)
    for file in files:
        size = stored_size(folder / file)
        if size is None:
            continue
        sizes.setdefault(size, file)
        if len(sizes) > 1 or size[0] != size[1]:
            shown = ", ".join(f"{name}: {w} x {h}" for (w, h), name in sizes.items())
            what = (
                f"pictures that are not squares of one size ({shown})"
                if is_folder
                else f"{size[0]} x {size[1]} pixels are no square"
            )
            raise InputError(f"{source}: {what}; pass `size=N` for the central N x N pixels")
    if not sizes:
        what = "no readable pictures in this folder" if is_folder else "not a readable picture"
        raise InputError(f"{source}: {what}")
    return next(iter(sizes))[0]
