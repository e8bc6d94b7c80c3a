"""What fields are, by their content, so that what was made of them is known again."""

import hashlib
from pathlib import Path
from typing import Any

import xarray as xr

from skild_physics.fields.lazy import content, digest
from skild_physics.fields.picture_files import find_pictures, holds_pictures

_KNOWN = ("source", "basis", "boundary", "beta", "channels", "model", "protocol", "relaxed")


def identity(source: Any, fields: xr.DataArray) -> dict[str, Any]:
    """What tells fields from others, as plain values; of pictures in files, these need no decoding.

    Args:
        source: what was opened.
        fields: what it was opened as.

    Raises:
        InputError: it cannot be read.
    """
    values = pictures_content(source) if holds_pictures(source) else content(fields)
    return {
        "values": values,
        "shape": fields.shape,
        "known": {name: str(fields.attrs[name]) for name in _KNOWN if name in fields.attrs},
        "coords": {str(name): digest(each.values) for name, each in fields.coords.items()},
    }


def pictures_content(source: str | Path) -> str:
    """SHA-256 of the names and bytes of pictures in files."""
    folder, files = find_pictures(source)
    total = hashlib.sha256()
    for file in files:
        try:
            with open(folder / file, "rb") as picture:
                found = hashlib.file_digest(picture, "sha256").hexdigest()
        except OSError as error:
            # whether it may be left out is decided where it is decoded
            found = str(error.errno)
        total.update(f"{file}\0{found}\0".encode(errors="surrogateescape"))
    return total.hexdigest()
