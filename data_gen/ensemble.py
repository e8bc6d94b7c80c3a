"""Generate an ensemble: independent chains, a fixed spacing, and files that survive anything.

Field s belongs to chain s mod C and is its (s div C + 1)-th after thermalisation. Neither
interruptions, nor the number of workers, nor the machines they run on change a single spin.
"""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from skild_physics.claims import check_unfinished, claimed, discard, replacing
from skild_physics.cluster import dask_client
from skild_physics.data_gen.chains import advance_chain, fields_due, start_chain
from skild_physics.data_gen.parameters import IsingParameters
from skild_physics.data_gen.store import (
    Map,
    check_extendable,
    commit,
    is_whole,
    read_state,
    shard_length,
    write_shard,
)
from skild_physics.fields.lattice import open_dataset
from skild_physics.files import InputError, is_locked, json_text

_NOTE = "parameters.json"


def generate(
    path: str | Path,
    parameters: IsingParameters,
    samples: int,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Callable[..., None] = lambda done, note="": None,
    overwrite: bool = False,
) -> int:
    """Write ``samples`` fields to ``path``, going on from whatever is there already.

    Args:
        path: HDF5 file to make, or to extend if it holds the same parameters.
        parameters: the ensemble.
        samples: number of fields the file shall hold.
        workers: threads; does not change the result.
        scheduler: address of a Dask scheduler whose workers advance the chains instead.
        progress: called with the number of fields done, after each shard, and before the first
            with a note of how many chains are thermalised.
        overwrite: replace a file or an interrupted run of other parameters.

    Returns:
        The number of fields made by this call, 0 if the file held enough.

    Raises:
        InputError: samples < 1, path holds something else, or another process is writing it; while
            one has it open for writing it is not replaced, whatever ``overwrite`` says.
        OSError: the file cannot be written; what was committed stays.
    """
    path = Path(path)
    if samples < 1:
        raise InputError(f"`samples` must be at least 1, got {samples}")
    with claimed(path) as parts:
        existing = _existing_samples(path, parameters, overwrite)
        if existing < samples:
            check_unfinished(path, overwrite, _NOTE)
        for shard in _shards(parts):
            # of what was committed when the process died
            if _stop(shard) <= existing:
                shard.unlink()
        try:
            made = 0
            if existing < samples:
                _claim(path, parts, parameters, overwrite)
                with ThreadPoolExecutor(workers) as pool, _chain_map(pool, scheduler) as run:
                    made = _generate(
                        path, parts, parameters, existing, samples, overwrite, pool, run, progress
                    )
        finally:
            if not _shards(parts):
                discard(path)
        return made


@contextmanager
def _chain_map(pool: ThreadPoolExecutor, scheduler: str | None) -> Iterator[Map]:
    """What maps work over chains: the threads, or a Dask cluster."""
    if scheduler is None:
        yield pool.map
        return
    with dask_client(scheduler) as client:
        yield lambda f, *args: client.gather(client.map(f, *args, pure=False))


def _generate(
    path: Path,
    parts: Path,
    p: IsingParameters,
    existing: int,
    samples: int,
    overwrite: bool,
    pool: ThreadPoolExecutor,
    run: Map,
    progress: Callable[..., None],
) -> int:
    shard = shard_length(p)
    shards = _finished_shards(parts, existing, samples, p)
    committed, done = existing, _stop(shards[-1]) if shards else existing
    first = done
    progress(done)
    if done:
        chains = read_state(shards[-1] if shards else path, p)
    else:
        chains = []
        for chain in run(partial(start_chain, p), range(p.n_chains)):
            chains.append(chain)
            progress(done, f"{len(chains)} of {p.n_chains} chains thermalised")
    while committed < samples:
        if done < samples:
            stop = min((done // shard + 1) * shard, samples)
            due = [fields_due(c, done, stop, p.n_chains) for c in range(p.n_chains)]
            advanced = list(run(partial(advance_chain, p), chains, due))
            chains = [state for state, _ in advanced]
            shards.append(parts / f"{done}-{stop}.h5")
            write_shard(shards[-1], done, stop, [own for _, own in advanced], chains, pool.map)
            done = stop
        if done >= 2 * committed or done == samples:
            if (committed or not overwrite) and _existing_samples(path, p, False) != committed:
                raise InputError(f"{path}: was replaced meanwhile by something else, which is kept")
            commit(path, [path, *shards] if committed else shards, p)
            committed, shards = done, []
            for file in _shards(parts):
                file.unlink()
        progress(done)
    return samples - first


def _existing_samples(path: Path, p: IsingParameters, overwrite: bool) -> int:
    """Fields of this ensemble in ``path``; 0 if there is no such file, or it may be replaced."""
    if not path.exists():
        return 0
    try:
        with open_dataset(path) as data:
            found = dict(data.attrs)
        for name, wanted in p.attributes().items():
            # whatever it is in a file of somebody's
            if str(found.get(name)) != str(wanted):
                before = "; `sweeps` 0 goes on with it" if found.get(name) == "wolff" else ""
                raise InputError(
                    f"{path}: exists with {name} = {found.get(name)}, not {wanted}{before}"
                )
        count = found.get("n_samples_committed")
        if not isinstance(count, int) or count < 1:
            raise InputError(f"{path}: does not say how many fields it holds")
        check_extendable(path, p, count)
    except InputError as error:
        if is_locked(error):
            # it is whole, and somebody's: nothing replaces it
            raise InputError(
                f"{path}: is open for writing elsewhere; close it there, or choose another `out`"
            ) from error
        if overwrite:
            return 0
        raise InputError(f"{error}; pass `overwrite=True` to replace it") from None
    return count


def _claim(path: Path, parts: Path, p: IsingParameters, overwrite: bool) -> None:
    """Note what the shards belong to; go on with those of the same run, refuse any others."""
    file, text = parts / _NOTE, json_text(p.attributes())
    if file.exists():
        if file.read_bytes() == text.encode():
            return
        if not overwrite:
            raise InputError(
                f"{path}: {parts} holds an interrupted run of other parameters; finish that run, "
                "or pass `overwrite=True` to discard it"
            )
    discard(path)
    with replacing(file) as temporary:
        temporary.write_text(text)


def _shards(parts: Path) -> list[Path]:
    return [each for each in parts.glob("*.h5") if re.fullmatch(r"\d+-\d+", each.stem)]


def _stop(shard: Path) -> int:
    return int(shard.stem.split("-")[1])


def _finished_shards(parts: Path, start: int, samples: int, p: IsingParameters) -> list[Path]:
    """The unbroken line of whole shards from field ``start`` that does not pass ``samples``.

    Damaged ones are removed.
    """
    line: list[Path] = []
    while True:
        following = [
            shard
            for shard in _shards(parts)
            if shard.stem.startswith(f"{start}-") and start < _stop(shard) <= samples
        ]
        if not following:
            return line
        longest = max(following, key=_stop)
        if is_whole(longest, start, _stop(longest), p):
            line.append(longest)
            start = _stop(longest)
        else:
            longest.unlink()
