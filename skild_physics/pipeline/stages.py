"""What the cases share: folders that hold one run, results made once, stages that say how long."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr

from skild_physics.claims import (
    FILLING,
    claimed,
    filling,
    replacing,
    work_folder,
)
from skild_physics.fields import open_fields
from skild_physics.files import InputError, check_folder, json_text
from skild_physics.progress import logger
from skild_physics.requests import clear
from skild_physics.training.folder import (
    FILES,
    FOLDERS,
    NOTE,
    discard_run,
    others_in,
)

SETTINGS = "settings.json"


@contextmanager
def run_folder(
    out: Path,
    settings: dict[str, Any],
    made: Sequence[str],
    overwrite: bool,
    check: Callable[[], None],
) -> Iterator[None]:
    """A block that has a folder for one run, as no other process has meanwhile.

    It starts afresh, with nothing in the folder but the settings, or goes on with the same run.

    Args:
        out: the folder.
        settings: of the run, plain values.
        made: names of the files that stages of any run make.
        overwrite: discard a run of other settings.
        check: called before anything is written of a run that starts afresh; raises what is wrong
            with its settings.

    Raises:
        InputError: the folder holds such a run, or other things, cannot be written in, or another
            process has it; or what ``check`` raises.
    """
    note, text = out / SETTINGS, json_text(settings, indent=2)
    own = (*made, *FILES, NOTE)
    check_folder(out)
    if _is_to_start(out, text, own, overwrite):
        check()
    with claimed(out):
        # also where there is nothing to do: a run that died as it began has left it behind
        with filling(out):
            # again, for another process may have had it
            if _is_to_start(out, text, own, overwrite):
                # the settings last: until then it is the run that is discarded
                for name in own:
                    (out / name).unlink(missing_ok=True)
                    clear(out / name)
                discard_run(out)
                with replacing(note) as temporary:
                    temporary.write_text(text)
        clear(note)
        yield


def _is_to_start(out: Path, settings: str, own: Sequence[str], overwrite: bool) -> bool:
    """Whether the folder is new, or that of another run which is to be discarded."""
    if not out.exists():
        return True
    there = (out / SETTINGS).read_text(errors="replace") if (out / SETTINGS).is_file() else ""
    if there == settings:
        return False
    is_run = _is_settings(there)
    if is_run and not overwrite:
        raise InputError(
            f"{out}: holds a run of other settings; choose another `out`, or pass "
            "`overwrite=True` to discard it"
        )
    known = {FILLING, *(work_folder(out / name).name for name in (SETTINGS, *own))}
    if is_run:
        known |= {SETTINGS, *own}
        known |= {name for name in FOLDERS if not others_in(out, name)}
    others = sorted(set(os.listdir(out)) - known)
    if others:
        found = "holds more than its run" if is_run else "is not empty and not a run of reproduce"
        raise InputError(f"{out}: {found}; choose another `out`, or move {', '.join(others[:3])}")
    return True


def _is_settings(text: str) -> bool:
    try:
        return "case" in json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return False


def once(path: Path, make: Callable[[Path], xr.DataArray]) -> xr.DataArray:
    """The fields of a file, which are made if it is not there."""
    if not path.exists():
        return make(path)
    clear(path)
    return open_fields(path)


class Stages:
    """Says which stage begins, and how long it took."""

    def __init__(self, count: int):
        self.count, self.number = count, 0

    @contextmanager
    def next(self, title: str) -> Iterator[None]:
        """A block that is the next stage."""
        self.number += 1
        logger.info(f"[{self.number}/{self.count}] {title}")
        began = time.perf_counter()
        yield
        logger.info(f"[{self.number}/{self.count}] {time.perf_counter() - began:.1f} s")
