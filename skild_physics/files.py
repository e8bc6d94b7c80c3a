"""Writing files that are either the old one or the new one, never half of each."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path, scratch: Path | None = None) -> Iterator[Path]:
    """A temporary path that replaces ``path`` when the block ends without an error.

    Args:
        path: the file to replace.
        scratch: folder of the temporary file, on the same file system; None: that of ``path``.

    Raises:
        OSError: the directory cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = (scratch or path.parent) / f".{path.name}.{os.getpid()}.tmp"
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: str | Path, overwrite: bool) -> Path:
    """The output path, if it may be written.

    Raises:
        ValueError: it exists and ``overwrite`` is not set, is a directory, or cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a directory")
    if path.exists() and not overwrite:
        raise ValueError(f"{path}: exists already; pass --overwrite to replace it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path}: cannot make its folder ({error.strerror})") from None
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path}: cannot write in {path.parent}")
    return path
