"""Whether what is asked for can be: the memory and the disk that it would take."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from skild_physics.files import InputError

MOST_COMPRESSED = 1032
"""Bytes that one byte of gzip can stand for, at most."""


def free_memory() -> int:
    """Bytes that this process could still use."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if "MemAvailable" in line)
    with suppress(OSError, ValueError):
        # of a container
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, max(0, limit - used))
    return free


def check_memory(what: str, size: float) -> None:
    """Refuse what does not fit into the memory.

    Args:
        what: would take it, for the message.
        size: bytes, at least.

    Raises:
        InputError: there are fewer.
    """
    free = free_memory()
    if size > free:
        raise InputError(
            f"{what} would take {_shown(size)} of memory, of which {_shown(free)} are free"
        )


def check_disk(what: str, folder: Path, size: float) -> None:
    """Refuse what does not fit onto the disk.

    Args:
        what: would take it, for the message.
        folder: where it is to lie, or to be made.
        size: bytes, at least.

    Raises:
        InputError: there are fewer.
    """
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        raise InputError(
            f"{what} would take {_shown(size)} of disk, of which {_shown(free)} are free"
        )


def _shown(size: float) -> str:
    return f"{size / 2**30:,.3g} GiB"
