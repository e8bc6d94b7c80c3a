"""One pass over an ensemble: per-field quantities, summed over blocks of consecutive fields.

Every observable is a function of means over fields. Sums over blocks are all that their values,
jackknife errors and covariances need, so memory does not grow with the number of fields, and shards
of an ensemble can be measured anywhere. Only energy and magnetisation are kept field by field, for
the autocorrelation of the chain.

Spins can first be replaced, k times, by majority block spins.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_physics.cluster import check_in_file
from skild_physics.fields.checks import check_spins, check_values
from skild_physics.files import InputError
from skild_physics.observables.blockspins import block_spins
from skild_physics.observables.clusters import cluster_sizes
from skild_physics.observables.corners import corner_moments
from skild_physics.observables.twopoint import structure_factor, two_point

Boundary = Literal["periodic", "open"]
Array = NDArray[np.float64]
Means = dict[str, Array]

BATCH_SITES = 2**22
MAGNETIZATION_BINS = 64
NEAR_ZERO = 0.1


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        sides: sides r of the squares in lattice spacings, of every round, each once; larger ones
            than a round's lattice has are left out there. None: powers of two.
        boundary: of the fields.
        binarize: take the sign of continuous fields, zero counting as +1.
        block_spins: how often spins are replaced by majority block spins of 2 x 2.
        clusters: measure clusters of equal spins, too.
    """

    sides: tuple[int, ...] | None = None
    boundary: Boundary = "periodic"
    binarize: bool = True
    block_spins: int = 0
    clusters: bool = False

    def sides_of(self, L: int) -> NDArray[np.int64]:
        """Sides that a lattice of side L has."""
        largest = L // 2 if self.boundary == "periodic" else L - 1
        sides = default_sides(L)
        if self.sides is not None:
            sides = np.array(list(dict.fromkeys(self.sides)), np.int64)
        return sides[sides <= largest]


@dataclass(frozen=True)
class Blocks:
    """Sums over blocks of fields, each quantity of shape (block, ...), and series over fields."""

    L: int
    counts: NDArray[np.int64]
    sums: Means
    energy: Array
    magnetization: Array


def default_sides(L: int) -> NDArray[np.int64]:
    """Powers of two up to half the lattice: 1, 2, 4 .. L/2."""
    return np.array([2**i for i in range(L.bit_length() - 1)], dtype=np.int64)


def magnetization_edges() -> Array:
    """Edges of the bins of the magnetisation; the outermost bins take what lies beyond."""
    return np.linspace(-1, 1, MAGNETIZATION_BINS + 1)


def quantities(values: NDArray[Any], plan: Plan) -> Means:
    """What is averaged, for each field of shape (sample, L, L); all arrays are (sample, ...)."""
    L = values.shape[1]
    G = two_point(values, plan.boundary)
    m = values.mean(axis=(1, 2), dtype=np.float64)
    e = -(G[:, 1, 0] + G[:, 1, 1])
    bins = np.searchsorted(magnetization_edges()[1:-1], m, side="right")
    found = {
        "corners": corner_moments(values, plan.sides_of(L), plan.boundary),
        "two_point": G,
        "energy": e,
        "energy2": e**2,
        "m": m,
        "abs_m": np.abs(m),
        "m2": m**2,
        "m4": m**4,
        "histogram": np.eye(MAGNETIZATION_BINS)[bins],
    }
    if plan.boundary == "periodic":
        S = structure_factor(values)
        half = L // 2 + 1
        found["structure_factor"] = (S[:, 0, :half] + S[:, :half, 0]).astype(np.float64) / 2
    if plan.clusters and values.dtype == np.int8:
        number, largest, sizes = cluster_sizes(values, plan.boundary)
        found["clusters"] = number / L**2
        found["largest_cluster"] = largest / L**2
        found["cluster_sizes"] = sizes / L**2
    return found


