"""Files of an ensemble that are whole at every moment.

Work is written in shards `FILE.parts/START-STOP.h5`, each renamed into place complete with the
state of its chains. FILE itself is replaced by a longer one, in one rename, whenever the fields
have doubled and at the end; compressed chunks are moved as they are, so that costs little.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from skild_physics.data_gen.chains import ChainState, Samples
from skild_physics.data_gen.parameters import IsingParameters, pilot
from skild_physics.files import replacing
from skild_physics.observables.autocorrelation import tau_int_of_chains
from skild_physics.version import __version__

COMPRESSION_LEVEL = 1
SHARD_BYTES = 2**25
CHUNK_BYTES = 2**18

Map = Callable[..., Iterable[Any]]


def chunk_length(L: int) -> int:
    """Fields in an HDF5 chunk, about 256 kB of spins."""
    return int(np.clip(CHUNK_BYTES // L**2, 1, 256))


def shard_length(p: IsingParameters) -> int:
    """Fields in a shard: whole chunks, at least one field of every chain, about 32 MB of spins."""
    chunk = chunk_length(p.L)
    return -(-max(p.n_chains, SHARD_BYTES // p.L**2) // chunk) * chunk


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """HDF5 reports a failing disk as OSError or RuntimeError, and again when the file closes."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        chain: list[BaseException] = [error]
        while chain[-1].__context__ is not None:
            chain.append(chain[-1].__context__)
        reasons = [re.search(r"error message = '([^']+)'", str(e)) for e in chain]
        reason = next((found[1] for found in reasons if found), str(chain[-1]))
        raise OSError(f"{path}: cannot be written: {reason}") from None


def write_shard(
    path: Path, start: int, stop: int, parts: list[Samples], chains: list[ChainState], run: Map
) -> None:
    """Fields start .. stop - 1 of the ensemble, and the state of all chains after them.

    Args:
        path: the shard.
        start: number of the first field.
        stop: number after the last field.
        parts: the next fields of every chain.
        chains: the chains after these fields.
        run: maps the compression over chunks.
    """
    n, C, L = stop - start, len(parts), parts[0].spins.shape[-1]
    chunk = chunk_length(L)
    chain = np.arange(start, stop) % C
    position = (np.arange(n) - (chain - start) % C) // C

    def encode(first: int) -> bytes:
        block = np.zeros((chunk, L, L), np.int8)
        for i in range(first, min(first + chunk, n)):
            block[i - first] = parts[chain[i]].spins[position[i]]
        return isal_zlib.compress(block.tobytes(), COMPRESSION_LEVEL)

    starts = range(0, n, chunk)
    with _disk_errors(path), replacing(path) as temporary, h5py.File(temporary, "w") as file:
        spins = file.create_dataset(
            "spins",
            (n, L, L),
            np.int8,
            chunks=(chunk, L, L),
            maxshape=(None, L, L),
            compression="gzip",
            compression_opts=COMPRESSION_LEVEL,
        )
        for first, data in zip(starts, run(encode, starts), strict=True):
            spins.id.write_direct_chunk((first, 0, 0), data)
        for name in ("energy", "magnetization"):
            values = np.empty(n)
            for c, part in enumerate(parts):
                values[(c - start) % C :: C] = getattr(part, name)
            file[name] = values
        _write_state(file, chains)


def _write_state(file: h5py.File, chains: list[ChainState]) -> None:
    state = file.create_group("state")
    spins = np.stack([chain.spins for chain in chains])
    state.create_dataset("spins", data=spins, compression="gzip", compression_opts=1)
    state["rng"] = np.stack([chain.rng for chain in chains])


def read_state(path: Path) -> list[ChainState]:
    """The chains as they were after the last field of a shard or of an ensemble."""
    with h5py.File(path, "r") as file:
        return [
            ChainState(*pair) for pair in zip(file["state/spins"], file["state/rng"], strict=True)
        ]


def commit(path: Path, scratch: Path, pieces: list[Path], p: IsingParameters) -> None:
    """Join the pieces, in order, into a new file and rename it to ``path``."""
    with _disk_errors(path), replacing(path, scratch) as temporary:
        _create(temporary, p)
        with h5py.File(temporary, "r+") as file:
            n = 0
            for piece in pieces:
                with h5py.File(piece, "r") as source:
                    n += _append(file, source, n)
            index = np.arange(n)
            spacing = p.updates_between_samples
            _extend(file, "chain", index % p.n_chains, 0)
            _extend(
                file, "update", p.thermalization_updates + (index // p.n_chains + 1) * spacing, 0
            )
            file["sample"].resize(n, axis=0)
            _write_state(file, read_state(pieces[-1]))
            attributes = {
                **p.attributes(),
                **independence(file["energy"][:], file["magnetization"][:], p),
                "n_samples_committed": n,
                "package_version": __version__,
            }
            for name, value in attributes.items():
                file.attrs[name] = value


def _append(file: h5py.File, source: h5py.File, start: int) -> int:
    """Append the fields of a piece; whole chunks move without being decompressed."""
    n, target = len(source["energy"]), file["spins"]
    target.resize(start + n, axis=0)
    chunk = target.chunks[0]
    if start % chunk or source["spins"].chunks != target.chunks:
        target[start:] = source["spins"][:]
    else:
        for first in range(0, n, chunk):
            filters, data = source["spins"].id.read_direct_chunk((first, 0, 0))
            target.id.write_direct_chunk((start + first, 0, 0), data, filters)
    for name in ("energy", "magnetization"):
        _extend(file, name, source[name][:], start)
    return n


def _extend(file: h5py.File, name: str, values: NDArray[Any], start: int) -> None:
    file[name].resize(start + len(values), axis=0)
    file[name][start:] = values


def independence(
    energy: NDArray[np.float64], magnetization: NDArray[np.float64], p: IsingParameters
) -> dict[str, float | str]:
    """How correlated the first fields are: of the pilot in updates, of themselves in fields."""
    times = pilot(p.L, abs(p.beta), p.seed, p.n_chains)
    chain = np.arange(len(energy)) % p.n_chains
    tau = [tau_int_of_chains(series, chain) for series in (energy, magnetization**2)]
    return {
        "tau_int_convention": "1/2 + sum of the normalised autocorrelation, Gamma method",
        "pilot_tau_int_energy": times.energy,
        "pilot_tau_int_magnetization_squared": times.magnetization_squared,
        "tau_int_energy": tau[0],
        "tau_int_magnetization_squared": tau[1],
        "n_effective": len(energy) / max(1.0, 2 * max(tau)),
    }


def _create(path: Path, p: IsingParameters) -> None:
    """An empty ensemble with named dimensions, extendable along samples."""
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"sample": None, "y": p.L, "x": p.L}
        file.create_variable(
            "spins",
            ("sample", "y", "x"),
            "i1",
            chunks=(chunk_length(p.L), p.L, p.L),
            compression="gzip",
            compression_opts=COMPRESSION_LEVEL,
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
