"""Geometric clusters of spins: sites connected through nearest neighbours of equal spin.

A field is cut into runs, the maximal stretches of equal spins in a row, numbered in the order of
their sites. Runs of neighbouring rows that touch with equal spins are united in a forest whose
trees are the clusters (Hoshen and Kopelman, Phys. Rev. B 14, 3438 (1976)). A parent always has a
lower number than its child, so one pass through the runs sums the sizes of the clusters.

Rows are words of bits: a run starts where s(x) != s(x - 1), and two rows are compared only where a
run of either starts, because nothing changes in between.
"""

import numpy as np
from numba import njit, prange, uint64
from numpy.typing import NDArray

from skild_physics.files import InputError
from skild_physics.kernels import kernel
from skild_physics.observables.packing import (
    Boundary,
    check_spins,
    columns_mask,
    leading_zeros,
    on_torus,
    pack,
    popcount,
    side_of_square,
    trailing_zeros,
)


@njit(inline="always")
def _root(parent, run):  # type: ignore[no-untyped-def]
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run


@kernel()
def _unite(parent, run, other):  # type: ignore[no-untyped-def]
    run, other = _root(parent, run), _root(parent, other)
    parent[max(run, other)] = min(run, other)


@kernel()
def _unite_rows(planes, starts, words, y, above, first, parent):  # type: ignore[no-untyped-def]
    """Unite the runs of row y with those of row above that they touch."""
    upper, lower = first[above] - 1, first[y] - 1
    for w in range(words):
        at_upper, at_lower = starts[w, above], starts[w, y]
        touch = (at_upper | at_lower) & ~(planes[w, y] ^ planes[w, above])
        while touch != uint64(0):
            up_to = touch ^ (touch - uint64(1))
            touch &= ~up_to
            _unite(
                parent,
                lower + np.int64(popcount(at_lower & up_to)),
                upper + np.int64(popcount(at_upper & up_to)),
            )
        upper += np.int64(popcount(at_upper))
        lower += np.int64(popcount(at_lower))


@kernel()
def _clusters(spins, torus, counts):  # type: ignore[no-untyped-def]
    """Number of clusters and size of the largest; adds to counts, shape (bin,)."""
    L = len(spins)
    words = (L + 63) >> 6
    planes, valid = pack(spins, 0, False)
    starts = np.empty((words, L), np.uint64)
    begin = np.empty(L * L + 1, np.int32)
    first = np.empty(L + 1, np.int32)
    runs = 0
    for y in range(L):
        first[y] = runs
        # a row begins a run, whatever its last site
        before = ~planes[0, y] << uint64(63)
        for w in range(words):
            word = planes[w, y]
            events = (word ^ ((word << uint64(1)) | (before >> uint64(63)))) & columns_mask(L, w)
            starts[w, y] = events
            before = word
            while events != uint64(0):
                begin[runs] = y * L + 64 * w + np.int64(trailing_zeros(events))
                events &= events - uint64(1)
                runs += 1
    first[L] = runs
    begin[runs] = L * L
    parent, size = np.empty(runs, np.int32), np.zeros(runs, np.int32)
    for run in range(runs):
        parent[run] = run
    for y in range(1, L):
        _unite_rows(planes, starts, words, y, y - 1, first, parent)
    if torus:
        _unite_rows(planes, starts, words, 0, L - 1, first, parent)
        for y in range(L):
            if spins[y, 0] == spins[y, L - 1]:
                _unite(parent, first[y], first[y + 1] - 1)
    for run in range(runs):
        parent[run] = parent[parent[run]]
        size[parent[run]] += begin[run + 1] - begin[run]
    clusters, largest = 0, 0
    for run in range(runs):
        if size[run] > 0:
            clusters += 1
            largest = max(largest, size[run])
            counts[63 - np.int64(leading_zeros(uint64(size[run])))] += 1
    return clusters, largest, valid


@kernel(parallel=True)
def _all_clusters(spins, torus, number, largest, counts, valid):  # type: ignore[no-untyped-def]
    for i in prange(len(spins)):
        number[i], largest[i], valid[i] = _clusters(spins[i], torus, counts[i])


def cluster_bins(L: int) -> NDArray[np.int64]:
    """Edges of the bins of cluster sizes on L x L sites: bin i is edges[i] <= size < edges[i + 1].

    Powers of two: 1, 2, 4 .. up to the first that exceeds L^2.
    """
    return np.asarray(2 ** np.arange((L * L).bit_length() + 1, dtype=np.int64))


def cluster_sizes(
    fields: NDArray[np.int8], boundary: Boundary
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Clusters of equal spins in every field.

    Args:
        fields: spins -1 and +1, int8, shape (n, L, L).
        boundary: "periodic" or "open": whether clusters reach across the edges.

    Returns:
        Number of clusters (n,), size of the largest in sites (n,), and numbers of clusters in each
        of :func:`cluster_bins`, shape (n, bin).

    Raises:
        InputError: another shape, dtype or boundary, or values other than -1 and +1.
    """
    L, torus = side_of_square(fields), on_torus(boundary)
    if fields.dtype != np.int8:
        raise InputError(f"clusters need int8 spins, got {fields.dtype}")
    n = len(fields)
    number, largest = np.empty(n, np.int64), np.empty(n, np.int64)
    counts = np.zeros((n, len(cluster_bins(L)) - 1), np.int64)
    valid = np.empty(n, np.bool_)
    _all_clusters(np.ascontiguousarray(fields), torus, number, largest, counts, valid)
    check_spins(valid)
    return number, largest, counts
