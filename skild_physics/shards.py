"""Many fields made a shard at a time, by one process or several: an interruption loses one shard.

The fields FIRST .. LAST - 1 are FIRST-LAST.npz in the claimed folder of the result, with the
settings that made them in settings.json. What is there, and whole, is not made again. All shards
but the last are of one length, so that they never overlap.
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_physics.claims import (
    LOCK,
    check_unfinished,
    claimed,
    discard,
    placing,
    remove,
    replacing,
    work_folder,
)
from skild_physics.files import InputError, json_text
from skild_physics.machine import World, joined_world
from skild_physics.progress import Progress

Arrays = Mapping[str, NDArray[Any]]
Shard = tuple[Path, int, int]
"""A file, the number of its first field, and that after its last."""
_SETTINGS = "settings.json"


def in_shards(
    out: Path,
    settings: Mapping[str, Any],
    count: int,
    length: int,
    make: Callable[[int, int], Arrays],
    fits: Callable[[Arrays, int], bool],
    write: Callable[[], None],
    title: str,
    progress: Progress,
    *,
    at_once: int = 1,
    overwrite: bool = False,
) -> None:
    """A result made shard by shard, by all processes that torchrun started; the first writes it.

    Args:
        out: the result.
        settings: with ``count``, ``length``, ``make``, ``fits``, ``at_once`` and ``overwrite``, see
            :func:`make_shards`.
        count: number of fields.
        length: fields of a shard.
        make: makes some of them.
        fits: knows what it makes.
        write: writes ``out`` of what :func:`read_shards` gives; the shards are discarded then.
        title: of the progress.
        progress: shows how many fields are done.
        at_once: shards that are made together.
        overwrite: discard other shards.

    Raises:
        InputError: as :func:`skild_physics.claims.claimed` and :func:`make_shards`.
    """
    with joined_world() as world, claimed(out) if world.is_main else nullcontext():
        with progress(title, count) as show:
            make_shards(
                out,
                settings,
                count,
                length,
                make,
                fits,
                world,
                show,
                at_once=at_once,
                overwrite=overwrite,
            )
        if world.is_main:
            write()
            discard(out)
        world.barrier()


def make_shards(
    out: Path,
    settings: Mapping[str, Any],
    count: int,
    length: int,
    make: Callable[[int, int], Arrays],
    fits: Callable[[Arrays, int], bool],
    world: World,
    progress: Callable[[int], None],
    *,
    at_once: int = 1,
    overwrite: bool = False,
) -> None:
    """Make what is missing of ``count`` fields; each process of the world makes its share.

    Args:
        out: what the shards are for; the first process has claimed it.
        settings: everything that the fields depend on, as plain values.
        count: number of fields.
        length: fields of a shard.
        make: ``make(first, last)`` gives the arrays of these fields, which must not depend on how
            fields are divided into calls.
        fits: whether arrays, which may be damaged or anybody's, can be those of so many fields.
        world: the processes that share the work.
        progress: called with the number of fields there are, as far as this process knows.
        at_once: shards that a call of ``make`` gives at most; of more than one, all arrays have
            fields along their first axis.
        overwrite: discard shards that other settings made.

    Raises:
        InputError: there are shards that other settings made.
    """
    shards = _shards(out, count, length)
    if world.is_main:
        _keep_whole(out, dict(settings), shards, fits, overwrite)
    world.barrier()
    missing = [shard for shard in shards if not shard[0].exists()]
    # all processes must have looked before any of them adds to what is there
    world.barrier()
    mine = _groups(missing, min(at_once, -(-len(missing) // world.size)))[world.rank :: world.size]
    left = sum(group[-1][2] - group[0][1] for group in mine)
    try:
        for group in mine:
            start, stop = group[0][1], group[-1][2]
            arrays = {name: np.asarray(array) for name, array in make(start, stop).items()}
            for path, first, last in group:
                own = arrays
                if len(group) > 1:
                    own = {name: a[first - start : last - start] for name, a in arrays.items()}
                with placing(path, path.parent) as temporary, open(temporary, "wb") as file:
                    np.savez(file, allow_pickle=False, **own)
            left -= stop - start
            progress(max(0, count - world.size * left))
    except BaseException:
        if world.is_main and not any(path.exists() for path, _, _ in shards):
            discard(out)
        raise
    world.barrier()


def _groups(shards: list[Shard], most: int) -> list[list[Shard]]:
    """Shards of which each goes on where the one before ends, at most so many together."""
    groups: list[list[Shard]] = []
    for shard in shards:
        if groups and len(groups[-1]) < most and groups[-1][-1][2] == shard[1]:
            groups[-1].append(shard)
        else:
            groups.append([shard])
    return groups


def read_shards(out: Path, count: int, length: int) -> Iterator[dict[str, NDArray[Any]]]:
    """The arrays, shard by shard in the order of the fields."""
    for path, _, _ in _shards(out, count, length):
        with np.load(path) as arrays:
            yield dict(arrays)


def _shards(out: Path, count: int, length: int) -> list[Shard]:
    edges = [(first, min(first + length, count)) for first in range(0, count, length)]
    folder = work_folder(out)
    return [(folder / f"{first:09d}-{last:09d}.npz", first, last) for first, last in edges]


def _keep_whole(
    out: Path,
    settings: dict[str, Any],
    shards: list[Shard],
    fits: Callable[[Arrays, int], bool],
    overwrite: bool,
) -> None:
    """Keep of an interrupted run what is not damaged, if it is the same run; note which it is."""
    check_unfinished(out, overwrite, _SETTINGS)
    note = work_folder(out) / _SETTINGS
    text = json_text(settings, indent=2, sort_keys=True)
    if note.exists() and note.read_bytes() != text.encode():
        if not overwrite:
            raise InputError(
                f"{out}: {note.parent} holds shards of an interrupted run with other settings; "
                "repeat that run, or pass `overwrite=True` to discard them"
            )
        discard(out)
    if not note.exists():
        discard(out)
        with replacing(note) as temporary:
            temporary.write_text(text)
    lengths = {path: last - first for path, first, last in shards}
    for path in note.parent.iterdir():
        if path.name in (LOCK, _SETTINGS):
            continue
        if path not in lengths or not _is_whole(path, lengths[path], fits):
            remove(path)


def _is_whole(path: Path, number: int, fits: Callable[[Arrays, int], bool]) -> bool:
    try:
        # the checksum of every array is that of the archive
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
        with np.load(path, allow_pickle=False) as arrays:
            return fits(dict(arrays), number)
    except Exception:
        # damaged archives raise what they like
        return False
