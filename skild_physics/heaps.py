"""Texts of HDF5 files lie in heaps; the library walks a damaged one in a circle, for ever.

A heap begins with `GCOL`, its version and its size. Objects follow one another, each with a header
of 16 bytes: its number (two bytes; 0: what follows is free), and in the last 4 or 8 of them its
size, without the header if it has a number and with it if it is free space. A step of none is the
circle. (HDF5 File Format Specification 3.0, section III.E.)
"""

import os
import time
from functools import lru_cache
from pathlib import Path

import h5py

_BEGINS = b"GCOL\x01\0\0\0"
_HEADER = 16
_BLOCK = 2**22
_SETTLED = 2 * 10**9


def open_hdf5(path: str | Path) -> h5py.File:
    """An HDF5 file, open for reading, whose texts can be read.

    All of the file is read once, half a second for each gigabyte, or at every opening within two
    seconds of its last change.

    Raises:
        OSError: it is damaged, or cannot be opened.
    """
    file = h5py.File(path, "r")
    try:
        about = os.stat(path)
        length = file.id.get_create_plist().get_sizes()[1]
        # what was changed just now may change again within what the clock of files resolves
        is_old = time.time_ns() - about.st_mtime_ns > _SETTLED
        ends = _all_end if is_old else _all_end.__wrapped__
        if not ends(str(path), about.st_ino, about.st_size, about.st_mtime_ns, length):
            raise OSError("its texts are damaged")
    except BaseException:
        file.close()
        raise
    return file


@lru_cache(maxsize=256)
def _all_end(path: str, inode: int, size: int, changed: int, length: int) -> bool:
    with open(path, "rb") as file:
        begins, tail = 0, b""
        while block := file.read(_BLOCK):
            # one may begin in one block and end in the next
            seen = tail + block
            at = seen.find(_BEGINS)
            while at >= 0:
                file.seek(begins - len(tail) + at + len(_BEGINS))
                heap = int.from_bytes(file.read(length), "little")
                file.seek(begins - len(tail) + at)
                if not _has_end(file.read(min(heap, size)), length):
                    return False
                at = seen.find(_BEGINS, at + 1)
            begins += len(block)
            file.seek(begins)
            tail = seen[1 - len(_BEGINS) :]
    return True


def _has_end(heap: bytes, length: int) -> bool:
    """Whether a walk from object to object ends; if beyond the heap, the library says so."""
    at = _HEADER
    while len(heap) - at >= _HEADER:
        number = int.from_bytes(heap[at : at + 2], "little")
        held = int.from_bytes(heap[at + 8 : at + 8 + length], "little")
        step = (_HEADER + -(-held // 8) * 8 if number else held) % 2**64
        if not step:
            return False
        at += step
    return True