def measure(
    fields: xr.DataArray,
    plan: Plan,
    n_blocks: int,
    blocks: range | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Blocks]:
    """Block sums of every round, the fields themselves first.

    Args:
        fields: shape (sample, L, L), opened lazily or in memory.
        plan: what to measure.
        n_blocks: blocks of the ensemble, at most one per field.
        blocks: measure only these.
        progress: called with the number of fields done.

    Raises:
        InputError: fields that hold nan, infinity or codes of missing values, or that cannot be
            halved as often as asked.
    """
    edges = np.linspace(0, len(fields), n_blocks + 1).astype(np.int64)
    blocks = range(n_blocks) if blocks is None else blocks
    edges = edges[blocks.start : blocks.stop + 1]
    found = [_Sums(fields.shape[1] >> k, edges) for k in range(plan.block_spins + 1)]
    for first, values in _batches(fields, int(edges[0]), int(edges[-1])):
        zero: Means = {}
        if values.dtype != np.int8:
            check_values(values, fields[first : first + len(values)])
            zero = {"near_zero": (np.abs(values) < NEAR_ZERO).mean(axis=(1, 2))}
            if plan.binarize:
                values = np.where(values < 0, -1, 1).astype(np.int8)
        for number, sums in enumerate(found):
            if number:
                values = block_spins(values)
            try:
                sums.add(first, quantities(values, plan) | zero)
            except InputError:
                # the kernel counts within its batch
                check_spins(values, fields[first : first + len(values)])
                raise
        progress(first + len(values))
    return [sums.blocks() for sums in found]


class _Sums:
    """Grows as batches of consecutive fields come in."""

    def __init__(self, L: int, edges: NDArray[np.int64]):
        self.L, self.edges = L, edges
        self.sums: Means = {}
        self.series: dict[str, list[Array]] = {"energy": [], "m": []}

    def add(self, first: int, measured: Means) -> None:
        places = np.arange(first, first + len(measured["energy"]))
        block = np.searchsorted(self.edges, places, side="right") - 1
        present, starts = np.unique(block, return_index=True)
        for name, values in measured.items():
            if name not in self.sums:
                self.sums[name] = np.zeros((len(self.edges) - 1, *values.shape[1:]))
            self.sums[name][present] += np.add.reduceat(values, starts, axis=0, dtype=np.float64)
        for name, kept in self.series.items():
            kept.append(measured[name])

    def blocks(self) -> Blocks:
        energy, m = (np.concatenate(kept) for kept in self.series.values())
        return Blocks(self.L, np.diff(self.edges), self.sums, energy, m)


def _batches(fields: xr.DataArray, start: int, stop: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Consecutive fields, the next batch being read while one is measured."""
    length = max(1, BATCH_SITES // (fields.shape[1] * fields.shape[2]))
    firsts = range(start, stop, length)

    def read(first: int) -> NDArray[Any]:
        values: NDArray[Any] = fields[first : min(first + length, stop)].values
        return values

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(read, firsts[0])
        for first in firsts:
            values = ahead.result()
            if first + length < stop:
                ahead = pool.submit(read, first + length)
            yield first, values


def joined(shards: list[list[Blocks]]) -> list[Blocks]:
    """Every round of consecutive shards of an ensemble as one."""
    return [
        Blocks(
            parts[0].L,
            np.concatenate([part.counts for part in parts]),
            {name: np.concatenate([part.sums[name] for part in parts]) for name in parts[0].sums},
            np.concatenate([part.energy for part in parts]),
            np.concatenate([part.magnetization for part in parts]),
        )
        for parts in zip(*shards, strict=True)
    ]


def measure_on(
    client: Any,
    fields: xr.DataArray,
    plan: Plan,
    n_blocks: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Blocks]:
    """:func:`measure` by the workers of a Dask client, which must see the same files.

    Raises:
        InputError: fields that were not opened from a file, or as :func:`measure`.
    """
    check_in_file(fields)
    n_shards = min(n_blocks, 4 * max(1, len(client.scheduler_info()["workers"])))
    edges = np.linspace(0, n_blocks, n_shards + 1).astype(int).tolist()
    # fields that have not been read are sent as the name of their file and what is taken from it
    jobs = [
        client.submit(measure, fields, plan, n_blocks, range(*pair), pure=False)
        for pair in pairwise(edges)
    ]
    shards = []
    for job, edge in zip(jobs, edges[1:], strict=True):
        shards.append(job.result())
        progress(len(fields) * edge // n_blocks)
    return joined(shards)
