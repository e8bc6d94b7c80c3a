"""What the cases share: folders that hold one run, results made once, stages that say how long."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr

from skild_physics.fields import open_fields
from skild_physics.files import InputError, check_folder, json_text, replacing
from skild_physics.progress import logger


def claim(out: Path, settings: dict[str, Any], made: Sequence[str], overwrite: bool) -> bool:
    """Whether the folder starts afresh: it is new, or another run in it is to be discarded.

    Args:
        out: the folder.
        settings: of the run, plain values.
        made: names of the files that stages make, which a fresh start removes.
        overwrite: discard a run of other settings.

    Raises:
        InputError: the folder holds such a run, or other things, or cannot be written in.
    """
    note, text = check_folder(out) / "settings.json", json_text(settings, indent=2)
    if note.exists():
        if note.read_text(errors="replace") == text:
            return False
        if not overwrite:
            raise InputError(
                f"{out}: holds a run of other settings; choose another `out`, or pass "
                "`overwrite=True` to discard it"
            )
    elif any(out.iterdir()):
        raise InputError(f"{out}: is not empty and not a run of reproduce; choose another `out`")
    for old in ("state.pt", "state.previous.pt", "model.safetensors", *made):
        (out / old).unlink(missing_ok=True)
    with replacing(note) as temporary:
        temporary.write_text(text)
    return True


def once(path: Path, make: Callable[[Path], xr.DataArray]) -> xr.DataArray:
    """The fields of a file, which are made if it is not there."""
    return open_fields(path) if path.exists() else make(path)


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
