"""Ensembles of Ising lattices: chains, spacing between fields, and files that survive anything.

Field s belongs to chain s mod C and is its (s div C + 1)-th: every chain starts ordered, is
thermalised, and then saved after a fixed number of cluster updates. A pilot run, which is thrown
away, measures the integrated autocorrelation times tau_int = 1/2 + sum rho of the energy and of
m^2 in cluster updates; the spacing is twice the larger, thermalisation a hundred spacings.

Work is written in shards `FILE.parts/`, each renamed into place complete with the state of its
chains, and assembled into FILE by a last rename: FILE is absent or whole at every moment. Neither
interruptions nor the number of workers changes a single spin.
"""

import json
import math
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import h5netcdf
import h5py
import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from skild_physics.data_gen.wolff import (
    BIT_GENERATOR,
    bond_threshold,
    seed_states,
    wolff_advance,
    wolff_samples,
)

from skild_physics import __version__
from skild_physics.fields.lattice import ENSEMBLE_SCHEMA, SCHEMA_VERSION, open_ensemble
from skild_physics.files import replacing
from skild_physics.observables.autocorrelation import integrated_autocorrelation_time
from skild_physics.observables.correlators import energy_per_spin, magnetization_per_spin
from skild_physics.observables.exact import BETA_CRITICAL

SPACING_IN_TAU_INT = 2.0
THERMALIZATION_IN_SPACINGS = 100
PILOT_LATTICES = 40
PILOT_STEPS = 1000
N_CHAINS = 16
MAX_L = 2**15

Progress = Callable[[int], None]


