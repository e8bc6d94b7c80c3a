"""Many fields made a shard at a time, by one process or several: an interruption loses one shard.

The fields FIRST .. LAST - 1 are FIRST-LAST.npz in the folder .NAME.parts beside the result, with
the settings that made them in settings.json. What is there is not made again.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_physics.files import InputError, json_text, replacing
from skild_physics.machine import World

Arrays = Mapping[str, NDArray[Any]]


def shards_folder(out: Path) -> Path:
    """Where the shards of a result are until it is put together."""
    return out.parent / f".{out.name}.parts"


def make_shards(
    out: Path,
    settings: Mapping[str, Any],
    count: int,
    batch_size: int,
    make: Callable[[int, int], Arrays],
    world: World,
    progress: Callable[[int], None],
    *,
    overwrite: bool = False,
) -> None:
    """Make what is missing of ``count`` fields; each process of the world makes its share.

    Args:
        out: what the shards are for.
        settings: everything that the fields depend on, as plain values.
        count: number of fields.
        batch_size: fields of a shard at most.
        make: ``make(first, last)`` gives the arrays of these fields, each with fields along its
            first axis; they must not depend on how fields are divided into shards.
        world: the processes that share the work.
        progress: called with the number of fields there are, as far as this process knows.
        overwrite: discard shards that other settings made.

    Raises:
        InputError: there are shards that other settings made.
    """
    folder = shards_folder(out)
    if world.is_main:
        _claim(folder, dict(settings), overwrite)
    world.barrier()
    missing = _missing(folder, count, batch_size)
    # all processes must have looked before any of them adds to what is there
    world.barrier()
    mine = missing[world.rank :: world.size]
    left = sum(last - first for first, last in mine)
    try:
        for first, last in mine:
            arrays = {name: np.asarray(array) for name, array in make(first, last).items()}
            name = f"{first:09d}-{last:09d}.npz"
            with replacing(folder / name) as temporary, open(temporary, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            left -= last - first
            progress(max(0, count - world.size * left))
    except BaseException:
        if world.is_main and not _ranges(folder):
            shutil.rmtree(folder)
        raise
    world.barrier()


def read_shards(out: Path) -> Iterator[dict[str, NDArray[Any]]]:
    """The arrays, shard by shard in the order of the fields."""
    folder = shards_folder(out)
    for first, last in _ranges(folder):
        with np.load(folder / f"{first:09d}-{last:09d}.npz") as arrays:
            yield dict(arrays)


def discard_shards(out: Path) -> None:
    """Remove the shards of a result, now that it is put together."""
    shutil.rmtree(shards_folder(out))


def _claim(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    note = folder / "settings.json"
    text = json_text(settings, indent=2, sort_keys=True)
    if folder.exists():
        if note.exists() and note.read_text() == text:
            return
        if note.exists() and not overwrite:
            raise InputError(
                f"{folder}: shards of an interrupted run with other settings; repeat that run, or "
                "pass `overwrite=True` to discard them"
            )
        shutil.rmtree(folder)
    with replacing(note) as temporary:
        temporary.write_text(text)


def _ranges(folder: Path) -> list[tuple[int, int]]:
    names = sorted(path.stem.split("-") for path in folder.glob("[0-9]*-[0-9]*.npz"))
    return [(int(first), int(last)) for first, last in names]


def _missing(folder: Path, count: int, batch_size: int) -> list[tuple[int, int]]:
    """Shards to be made, between those that are there."""
    found: list[tuple[int, int]] = []
    done = 0
    for first, last in [*_ranges(folder), (count, count)]:
        found += [
            (start, min(start + batch_size, first)) for start in range(done, first, batch_size)
        ]
        done = last
    return found
