"""One process at a time makes a result; it is old or new at any death, and known again.

What is to become ``NAME`` is prepared in the folder ``.NAME.skild-physics`` beside it: temporaries,
and shards of what takes long. A folder that fills with several results has ``.skild-physics`` in
it. The file `lock` in it marks such a folder as this program's and is locked by the process that
has it; nothing in a folder without it is touched. The folder goes when the result is there; after a
death the next run of the same command finds it, and goes on or clears it away.

A result carries, as `request`, a digest of all that it depends on, so the same command knows that
it is done, and another one that it would replace something else.
"""

import errno
import fcntl
import filecmp
import hashlib
import json
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np

from skild_physics.files import HDF5, InputError, check_output
from skild_physics.progress import logger

LOCK = "lock"
TEMPORARY = "tmp-"
"""What the names of unfinished files in the folder of a result begin with."""
NOTE = ".json"
"""What the names of files end with that say what shards belong to."""
REQUEST = "request"
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
