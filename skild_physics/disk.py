"""HDF5 onto a disk that may be full.

HDF5 cannot close a file that it failed to write, and crashes the process when it tries again at its
end. So it writes through a file object whose failures it does not see: what does not reach the disk
any more stays in memory until the file is closed, and is an error then.
"""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5netcdf
import xarray as xr

from skild_physics.claims import replacing
from skild_physics.requests import REQUEST


class Disk(io.RawIOBase):
    """What HDF5 writes to, see :func:`onto_disk`."""

    def __init__(self, file: io.FileIO):
        self._file = file
        self._failure: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []
        self._at = 0

    def check(self) -> None:
        """Say of what was written so far that it did not reach the disk.

        Raises:
            OSError: it did not.
        """
        if self._failure is not None:
            raise self._failure

    # what h5py calls

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Where to go on."""
        self._at = offset if whence == os.SEEK_SET else self._file.seek(offset, whence)
        return self._at

    def tell(self) -> int:
        """Where it is."""
        return self._at

    def write(self, data: Any, /) -> int:
        """Write, or keep what cannot be written."""
        at, left = self._at, memoryview(data).cast("B")
        self._at += len(left)
        size = len(left)
        try:
            self.check()
            self._file.seek(at)
            while left:
                written = self._file.write(left) or 0
                at, left = at + written, left[written:]
        except OSError as error:
            self._failure = error
            self._unwritten.append((at, bytes(left)))
        return size

    def readinto(self, buffer: Any, /) -> int:
        """Read what was written, and zeros beyond it."""
        into = memoryview(buffer).cast("B")
        begin, end = self._at, self._at + len(into)
        self._file.seek(begin)
        read = self._file.readinto(into) or 0
        into[read:] = bytes(len(into) - read)
        for at, data in self._unwritten:
            first, last = max(begin, at), min(end, at + len(data))
            if first < last:
                into[first - begin : last - begin] = data[first - at : last - at]
        self._at = end
        return len(into)

    def truncate(self, size: int | None = None, /) -> int:
        """Set the size."""
        try:
            self.check()
            return self._file.truncate(size)
        except OSError as error:
            self._failure = error
            return self._at

    def flush(self) -> None:
        """Nothing is buffered."""


@contextmanager
def onto_disk(path: Path, *, grow: bool = False) -> Iterator[Disk]:
    """A file that h5py.File and h5netcdf.File take in place of a path, to write HDF5.

    They must be closed within the block. Before long work is gone on with, ``check`` of it says
    whether the disk still takes what is written.

    Args:
        path: the file.
        grow: it is there already.

    Raises:
        OSError: at the end of the block, the disk did not take it all.
    """
    with open(path, "r+b" if grow else "w+b", buffering=0) as file:
        disk = Disk(file)
        try:
            yield disk
        except Exception:
            # whatever followed from it
            disk.check()
            raise
        disk.check()


def checked(variable: xr.Variable | xr.DataArray) -> dict[str, Any]:
    """How the values of an array are written, so that damage to them is found: with Fletcher32.

    Texts and single numbers, which HDF5 keeps elsewhere, have no checksum.
    """
    is_array = variable.ndim and variable.size and variable.dtype.kind in "biuf"
    return {"fletcher32": True} if is_array else {}


def write_netcdf(
    path: str | Path, groups: Mapping[str | None, xr.Dataset], request: str | None = None
) -> None:
    """Write a NetCDF-4 file with checksums, replacing an existing one at once.

    Args:
        path: the file.
        groups: what it holds, by the names of its groups; None: its root.
        request: what it was made for, an attribute of the root, see :mod:`skild_physics.claims`.

    Raises:
        OSError: it cannot be written; there is what was there before.
    """
    with (
        replacing(path) as temporary,
        onto_disk(temporary) as disk,
        h5netcdf.File(disk, "w") as file,
    ):
        for group, dataset in groups.items():
            store = xr.backends.H5NetCDFStore(file, group=group, mode="a")
            encoding = {str(name): checked(each) for name, each in dataset.variables.items()}
            dataset.dump_to_store(store, encoding=encoding)
        if request is not None:
            file.attrs[REQUEST] = request
