"""CIFAR-10 out of its published archive, whose hash is checked and whose pickles run no code."""

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pooch
import xarray as xr
from numpy.typing import NDArray

from skild_physics.fields.images import RGB, Split
from skild_physics.fields.lazy import labelled, scaled
from skild_physics.files import InputError

ARCHIVE = "cifar-10-python.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
BYTES = 170_498_071
SIZE = 32

_MEMBERS = {
    "train": [f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)],
    "test": ["cifar-10-batches-py/test_batch"],
}
_reconstruct: Any = np.empty(0).__reduce__()[0]


def _dtype(name: Any, align: int, copy: int) -> np.dtype[Any]:
    # Python 2 stored the flags as integers, of which some versions of NumPy warn
    dtype: np.dtype[Any] = np.dtype(name, bool(align), bool(copy))
    return dtype


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and plain containers, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of an array")
        return _ADMITTED[module, name]


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
        remedy = f"download it elsewhere and put it at {path}, or pass `data_dir=FOLDER`"
        try:
            pooch.retrieve(URL, f"sha256:{SHA256}", fname=ARCHIVE, path=folder)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(f"cannot download {URL} ({reason}); {remedy}") from None
        except ValueError:
            raise InputError(
                f"cannot download {URL} (what came has another checksum); {remedy}"
            ) from None
    try:
        found, size = pooch.file_hash(str(path)), path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if found != SHA256:
        raise InputError(
            f"{path}: not the published archive: {size:,} bytes, SHA-256 {found[:8]}..., "
            f"expected {BYTES:,} bytes, {SHA256[:8]}...; delete it and run again"
        )
    return path


def _pixels(path: Path, members: list[str]) -> NDArray[np.uint8]:
    """All pictures of some members, shape (n, 3, 32, 32), read in one pass over the archive."""
    found = {}
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.name in members else None
                if file is not None:
                    # tar streams cannot seek, and pickle wants readline
                    stored = _ArrayUnpickler(io.BytesIO(file.read()), encoding="bytes").load()
                    found[member.name] = _checked(stored[b"data"])
    except Exception as error:
        # a damaged pickle or archive raises what it likes
        raise InputError(f"{path}: damaged ({type(error).__name__}: {error})") from None
    missing = [name for name in members if name not in found]
    if missing:
        raise InputError(f"{path}: has no {missing[0]}")
    return np.concatenate([found[name] for name in members])


def _checked(data: object) -> NDArray[np.uint8]:
    width = 3 * SIZE**2
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (width,):
        raise InputError(f"its pictures are not uint8 of shape (n, {width})")
    return data.reshape(-1, 3, SIZE, SIZE)
