"""A result knows what it was made for, so that the same command knows that it is done.

A result carries, as `request`, a digest of all that it depends on: contents of inputs, weights,
parameters, and neither names nor sizes of batches. Another command finds that it would replace
something else.
"""

import filecmp
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from skild_physics.claims import claimed, discard, replacing, work_folder
from skild_physics.files import HDF5, InputError, check_output
from skild_physics.progress import logger

REQUEST = "request"


def request(**asked: Any) -> str:
    """A digest of all that a result depends on, plain values by name."""
    text = json.dumps(_plain(asked), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """The same of 6, 6.0 and NumPy's."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return int(value) if isinstance(value, float) and value.is_integer() else value


def recorded(path: Path, name: str = REQUEST) -> str | None:
    """The request that a result was made for, or something else of itself, if it says so.

    Args:
        path: HDF5, NetCDF, .npz, .safetensors, or a folder.
        name: of the attribute.
    """
    try:
        if not os.path.isfile(path) and not path.is_dir():
            # a pipe may never answer
            return None
        if path.is_dir():
            text = (path / "provenance.json").read_text()
            return str(json.loads(text)[name])
        with open(path, "rb") as file:
            begins = file.read(len(HDF5))
        if begins == HDF5:
            # imported here: most callers write other files
            from skild_physics.heaps import open_hdf5

            with open_hdf5(path) as data:
                return str(data.attrs[name])
        if path.suffix == ".safetensors":
            # imported here: with torch, which most callers can do without
            from safetensors import safe_open

            with safe_open(path, framework="numpy") as tensors:
                return str(tensors.metadata()[name])
        if zipfile.is_zipfile(path):
            with np.load(path, allow_pickle=False) as arrays:
                return str(json.loads(str(arrays["provenance"]))[name])
    except Exception:
        # whatever it is, it is not known
        return None
    return None


def check_derived(path: str | Path, overwrite: bool, *of: str | Path | None) -> Path:
    """The path of what is drawn or written of results, if it may be written.

    A file that is there before the results is not of them.

    Args:
        path: of a figure or table.
        overwrite: replace whatever is there.
        of: the results; None: one that is not kept.

    Raises:
        InputError: as :func:`skild_physics.files.check_output`.
    """
    known = overwrite or all(each is not None and os.path.exists(each) for each in of)
    return check_output(path, overwrite=known)


@contextmanager
def derived(path: str | Path, overwrite: bool) -> Iterator[Path]:
    """As :func:`replacing`, but a file that holds something else is kept.

    Args:
        path: what is written.
        overwrite: replace it in any case.

    Raises:
        InputError: there is such a file, and ``overwrite`` is not set.
    """
    with replacing(path) as temporary:
        yield temporary
        is_there = not overwrite and os.path.lexists(path)
        if is_there and not filecmp.cmp(temporary, path, shallow=False):
            raise InputError(f"{path}: exists already; pass `overwrite=True` to replace it")


def check_result(out: str | Path, overwrite: bool) -> Path:
    """The path of a result, if it may be written; whether it is there already is for `is_made`.

    Raises:
        InputError: as :func:`skild_physics.files.check_output`, but for a result that says what it
            was made for.
    """
    known = overwrite or (os.path.lexists(out) and recorded(Path(out)) is not None)
    return check_output(out, overwrite=known)


def matches(out: Path, asked: str, overwrite: bool) -> bool:
    """Whether a result is there already, and is not to be made again.

    Args:
        out: the result.
        asked: its request.
        overwrite: make it again.

    Raises:
        InputError: there is another one, and ``overwrite`` is not set.
    """
    if overwrite or not os.path.lexists(out):
        return False
    if out.is_dir() and not os.listdir(out):
        return False
    if recorded(out) != asked:
        raise InputError(f"{out}: exists already; pass `overwrite=True` to replace it")
    return True


def is_made(out: Path, asked: str, overwrite: bool) -> bool:
    """As :func:`matches`; what an interruption left of such a result is cleared away then."""
    found = matches(out, asked, overwrite)
    if found:
        clear(out)
        logger.info(f"{out}: made already")
    return found


def clear(out: Path) -> None:
    """Clear away what an interruption left of a result that is there."""
    # of the processes that torchrun starts, one writes
    if os.environ.get("RANK", "0") == "0" and work_folder(out).exists():
        with claimed(out):
            discard(out)
