"""One process at a time makes a result; it is old or new at any death.

What is to become ``NAME`` is prepared in the folder ``.NAME.skild-physics`` beside it: temporaries,
and shards of what takes long. A folder that fills with several results has ``.skild-physics`` in
it. The file `lock` in it marks such a folder as this program's and is locked by the process that
has it; nothing in a folder without it is touched. The folder goes when the result is there; after a
death the next run of the same command finds it, and goes on or clears it away.
"""

import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from skild_physics.files import InputError

LOCK = "lock"
TEMPORARY = "tmp-"
"""What the names of unfinished files in the folder of a result begin with."""
NOTE = ".json"
"""What the names of files end with that say what shards belong to."""
FILLING = ".skild-physics"
"""What the folder is called that is in one that fills with results."""
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)
_held: set[tuple[int, str]] = set()


def work_folder(out: Path) -> Path:
    """Where a result is prepared: beside the file itself, if its name is a link."""
    out = linked(out)
    return out.parent / f".{out.name}{FILLING}"


def linked(path: Path) -> Path:
    """What a link leads to, which is replaced in its place; other paths as they are."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def claimed(out: Path) -> AbstractContextManager[Path]:
    """The folder in which a result is prepared, which no other process has meanwhile.

    Within the block it may be claimed again. Unfinished files of a process that died are removed;
    when the block ends the folder is, too, unless something is kept in it.

    Args:
        out: the result, a file or a folder that appears at once.

    Raises:
        InputError: another process has it, or there is a folder of this name that is not of this
            program.
        OSError: the folder cannot be made.
    """
    return _claimed(work_folder(out), out)


def filling(folder: Path) -> AbstractContextManager[Path]:
    """As :func:`claimed`, for a folder that fills with results: all below it are prepared in it."""
    return _claimed(folder / FILLING, folder)


@contextmanager
def _claimed(work: Path, out: Path) -> Iterator[Path]:
    key = _key(work)
    if key in _held:
        yield work
        return
    made = [each for each in work.parents if not each.exists()]
    try:
        lock = _locked(work, out)
        _held.add(key)
        try:
            for unfinished in work.glob(f"{TEMPORARY}*"):
                remove(unfinished)
            yield work
        finally:
            _held.discard(key)
            with suppress(OSError):
                # somebody may have removed it, or another process have begun
                if os.listdir(work) == [LOCK]:
                    (work / LOCK).unlink()
                    work.rmdir()
            os.close(lock)
    finally:
        # folders in which nothing came to be
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def _key(work: Path) -> tuple[int, str]:
    return threading.get_ident(), os.path.realpath(work)


def _locked(work: Path, out: Path) -> int:
    """The descriptor that holds the lock of a folder, which is made."""
    while True:
        work.mkdir(parents=True, exist_ok=True)
        lock = work / LOCK
        try:
            names = os.listdir(work)
            if work.is_symlink() or (names and LOCK not in names):
                raise InputError(
                    f"{work}: is where {out.name} would be prepared, but holds other things; move "
                    "it"
                )
            held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            # whoever had it removed it at this moment
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            raise InputError(f"{out}: another process is writing it") from None
        except OSError:
            # a file system without locks
            pass
        try:
            if os.path.samestat(os.stat(lock), os.fstat(held)):
                return held
        except FileNotFoundError:
            pass
        os.close(held)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def discard(out: Path) -> None:
    """Remove all that is kept for a result, which must be claimed."""
    # what says whose the shards are last, lest a death in between makes them nobody's
    for each in sorted(work_folder(out).iterdir(), key=lambda path: path.suffix == NOTE):
        if each.name != LOCK:
            remove(each)


def check_unfinished(out: Path, overwrite: bool, note: str = "") -> None:
    """Refuse to discard what another command has begun of a result, which must be claimed.

    Args:
        out: the result.
        overwrite: discard it in any case.
        note: the name of the file in which this command says what its shards belong to.

    Raises:
        InputError: there is such a file of another command, and ``overwrite`` is not set.
    """
    work = work_folder(out)
    if not overwrite and any(path.name != note for path in work.glob(f"*{NOTE}")):
        raise InputError(
            f"{out}: {work} holds an interrupted run of another command; finish that, or pass "
            "`overwrite=True` to discard it"
        )


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path that replaces ``path`` when the block ends without an error.

    Raises:
        InputError: as :func:`claimed`.
        OSError: the directory cannot be written, or the disk is full; nothing has changed then.
    """
    path = Path(path)
    with _prepared(path) as work, placing(path, work) as temporary:
        yield temporary


@contextmanager
def placing(path: Path, work: Path) -> Iterator[Path]:
    """As :func:`replacing`, of a process that knows the claimed folder.

    Args:
        path: what is replaced.
        work: the folder, which this process or, of those that share a job, the first has claimed.

    Raises:
        InputError: somebody else wrote it within the block; it is kept.
    """
    path = linked(path)
    temporary = work / f"{TEMPORARY}{path.name}"
    before = _stamp(path)
    try:
        with _disk_errors(path):
            yield temporary
            _flush(temporary)
            path.parent.mkdir(parents=True, exist_ok=True)
            if _stamp(path) not in (before, None):
                raise InputError(f"{path}: was written by somebody else meanwhile, and is kept")
            os.replace(temporary, path)
            _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes of a file when somebody writes it; None: there is none."""
    try:
        about = path.lstat()
    except FileNotFoundError:
        return None
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Say which file it is that a disk does not take."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise OSError(f"{path}: cannot be written ({error.strerror})") from None
        raise


def _prepared(path: Path) -> AbstractContextManager[Path]:
    """Where a file is prepared: in the claimed folder that it is in, or that it helps to fill."""
    path = linked(path)
    if _key(path.parent) in _held:
        return nullcontext(path.parent)
    if _key(work_folder(path)) not in _held:
        for folder in path.absolute().parents:
            if _key(folder / FILLING) in _held:
                return nullcontext(folder / FILLING)
    return claimed(path)


def _flush(path: Path) -> None:
    """Make what was written to a file, or renamed in a folder, outlast a loss of power."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that replaces ``path`` when the block ends without an error.

    An older folder is moved aside first, so that a death in between leaves none; what it is made
    again of must be kept until then.

    Raises:
        InputError: as :func:`claimed`.
        OSError: as :func:`replacing`.
    """
    path = linked(path)
    with claimed(path) as work:
        temporary, old = work / f"{TEMPORARY}new", work / f"{TEMPORARY}old"
        try:
            with _disk_errors(path):
                temporary.mkdir()
                yield temporary
                # of thousands of files, at once
                os.sync()
                if path.is_dir() and os.listdir(path):
                    os.replace(path, old)
                try:
                    os.replace(temporary, path)
                except OSError:
                    if old.exists():
                        os.replace(old, path)
                    raise
                _flush(path.parent)
        finally:
            for each in (temporary, old):
                remove(each)