@dataclass(frozen=True)
class IsingParameters:
    """Everything that determines the fields of an ensemble, apart from how many there are.

    Args:
        L: side of the torus, 3 or more.
        beta: inverse temperature, J = 1.
        seed: integer root seed.
        updates_between_samples: cluster updates between saved fields of a chain.
        thermalization_updates: cluster updates of each chain before its first spacing.
        n_chains: independent chains.

    Raises:
        ValueError: a parameter out of range, naming it.
    """

    L: int
    beta: float
    seed: int
    updates_between_samples: int
    thermalization_updates: int
    n_chains: int = N_CHAINS

    def __post_init__(self) -> None:
        if not 3 <= self.L <= MAX_L:
            raise ValueError(f"L must lie in 3 .. {MAX_L}, got {self.L}")
        bond_threshold(self.beta)
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        for name in ("updates_between_samples", "n_chains"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.thermalization_updates < 0:
            raise ValueError(
                f"thermalization_updates must not be negative, got {self.thermalization_updates}"
            )

    @classmethod
    def planned(
        cls,
        L: int,
        beta: float = BETA_CRITICAL,
        seed: int = 0,
        updates: int | None = None,
        n_chains: int = N_CHAINS,
    ) -> "IsingParameters":
        """Parameters with the spacing, unless given, and thermalisation set by a pilot run.

        The pilot draws from a stream of the same seed that no chain uses, so equal arguments give
        equal parameters.
        """
        probe = cls(L, beta, seed, updates or 1, 0, n_chains)
        spacing = max(1, math.ceil(SPACING_IN_TAU_INT * max(pilot(probe))))
        return replace(
            probe,
            updates_between_samples=updates or spacing,
            thermalization_updates=THERMALIZATION_IN_SPACINGS * spacing,
        )

    def attributes(self) -> dict[str, Any]:
        """The parameters as root attributes of a file."""
        return {
            "schema": ENSEMBLE_SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "model": "ising",
            "J": 1.0,
            "boundary": "periodic",
            "algorithm": "wolff",
            "start": "ordered",
            "bit_generator": BIT_GENERATOR,
            **asdict(self),
        }


class PilotTimes(NamedTuple):
    """tau_int of the energy and of m^2, in cluster updates."""

    energy: float
    magnetization_squared: float


@lru_cache(maxsize=8)
def pilot(p: IsingParameters) -> PilotTimes:
    """Integrated autocorrelation times from a chain that no ensemble uses.

    The chain is advanced in steps that flip half of the lattice on average, until 40 lattices have
    been flipped to relax and the times are known from 1000 steps.
    """
    spins = np.ones((p.L, p.L), np.int8)
    rng = seed_states(p.seed, p.n_chains + 1)[-1]
    threshold = bond_threshold(p.beta)
    flips = clusters = 0
    for _ in range(2):
        flips = clusters = 0
        while flips < PILOT_LATTICES / 2 * p.L**2:
            flips += wolff_advance(spins, rng, threshold, 16)
            clusters += 16
    step = max(1, round(0.5 * p.L**2 * clusters / flips))
    fields = np.empty((PILOT_STEPS, p.L, p.L), np.int8)
    wolff_samples(spins, rng, threshold, step, fields)
    times = [
        integrated_autocorrelation_time(values[None]).tau_int * step
        for values in (energy_per_spin(fields), magnetization_per_spin(fields) ** 2)
    ]
    return PilotTimes(*times)


@dataclass
class _Chains:
    """State of all chains: enough to go on with."""

    spins: NDArray[np.int8]
    rng: NDArray[np.uint64]

    @classmethod
    def start(cls, p: IsingParameters, pool: ThreadPoolExecutor) -> "_Chains":
        chains = cls(np.ones((p.n_chains, p.L, p.L), np.int8), seed_states(p.seed, p.n_chains))
        threshold = bond_threshold(p.beta)

        def thermalise(c: int) -> None:
            wolff_advance(chains.spins[c], chains.rng[c], threshold, p.thermalization_updates)

        list(pool.map(thermalise, range(p.n_chains)))
        return chains

    def advance(
        self, p: IsingParameters, start: int, stop: int, pool: ThreadPoolExecutor
    ) -> NDArray[np.int8]:
        """Fields start .. stop - 1 of the ensemble, shape (stop - start, L, L)."""
        out = np.empty((stop - start, p.L, p.L), np.int8)
        threshold = bond_threshold(p.beta)

        def sample(c: int) -> None:
            first = (c - start) % p.n_chains
            own = np.empty_like(out[first :: p.n_chains])
            wolff_samples(self.spins[c], self.rng[c], threshold, p.updates_between_samples, own)
            out[first :: p.n_chains] = own

        list(pool.map(sample, range(p.n_chains)))
        return out

    def write(self, file: h5py.File) -> None:
        state = file.create_group("state")
        state.create_dataset("spins", data=self.spins, compression="gzip", compression_opts=1)
        state.create_dataset("rng", data=self.rng)

    @classmethod
    def read(cls, path: Path) -> "_Chains":
        with h5py.File(path, "r") as file:
            return cls(file["state/spins"][:], file["state/rng"][:])


def generate(
    path: str | Path,
    parameters: IsingParameters,
    samples: int,
    workers: int = 1,
    progress: Progress = lambda done: None,
    overwrite: bool = False,
) -> int:
    """Write ``samples`` fields to ``path``, going on from whatever is there already.

    Args:
        path: HDF5 file to make, or to extend if it holds the same parameters.
        parameters: the ensemble.
        samples: number of fields the file shall hold.
        workers: threads; does not change the result.
        progress: called with the number of fields done, after each shard.
        overwrite: start afresh whatever is there.

    Returns:
        The number of fields made by this call, 0 if the file held enough.

    Raises:
        ValueError: samples < 1, or path holds something else.
        OSError: the file cannot be written; what was committed stays.
    """
    path = Path(path)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    parts = path.with_name(path.name + ".parts")
    parts.mkdir(parents=True, exist_ok=True)
    lock = FileLock(parts / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{path}: another process is writing it") from None
    try:
        made = _generate(path, parts, parameters, samples, workers, progress, overwrite)
    except BaseException:
        if not list(parts.glob("*.h5")):
            shutil.rmtree(parts)
        raise
    finally:
        lock.release()
    shutil.rmtree(parts)
    return made


def _generate(
    path: Path,
    parts: Path,
    p: IsingParameters,
    samples: int,
    workers: int,
    progress: Progress,
    overwrite: bool,
) -> int:
    existing = 0
    if path.exists() and not overwrite:
        existing = _matching_samples(path, p)
        if existing >= samples:
            return 0
    _claim(parts, {**p.attributes(), "from": existing}, overwrite)
    chunk, shard = _layout(p)
    shards = _finished_shards(parts, existing, samples)
    done = first = _stop(shards[-1]) if shards else existing
    last = shards[-1] if shards else path
    progress(done)
    with ThreadPoolExecutor(workers) as pool:
        chains = _Chains.read(last) if done else _Chains.start(p, pool)
        while done < samples:
            stop = min((done // shard + 1) * shard, samples)
            fields = chains.advance(p, done, stop, pool)
            shards.append(parts / f"{done}-{stop}.h5")
            with replacing(shards[-1]) as temporary:
                _write(temporary, p, chains, done, fields, chunk)
            done = stop
            progress(done)
    _assemble(path, parts, [path, *shards] if existing else shards, p, samples)
    return samples - first


def _claim(parts: Path, plan: dict[str, Any], overwrite: bool) -> None:
    """Note what the shards belong to; go on with those of the same run, refuse any others."""
    file = parts / "parameters.json"
    if file.exists():
        if json.loads(file.read_text()) == plan:
            return
        if not overwrite:
            raise ValueError(
                f"{parts}: holds an interrupted run of other parameters; finish that run, or pass "
                "--overwrite to discard it"
            )
        for shard in parts.glob("*.h5"):
            shard.unlink()
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(plan))


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


def _layout(p: IsingParameters) -> tuple[int, int]:
    """Fields per HDF5 chunk and per shard: about 256 kB and 16 MB of spins."""
    chunk = int(np.clip(2**18 // p.L**2, 1, 256))
    shard = chunk * max(1, -(-max(p.n_chains, 2**24 // p.L**2) // chunk))
    return chunk, shard


def _matching_samples(path: Path, p: IsingParameters) -> int:
    with open_ensemble(path) as data:
        found = dict(data.attrs)
    for name, wanted in p.attributes().items():
        if found.get(name) != wanted:
            raise ValueError(
                f"{path}: exists with {name} = {found.get(name)}, not {wanted}; pass --overwrite "
                "to replace it"
            )
    return int(found["n_samples_committed"])


def _create(path: Path, p: IsingParameters, chunk: int) -> None:
    """An empty ensemble with named dimensions, extendable along samples."""
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"sample": None, "y": p.L, "x": p.L}
        file.create_variable(
            "spins",
            ("sample", "y", "x"),
            "i1",
            chunks=(chunk, p.L, p.L),
            compression="gzip",
            compression_opts=1,
        ).attrs["long_name"] = "spin, +1 or -1"
        for name, dtype, units, long_name in (
            ("energy", "f8", "J", "energy per spin"),
            ("magnetization", "f8", "1", "magnetisation per spin"),
            ("chain", "i4", "1", "Markov chain of the field"),
            ("update", "i8", "1", "cluster updates of the chain since its ordered start"),
        ):
            variable = file.create_variable(name, ("sample",), dtype, chunks=(4096,))
            variable.attrs["units"] = units
            variable.attrs["long_name"] = long_name


def _write(
    path: Path,
    p: IsingParameters,
    chains: _Chains,
    start: int,
    fields: NDArray[np.int8],
    chunk: int,
) -> None:
    """One shard: fields start .. start + len(fields) - 1 and the chains' state after them."""
    _create(path, p, chunk)
    index = np.arange(start, start + len(fields))
    with h5py.File(path, "r+") as file:
        for name, values in (
            ("spins", fields),
            ("energy", energy_per_spin(fields)),
            ("magnetization", magnetization_per_spin(fields)),
            ("chain", index % p.n_chains),
            (
                "update",
                p.thermalization_updates + (index // p.n_chains + 1) * p.updates_between_samples,
            ),
        ):
            file[name].resize(len(fields), axis=0)
            file[name][:] = values
        file["sample"].resize(len(fields), axis=0)
        chains.write(file)


def _assemble(
    path: Path, parts: Path, pieces: list[Path], p: IsingParameters, samples: int
) -> None:
    """Join the pieces, in order, into a new file and rename it to ``path``."""
    chunk, _ = _layout(p)
    with replacing(path, scratch=parts) as temporary:
        _create(temporary, p, chunk)
        with h5py.File(temporary, "r+") as file:
            for name in ("spins", "energy", "magnetization", "chain", "update", "sample"):
                file[name].resize(samples, axis=0)
            start = 0
            for piece in pieces:
                with h5py.File(piece, "r") as source:
                    n = len(source["energy"])
                    _copy_spins(source["spins"], file["spins"], start)
                    for name in ("energy", "magnetization", "chain", "update"):
                        file[name][start : start + n] = source[name][:]
                start += n
            _Chains.read(pieces[-1]).write(file)
            for name, value in p.attributes().items():
                file.attrs[name] = value
            file.attrs["n_samples_committed"] = samples
            file.attrs["package_version"] = __version__


def _copy_spins(source: h5py.Dataset, target: h5py.Dataset, start: int) -> None:
    """Copy fields to ``target[start:]``; whole chunks move without being decompressed."""
    chunk = target.chunks[0]
    if start % chunk:
        target[start : start + len(source)] = source[:]
        return
    for first in range(0, len(source), chunk):
        filters, data = source.id.read_direct_chunk((first, 0, 0))
        target.id.write_direct_chunk((start + first, 0, 0), data, filters)
