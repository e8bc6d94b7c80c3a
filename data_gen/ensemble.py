"""Generate an ensemble: independent chains, a fixed spacing, and files that survive anything.

Field s belongs to chain s mod C and is its (s div C + 1)-th after thermalisation. Neither
interruptions, nor the number of workers, nor the machines they run on change a single spin.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from skild_physics.cluster import dask_client
from skild_physics.data_gen.chains import advance_chain, fields_due, start_chain
from skild_physics.data_gen.parameters import IsingParameters
from skild_physics.data_gen.store import Map, commit, read_state, shard_length, write_shard
from skild_physics.fields.lattice import open_dataset
from skild_physics.files import InputError, is_locked, json_text, replacing


def generate(
    path: str | Path,
    parameters: IsingParameters,
    samples: int,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
    overwrite: bool = False,
) -> int:
    """Write ``samples`` fields to ``path``, going on from whatever is there already.

    Args:
        path: HDF5 file to make, or to extend if it holds the same parameters.
        parameters: the ensemble.
        samples: number of fields the file shall hold.
        workers: threads; does not change the result.
        scheduler: address of a Dask scheduler whose workers advance the chains instead.
        progress: called with the number of fields done, after each shard.
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
    parts = path.with_name(path.name + ".parts")
    parts.mkdir(parents=True, exist_ok=True)
    lock = FileLock(parts / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{path}: another process is writing it") from None
    try:
        existing = _existing_samples(path, parameters, overwrite)
        made = 0
        if existing < samples:
            _claim(parts, parameters, overwrite)
            with ThreadPoolExecutor(workers) as pool, _chain_map(pool, scheduler) as run:
                made = _generate(path, parts, parameters, existing, samples, pool, run, progress)
    except BaseException:
        if not list(parts.glob("*.h5")):
            shutil.rmtree(parts)
        raise
    finally:
        lock.release()
    shutil.rmtree(parts)
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
    pool: ThreadPoolExecutor,
    run: Map,
    progress: Callable[[int], None],
) -> int:
    shard = shard_length(p)
    shards = _finished_shards(parts, existing, samples)
    committed, done = existing, _stop(shards[-1]) if shards else existing
    first = done
    progress(done)
    if done:
        chains = read_state(shards[-1] if shards else path)
    else:
        chains = list(run(partial(start_chain, p), range(p.n_chains)))
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
            commit(path, parts, [path, *shards] if committed else shards, p)
            committed, shards = done, []
            for file in parts.glob("*.h5"):
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
            if found.get(name) != wanted:
                raise InputError(f"{path}: exists with {name} = {found.get(name)}, not {wanted}")
    except InputError as error:
        if is_locked(error):
            # it is whole, and somebody's: nothing replaces it
            raise InputError(
                f"{path}: is open for writing elsewhere; close it there, or choose another `out`"
            ) from error
        if overwrite:
            return 0
        raise InputError(f"{error}; pass `overwrite=True` to replace it") from None
    return int(found["n_samples_committed"])


def _claim(parts: Path, p: IsingParameters, overwrite: bool) -> None:
    """Note what the shards belong to; go on with those of the same run, refuse any others."""
    file = parts / "parameters.json"
    if file.exists():
        if json.loads(file.read_text()) == p.attributes():
            return
        if not overwrite:
            raise InputError(
                f"{parts}: holds an interrupted run of other parameters; finish that run, or pass "
                "`overwrite=True` to discard it"
            )
        for shard in parts.glob("*.h5"):
            shard.unlink()
    with replacing(file) as temporary:
        temporary.write_text(json_text(p.attributes()))


def _stop(shard: Path) -> int:
    return int(shard.stem.split("-")[1])


def _finished_shards(parts: Path, start: int, samples: int) -> list[Path]:
    """The unbroken line of shards from field ``start`` that does not pass ``samples``."""
    line: list[Path] = []
    while True:
        following = [s for s in parts.glob(f"{start}-*.h5") if _stop(s) <= samples]
        if not following:
            return line
        line.append(max(following, key=_stop))
        start = _stop(line[-1])
