"""CIFAR-10 out of its published archive of bytes, whose hash is checked."""

import hashlib
import os
import shutil
import tarfile
import zlib
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import platformdirs
import xarray as xr
from numpy.typing import NDArray

from skild_physics.claims import replacing
from skild_physics.fields.images import RGB, Split
from skild_physics.fields.lazy import labelled, scaled
from skild_physics.files import InputError
from skild_physics.progress import logger

ARCHIVE = "cifar-10-binary.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
BYTES = 170_052_171
SIZE = 32
TIMEOUT = 60
"""Seconds without an answer."""

_MEMBERS = {
    "train": [f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)],
    "test": ["cifar-10-batches-bin/test_batch.bin"],
}
_LABEL, _PIXELS = 1, 3 * SIZE**2
"""Bytes of a picture's class, and of the picture that follows: red, green and blue by rows."""


def cifar10(data_dir: str | Path | None = None, split: Split = "train") -> xr.DataArray:
    """The photographs of CIFAR-10, 32 x 32 in three channels, as float32 in [-1, 1].

    Args:
        data_dir: folder of the archive; None: the user's cache. It is downloaded if not there.
        split: "train", 50,000 pictures, or "test", 10,000.

    Raises:
        InputError: the archive cannot be downloaded, or is not the published one.
    """
    path = _archive(Path(data_dir) if data_dir else platformdirs.user_cache_path("skild_physics"))
    pixels = _pixels(path, _MEMBERS[split])
    name = "cifar10" if split == "train" else "cifar10-test"
    return labelled(lambda numbers: scaled(pixels[numbers]), len(pixels), SIZE, RGB, "cosine", name)


def _archive(folder: Path) -> Path:
    path = folder / ARCHIVE
    if not os.path.exists(path):
        _download(path)
    try:
        found, size = _digest(path), path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if found != SHA256:
        raise InputError(
            f"{path}: not the published archive: {size:,} bytes, SHA-256 {found[:8]}..., "
            f"expected {BYTES:,} bytes, {SHA256[:8]}...; delete it and run again"
        )
    return path


def _download(path: Path) -> None:
    logger.info(f"downloading {URL}, {BYTES:,} bytes, to {path}")
    remedy = f"download it elsewhere and put it at {path}, or pass `data_dir=FOLDER`"
    try:
        with replacing(path) as temporary:
            with urlopen(URL, timeout=TIMEOUT) as answer, open(temporary, "wb") as file:
                shutil.copyfileobj(answer, file)
            if _digest(temporary) != SHA256:
                raise InputError(f"cannot download {URL} (it has another checksum); {remedy}")
    except (OSError, HTTPException) as error:
        reason = str(getattr(error, "reason", None) or error)
        raise InputError(f"cannot download {URL} ({reason}); {remedy}") from None


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pixels(path: Path, members: list[str]) -> NDArray[np.uint8]:
    """All pictures of some members, shape (n, 3, 32, 32), read in one pass over the archive."""
    found = {}
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.name in members else None
                if file is not None:
                    stored = np.frombuffer(file.read(), np.uint8)
                    found[member.name] = stored.reshape(-1, _LABEL + _PIXELS)[:, _LABEL:]
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}: {error})") from None
    missing = [name for name in members if name not in found]
    if missing:
        raise InputError(f"{path}: has no {missing[0]}")
    return np.concatenate([found[name] for name in members]).reshape(-1, 3, SIZE, SIZE)
