"""Files of an ensemble that are whole at every moment.

Work is written in shards START-STOP.h5 in the claimed folder of FILE, each renamed into place
complete with the state of its chains. FILE itself is replaced by a longer one, in one rename,
whenever the fields have doubled and at the end; compressed chunks are moved as they are, so that
costs little.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from skild_physics.claims import replacing
from skild_physics.data_gen.chains import ChainState, Samples
from skild_physics.data_gen.parameters import IsingParameters, pilot
from skild_physics.disk import Disk, onto_disk
from skild_physics.fields.arrays import unreadable
from skild_physics.files import InputError
from skild_physics.heaps import open_hdf5
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


def fletcher32(data: bytes) -> bytes:
    """The checksum that HDF5 appends to a chunk, and looks at when it is read."""
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").astype(np.uint64)
    sums = words.sum(), (words * np.arange(len(words), 0, -1, dtype=np.uint64)).sum()
    # sums of 16 bits with the carry added, which are 0 only of zeros
    one, two = ((int(s) - 1) % 0xFFFF + 1 if s else 0 for s in sums)
    return (two << 16 | one).to_bytes(4, "little")


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
        data: bytes = isal_zlib.compress(block.tobytes(), COMPRESSION_LEVEL)
        return data + fletcher32(data)

    starts = range(0, n, chunk)
    with replacing(path) as temporary, onto_disk(temporary) as disk, h5py.File(disk, "w") as file:
        spins = file.create_dataset(
            "spins",
            (n, L, L),
            np.int8,
            chunks=(chunk, L, L),
            maxshape=(None, L, L),
            compression="gzip",
            compression_opts=COMPRESSION_LEVEL,
            fletcher32=True,
        )
        for first, data in zip(starts, run(encode, starts), strict=True):
            spins.id.write_direct_chunk((first, 0, 0), data)
        for name in ("energy", "magnetization"):
            values = np.empty(n)
            for c, part in enumerate(parts):
                values[(c - start) % C :: C] = getattr(part, name)
            file.create_dataset(name, data=values, fletcher32=True)
        _write_state(file, chains)


def is_whole(path: Path, start: int, stop: int, p: IsingParameters) -> bool:
    """Whether a shard holds these fields of this ensemble as they were written."""
    n = stop - start
    shapes = {"spins": (n, p.L, p.L), "energy": (n,), "magnetization": (n,)}
    shapes |= {"state/spins": (p.n_chains, p.L, p.L), "state/rng": (p.n_chains, 4)}
    try:
        with open_hdf5(path) as file:
            return all(
                file[name].shape == shape and _is_undamaged(file[name])
                for name, shape in shapes.items()
            )
    except Exception:
        # of damaged files HDF5 raises what it likes
        return False


def _is_undamaged(dataset: h5py.Dataset) -> bool:
    """Whether all chunks are there and as their checksums say; none is decompressed."""
    for part in dataset.iter_chunks():
        data = dataset.id.read_direct_chunk(tuple(along.start for along in part))[1]
        if data[-4:] != fletcher32(data[:-4]):
            return False
    return True


def _write_state(file: h5py.File, chains: list[ChainState]) -> None:
    state = file.create_group("state")
    spins = np.stack([chain.spins for chain in chains])
    state.create_dataset(
        "spins", data=spins, compression="gzip", compression_opts=1, fletcher32=True
    )
    state.create_dataset("rng", data=np.stack([chain.rng for chain in chains]), fletcher32=True)


def read_state(path: Path, p: IsingParameters) -> list[ChainState]:
    """The chains as they were after the last field of a shard or of an ensemble.

    Raises:
        InputError: they are no chains of such an ensemble, or damaged.
    """
    expected = {"spins": ((p.n_chains, p.L, p.L), np.int8), "rng": ((p.n_chains, 4), np.uint64)}
    try:
        with open_hdf5(path) as file:
            found = {}
            for name, (shape, dtype) in expected.items():
                stored = file.get(f"state/{name}")
                if not isinstance(stored, h5py.Dataset) or stored.shape != shape:
                    raise InputError(f"{path}: its state/{name} is not of shape {shape}")
                if stored.dtype != dtype:
                    raise InputError(f"{path}: its state/{name} holds {stored.dtype}")
                found[name] = stored[()]
    except InputError:
        raise
    except Exception as error:
        # of damaged files HDF5 raises what it likes
        raise unreadable(path, "state", error) from None
    if not (np.abs(found["spins"]) == 1).all():
        raise InputError(f"{path}: its state/spins holds other spins than -1 and +1")
    if not found["rng"].any(axis=1).all():
        raise InputError(f"{path}: its state/rng holds a generator that is all zero")
    return [ChainState(*pair) for pair in zip(found["spins"], found["rng"], strict=True)]


def check_extendable(path: Path, p: IsingParameters, samples: int) -> None:
    """Refuse to go on with what is no whole ensemble of these parameters.

    Args:
        path: the file.
        p: its parameters.
        samples: fields that it says it holds.

    Raises:
        InputError: arrays of other shapes or types, or chains that are none.
    """
    columns = {"energy": "f", "magnetization": "f", "chain": "i", "update": "i"}
    with open_hdf5(path) as file:
        shapes = {"spins": (samples, p.L, p.L), **dict.fromkeys(columns, (samples,))}
        for name, shape in shapes.items():
            stored = file.get(name)
            if not isinstance(stored, h5py.Dataset) or stored.shape != shape:
                raise InputError(f"{path}: its {name} is not of shape {shape}")
            if name in columns and file[name].dtype.kind != columns[name]:
                raise InputError(f"{path}: its {name} holds {file[name].dtype}")
    read_state(path, p)


def commit(path: Path, pieces: list[Path], p: IsingParameters) -> None:
    """Join the pieces, in order, into a new file and rename it to ``path``."""
    with replacing(path) as temporary, onto_disk(temporary) as disk:
        _create(disk, p)
        with h5py.File(disk, "r+") as file:
            n = 0
            for piece in pieces:
                with h5py.File(piece, "r") as source:
                    n += _append(file, source, n)
                disk.check()
            index = np.arange(n)
            spacing = p.updates_between_samples
            _extend(file, "chain", index % p.n_chains, 0)
            _extend(
                file, "update", p.thermalization_updates + (index // p.n_chains + 1) * spacing, 0
            )
            file["sample"].resize(n, axis=0)
            _write_state(file, read_state(pieces[-1], p))
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
    if start % chunk or _layout(source["spins"]) != _layout(target):
        target[start:] = _values(source, "spins")
    else:
        for first in range(0, n, chunk):
            filters, data = source["spins"].id.read_direct_chunk((first, 0, 0))
            target.id.write_direct_chunk((start + first, 0, 0), data, filters)
    for name in ("energy", "magnetization"):
        _extend(file, name, _values(source, name), start)
    return n


def _values(source: h5py.File, name: str) -> NDArray[Any]:
    """All that a piece holds of one kind.

    Raises:
        InputError: it is damaged.
    """
    try:
        values: NDArray[Any] = source[name][:]
    except Exception as error:
        raise unreadable(Path(source.filename), "ensemble", error) from None
    return values


def _layout(dataset: h5py.Dataset) -> tuple[Any, ...]:
    """What the bytes of chunks depend on."""
    made = dataset.id.get_create_plist()
    return dataset.chunks, *(made.get_filter(i)[0] for i in range(made.get_nfilters()))


def _extend(file: h5py.File, name: str, values: NDArray[Any], start: int) -> None:
    file[name].resize(start + len(values), axis=0)
    file[name][start:] = values


def independence(
    energy: NDArray[np.float64], magnetization: NDArray[np.float64], p: IsingParameters
) -> dict[str, float | str]:
    """How correlated the first fields are: of the pilot in updates, of themselves in fields."""
    times = pilot(p)
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


def _create(disk: Disk, p: IsingParameters) -> None:
    """An empty ensemble with named dimensions, extendable along samples."""
    with h5netcdf.File(disk, "w") as file:
        file.dimensions = {"sample": None, "y": p.L, "x": p.L}
        file.create_variable(
            "spins",
            ("sample", "y", "x"),
            "i1",
            chunks=(chunk_length(p.L), p.L, p.L),
            compression="gzip",
            compression_opts=COMPRESSION_LEVEL,
            fletcher32=True,
        ).attrs["long_name"] = "spin, +1 or -1"
        for name, dtype, units, long_name in (
            ("energy", "f8", "J", "energy per spin"),
            ("magnetization", "f8", "1", "magnetisation per spin"),
            ("chain", "i4", "1", "Markov chain of the field"),
            ("update", "i8", "1", "updates of the chain since its ordered start"),
        ):
            variable = file.create_variable(
                name, ("sample",), dtype, chunks=(4096,), fletcher32=True
            )
            variable.attrs["units"] = units
            variable.attrs["long_name"] = long_name
