"""What files may be written and read; errors of input."""

import errno
import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

HDF5 = b"\x89HDF\r\n\x1a\n"
"""What HDF5 files begin with."""


class InputError(ValueError):
    """Something that the caller gave is wrong; the message says what, in one line.

    A parameter is written in backticks, with a value where one is advised, as in "pass
    `overwrite=True` to replace it". The command line prints the option of that name in its place.

    >>> import skild_physics as sk
    >>> sk.open("missing.h5")
    Traceback (most recent call last):
    skild_physics.files.InputError: missing.h5: no such file or folder
    """

    def __init__(self, message: str):
        super().__init__(one_line(message))


LONGEST = 390
"""Characters of a message."""


def one_line(text: str) -> str:
    r"""A text as one line of at most :data:`LONGEST` characters, all of which can be printed.

    >>> one_line("two\nlines")
    'two lines'
    """
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.splitlines()))
    # the name of a file comes first, what to do about it last
    return line if len(line) <= LONGEST else f"{line[:265]} ... {line[-120:]}"


def is_locked(error: BaseException) -> bool:
    """Whether a file could not be opened because somebody has it open for writing.

    Args:
        error: what was raised, by HDF5 or by what called it.
    """
    found: BaseException | None = error
    while found is not None:
        # NumPy's and the system's own errors have the number, HDF5's have it in the text
        if "unable to lock file" in str(found) or getattr(found, "errno", None) == errno.EAGAIN:
            return True
        found = found.__cause__ or found.__context__
    return False


def meant(name: str, known: Iterable[str]) -> str:
    """What to add to an error about a name that is not known, if one that is known is like it.

    >>> meant("bundeld", ["bundled"])
    ", did you mean 'bundled'?"
    """
    near = get_close_matches(name, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def check_file(path: str | Path) -> Path:
    """A path, if it is that of a file: pipes and devices may never end.

    Raises:
        InputError: there is none, or it is something else.
    """
    path = Path(path)
    if not os.path.isfile(path):
        what = "is a folder, not a file" if os.path.isdir(path) else "is no file"
        raise InputError(f"{path}: {what if os.path.lexists(path) else 'no such file'}")
    return path


def check_regular(path: str | Path) -> None:
    """Refuse to replace what is neither a file nor a folder, whatever it is.

    Raises:
        InputError: it is a device, a pipe, or a link that leads nowhere.
    """
    if os.path.lexists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        is_link = os.path.islink(path) and not os.path.exists(path)
        what = "is a link that leads nowhere" if is_link else "is no file"
        raise InputError(f"{path}: {what}, and is not replaced; choose another name")


def check_none_given(given: Mapping[str, object], whose: str) -> None:
    """Refuse parameters that do not apply, instead of ignoring them.

    Args:
        given: their values by name; None, False and () were not given.
        whose: what they are for, as in "goes with the protocol observed".

    Raises:
        InputError: naming the first that was given.
    """
    for name, value in given.items():
        if value is not None and value is not False and value != ():
            raise InputError(f"`{name}` {whose}")


MAX_SEED = 2**63 - 1
"""HDF5 has no larger integers."""


def check_seed(seed: int) -> None:
    """Refuse a root seed that is out of range.

    Raises:
        InputError: it is.
    """
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"`seed` must lie in 0 .. {MAX_SEED}, got {seed}")


def check_output(path: str | Path, overwrite: bool) -> Path:
    """The output path, if it may be written.

    Raises:
        InputError: it exists and ``overwrite`` is not set, is a directory, a device, a pipe or a
            link that leads nowhere, is an HDF5 file that is open for writing elsewhere, or cannot
            be written.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a directory")
    check_regular(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; pass `overwrite=True` to replace it")
    if is_open_elsewhere(path):
        raise InputError(
            f"{path}: is open for writing elsewhere; close it there, or choose another"
        )
    check_folder(path.parent)
    return path


def check_apart(outputs: Mapping[str, str | Path | None], *inputs: Any) -> None:
    """Refuse an output that is an input, or is in one, and two outputs of one name.

    Args:
        outputs: by the names of their parameters; None: not asked for.
        inputs: paths, perhaps with the name of an array after a colon, or fields that know the file
            they are read from; whatever else is given lies in memory.

    Raises:
        InputError: there is one.
    """
    given = {os.path.realpath(file) for file in map(_file_of, inputs) if file}
    taken: dict[str, str] = {}
    for name, path in outputs.items():
        if path is None:
            continue
        file = os.path.realpath(path)
        # what is new in a folder of pictures is one of them the next time
        if file in given or any(file.startswith(folder + os.sep) for folder in given):
            raise InputError(
                f"`{name}`: {path} is an input, which nothing replaces; choose another"
            )
        if file in taken:
            raise InputError(f"`{taken[file]}` and `{name}` are the same file, {path}")
        taken[file] = name


def _file_of(source: Any) -> str:
    if not isinstance(source, str | Path):
        return str(getattr(source, "encoding", {}).get("source", ""))
    file = split_array(source)[0]
    # of the folder of a training, which holds much else
    model = os.path.join(file, "model.safetensors")
    return model if os.path.isfile(model) else file


def split_array(source: str | Path) -> tuple[str, str]:
    """A path, and the name of one of the arrays in that file after a colon, empty if there is none.

    Files may have colons in their names, and so may arrays: what exists is the file.
    """
    file, name = str(source), ""
    while not os.path.exists(file):
        file, colon, more = file.rpartition(":")
        if not colon:
            return str(source), ""
        name = f"{more}:{name}" if name else more
    return file, name


def is_open_elsewhere(path: Path) -> bool:
    """Whether a process has an HDF5 file open for writing, which must not lose it."""
    if not path.is_file() or path.stat().st_size < len(HDF5):
        return False
    with open(path, "rb") as file:
        if file.read(len(HDF5)) != HDF5:
            return False
    # imported here: most files are none
    import h5py

    try:
        h5py.File(path, "r").close()
    except Exception as error:
        # of damaged ones it raises what it likes
        return is_locked(error)
    return False


def check_folder(path: str | Path) -> Path:
    """A folder for output, if it may be written in, or could be made, which is left to who writes.

    Raises:
        InputError: it is a file, or cannot be made or written in.
    """
    path = Path(path)
    try:
        missing = [each for each in (path, *path.parents) if not os.path.lexists(each)]
        if missing:
            # no question about permissions tells as much
            missing[-1].mkdir()
            with suppress(OSError):
                missing[-1].rmdir()
    except FileExistsError:
        # somebody else makes it
        pass
    except OSError as error:
        raise InputError(f"{path}: cannot make this folder ({error.strerror})") from None
    if os.path.lexists(path) and not path.is_dir():
        raise InputError(f"{path}: is a file, where a folder is due")
    if path.exists() and not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot write in this folder")
    return path


def json_text(value: Any, indent: int | None = None, sort_keys: bool = False) -> str:
    """Plain values as JSON, in which what it has no number for, nan and infinity, is null."""

    def known(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: known(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [known(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(known(value), indent=indent, sort_keys=sort_keys, allow_nan=False)
