"""Kernels of the observables against NumPy and SciPy, site by site."""

from math import factorial

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from skild_physics import kspace
from skild_physics.machine import kept_threads
from skild_physics.observables.blockspins import block_spins
from skild_physics.observables.clusters import cluster_bins, cluster_sizes
from skild_physics.observables.corners import MOMENTS, corner_moments, kappa4
from skild_physics.observables.jackknife import jackknife
from skild_physics.observables.twopoint import (
    second_moment_correlation_length,
    structure_factor,
    two_point,
)

# around the 64 sites of a word, and several words
lengths = st.one_of(st.integers(2, 12), st.integers(62, 66), st.integers(126, 200))
boundaries = st.sampled_from(["periodic", "open"])
dtypes = st.sampled_from([np.int8, np.int64, np.float16, np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)


def random_fields(shape, dtype, seed):
    """Magnetised, so that odd moments differ from zero, with amplitudes where the dtype has any."""
    rng = np.random.default_rng(seed)
    spins = rng.choice([-1, 1], shape, p=[0.3, 0.7])
    amplitude = 1 + rng.random(shape) if np.dtype(dtype).kind == "f" else 1
    return (spins * amplitude).astype(dtype)


def displaced(fields, dy, dx, boundary):
    """Sites and the sites (dy, dx) away, dy >= 0, where both are on the lattice."""
    values = fields.astype(np.float64)
    if boundary == "periodic":
        return values, np.roll(values, (-dy, -dx), (1, 2))
    Ly, Lx = values.shape[1:]
    left, right = max(0, -dx), max(0, dx)
    return (
        values[:, : Ly - dy, left : Lx - right],
        values[:, dy:, right : Lx - left],
    )


@settings(max_examples=60)
@given(lengths, lengths, dtypes, boundaries, seeds, st.data())
def test_corner_moments_against_rolls(Ly, Lx, dtype, boundary, seed, data):
    fields = random_fields((2, Ly, Lx), dtype, seed)
    largest = min(Ly, Lx) // 2 if boundary == "periodic" else min(Ly, Lx) - 1
    sides = data.draw(st.lists(st.integers(1, largest), min_size=1, max_size=3))
    sides += [whole_words for whole_words in (64, 128) if whole_words <= largest]
    ours = corner_moments(fields, np.array(sides), boundary)
    assert ours.shape == (2, len(sides), 15)
    assert ours.dtype == np.float64
    for j, r in enumerate(sides):
        values = fields.astype(np.float64)
        if boundary == "periodic":
            right = np.roll(values, -r, 2)
            corners = dict(a=values, b=right, c=np.roll(values, -r, 1), d=np.roll(right, -r, 1))
        else:
            upper, lower = values[:, :-r], values[:, r:]
            corners = dict(
                a=upper[:, :, :-r], b=upper[:, :, r:], c=lower[:, :, :-r], d=lower[:, :, r:]
            )
        for k, names in enumerate(MOMENTS):
            expected = np.prod([corners[name] for name in names], axis=0).mean((1, 2))
            np.testing.assert_allclose(ours[:, j, k], expected, rtol=1e-6, atol=1e-6)


def test_spins_are_counted_exactly():
    """The same spins as bits and as numbers, on a lattice whose rows end within a word."""
    spins = random_fields((3, 77, 130), np.int8, 0)
    for boundary in ("periodic", "open"):
        as_bits = corner_moments(spins, np.array([1, 13, 38]), boundary)
        as_numbers = corner_moments(spins.astype(np.float64), np.array([1, 13, 38]), boundary)
        np.testing.assert_allclose(as_bits, as_numbers, rtol=0, atol=1e-15)


def test_uniform_and_staggered_spins():
    sides = np.array([1, 2, 5, 32])
    up = np.ones((1, 70, 70), np.int8)
    staggered = (1 - 2 * (np.indices((1, 70, 70)).sum(0) % 2)).astype(np.int8)
    for boundary in ("periodic", "open"):
        assert (corner_moments(up, sides, boundary) == 1).all()
        assert (kappa4(corner_moments(up, sides, boundary)) == -2).all()
        assert (kappa4(corner_moments(up, sides, boundary), zero_mean=False) == 0).all()
        moments = dict(zip(MOMENTS, corner_moments(staggered, sides, boundary)[0].T, strict=True))
        sign = 1 - 2 * (sides % 2)
        for names in ("ab", "ac", "bd", "cd"):
            assert (moments[names] == sign).all()
        for names in ("abcd", "ad", "bc"):
            assert (moments[names] == 1).all()


def test_float32_rows_keep_their_digits():
    """A mean of one, so that sums along a row of 4096 sites are long."""
    fields = np.random.default_rng(0).normal(1, 0.1, (1, 8, 4096)).astype(np.float32)
    single = corner_moments(fields, np.array([1, 4]), "periodic")
    double = corner_moments(fields.astype(np.float64), np.array([1, 4]), "periodic")
    np.testing.assert_allclose(single, double, rtol=1e-6)


def test_non_contiguous_fields():
    spins = random_fields((2, 70, 140), np.int8, 1)[:, ::-1, ::2]
    sides = np.array([1, 30])
    for view in (spins, spins.astype(np.float32).transpose(0, 2, 1)):
        same = corner_moments(np.ascontiguousarray(view), sides, "open")
        np.testing.assert_array_equal(corner_moments(view, sides, "open"), same)
    same = two_point(np.ascontiguousarray(spins), "periodic")
    np.testing.assert_array_equal(two_point(spins, "periodic"), same)
    np.testing.assert_array_equal(block_spins(spins), block_spins(np.ascontiguousarray(spins)))


def partitions(names):
    if not names:
        yield []
        return
    first, rest = names[0], names[1:]
    for blocks in partitions(rest):
        yield [first, *blocks]
        for i, block in enumerate(blocks):
            yield [*blocks[:i], first + block, *blocks[i + 1 :]]


def exact_moments(states, weights):
    """Moments of a joint distribution of the four corners, states (n, 4)."""
    corners = dict(zip("abcd", states.T, strict=True))
    return np.array(
        [weights @ np.prod([corners[name] for name in names], axis=0) for names in MOMENTS]
    )


@pytest.mark.parametrize("seed", range(5))
def test_kappa4_is_a_sum_over_partitions(seed):
    """All of {-1, 1}^4 with random weights; adding constants to corners changes nothing."""
    rng = np.random.default_rng(seed)
    states = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 4), axis=-1).reshape(16, 4)
    weights = rng.dirichlet(np.ones(16))
    moments = exact_moments(states, weights)
    average = dict(zip(MOMENTS, moments, strict=True))
    terms = [
        (-1) ** (len(blocks) - 1)
        * factorial(len(blocks) - 1)
        * np.prod([average["".join(sorted(block))] for block in blocks])
        for blocks in partitions("abcd")
    ]
    assert len(terms) == 15
    assert kappa4(moments, zero_mean=False) == pytest.approx(sum(terms), abs=1e-14)
    shifted = exact_moments(states + rng.normal(size=4), weights)
    assert kappa4(shifted, zero_mean=False) == pytest.approx(sum(terms), abs=1e-13)
    assert abs(kappa4(shifted) - sum(terms)) > 0.01
    even = exact_moments(np.concatenate([states, -states]), np.tile(weights / 2, 2))
    assert kappa4(even) == pytest.approx(float(kappa4(even, zero_mean=False)), abs=1e-14)


@pytest.mark.parametrize(("boundary", "mean"), [("periodic", 0), ("open", 0), ("open", 0.7)])
def test_gaussian_fields_have_no_connected_four_point_correlator(boundary, mean):
    N, n = 16, 4000
    sigma = (kspace.wavenumbers(N, "periodic") ** 2 + 20) ** -0.5
    modes = sigma * np.random.default_rng(5).normal(size=(n, N, N))
    fields = kspace.inverse(modes, "periodic")
    fields = fields / fields.std() + mean
    moments = corner_moments(fields.astype(np.float32), np.array([1, 2, 4, 8]), boundary)
    estimate = jackknife(moments, lambda m: kappa4(m, zero_mean=mean == 0))
    assert (np.abs(estimate.value) < 4 * estimate.stderr).all()
    assert estimate.stderr.max() < 0.02


def test_independent_spins_have_no_connected_four_point_correlator():
    spins = np.random.default_rng(3).choice([-1, 1], (2000, 8, 8)).astype(np.int8)
    estimate = jackknife(corner_moments(spins, np.array([1, 2]), "open"), kappa4)
    assert (np.abs(estimate.value) < 4 * estimate.stderr).all()
    assert estimate.stderr.max() < 0.01


@settings(max_examples=40)
@given(lengths, dtypes, boundaries, seeds)
def test_two_point_against_rolls(L, dtype, boundary, seed):
    fields = random_fields((2, L, L), dtype, seed)
    ours = two_point(fields, boundary)
    R = L // 2 if boundary == "periodic" else L - 1
    assert ours.shape == (2, R + 1, 3)
    for r in {*range(min(R, 4)), R // 2, min(R, 64), R - 1, R}:
        for k, steps in enumerate([[(0, r)], [(r, 0)], [(r, r), (r, -r)]]):
            pairs = [displaced(fields, dy, dx, boundary) for dy, dx in steps]
            expected = np.mean([(s * t).mean((1, 2)) for s, t in pairs], axis=0)
            np.testing.assert_allclose(ours[:, r, k], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("boundary", ["periodic", "open"])
def test_two_point_of_many_spins_against_fourier(boundary):
    """Bits and the Fourier transform at every distance, over several batches of fields."""
    spins = random_fields((40, 65, 65), np.int8, 4)
    ours = two_point(spins, boundary)
    np.testing.assert_allclose(ours, two_point(spins.astype(np.float32), boundary), atol=1e-12)
    assert (ours[:, 0] == 1).all()


@given(lengths, seeds)
@settings(max_examples=15)
def test_wiener_khinchin(L, seed):
    spins = random_fields((2, L, L), np.int8, seed)
    S, G = structure_factor(spins), two_point(spins, "periodic")
    assert S.shape == (2, L, L // 2 + 1)
    assert S.dtype == np.float32
    correlation = np.fft.irfft2(S.astype(np.float64), (L, L))
    r = np.arange(L // 2 + 1)
    np.testing.assert_allclose(correlation[:, 0, r], G[:, :, 0], atol=1e-5)
    np.testing.assert_allclose(correlation[:, r, 0], G[:, :, 1], atol=1e-5)
    diagonals = (correlation[:, r, r] + correlation[:, r, -r]) / 2
    np.testing.assert_allclose(diagonals, G[:, :, 2], atol=1e-5)
    np.testing.assert_allclose(S[:, 0, 0], L**2 * spins.mean((1, 2)) ** 2, rtol=1e-5, atol=1e-5)


def test_structure_factor_of_one_wave():
    L = 12
    y, x = np.mgrid[:L, :L]
    wave = np.cos(2 * np.pi * (2 * y + 3 * x) / L)[None]
    S = structure_factor(np.concatenate([wave] * 2))
    expected = np.zeros((L, L // 2 + 1))
    expected[2, 3] = L**2 / 4
    np.testing.assert_allclose(S, [expected, expected], atol=1e-4)


def test_correlation_length_of_a_lattice_propagator():
    L, xi = 48, 5.5
    S0, S1 = xi**2, 1 / (4 * np.sin(np.pi / L) ** 2 + xi**-2)
    ours = second_moment_correlation_length(np.array([S0, S1]), np.array([S1, S0]), L)
    assert ours[0] == pytest.approx(xi)
    assert np.isnan(ours[1])


def sizes_of_clusters(field, boundary):
    """Cluster sizes by labels of SciPy, merged across the edges of a torus with networkx."""
    up, n_up = ndimage.label(field > 0)
    down, n_down = ndimage.label(field < 0)
    labels = np.where(field > 0, up, down + n_up)
    graph = nx.Graph()
    graph.add_nodes_from(range(1, n_up + n_down + 1))
    if boundary == "periodic":
        for first, last, s, t in (
            (labels[0], labels[-1], field[0], field[-1]),
            (labels[:, 0], labels[:, -1], field[:, 0], field[:, -1]),
        ):
            graph.add_edges_from(zip(first[s == t], last[s == t], strict=True))
    sites = np.bincount(labels.ravel())
    return [int(sites[list(nodes)].sum()) for nodes in nx.connected_components(graph)]


@settings(max_examples=60)
@given(st.one_of(st.just(1), lengths), boundaries, st.floats(0, 3), seeds)
def test_clusters_against_labels(L, boundary, blur, seed):
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(2, L, L)), (0, blur, blur), mode="wrap")
    spins = np.where(noise < 0, -1, 1).astype(np.int8)
    number, largest, counts = cluster_sizes(spins, boundary)
    assert counts.shape == (2, len(cluster_bins(L)) - 1)
    for i, field in enumerate(spins):
        sizes = sizes_of_clusters(field, boundary)
        assert number[i] == len(sizes)
        assert largest[i] == max(sizes)
        np.testing.assert_array_equal(counts[i], np.histogram(sizes, cluster_bins(L))[0])


def test_clusters_that_wind():
    """A spiral, rows, and a chequerboard; on a torus of odd side edges of the last one join."""
    L = 9
    rows = np.ones((L, L), np.int8)
    rows[::2] = -1
    chequered = (rows * rows.T).astype(np.int8)
    spiral = -np.ones((L, L), np.int8)
    spiral[0, :] = spiral[:, -1] = spiral[-1, :] = spiral[2:, 0] = spiral[2, :-2] = 1
    fields = np.stack([rows, chequered, spiral])
    assert cluster_sizes(fields, "open")[0].tolist() == [9, 81, 2]
    number, largest, counts = cluster_sizes(fields, "periodic")
    assert number[0] == 8
    assert largest[0] == 2 * L
    assert counts[0].tolist() == [0, 0, 0, 7, 1, 0, 0]
    assert number.tolist() == [
        len(sizes_of_clusters(field, "periodic")) for field in (rows, chequered, spiral)
    ]
    assert cluster_bins(9).tolist() == [1, 2, 4, 8, 16, 32, 64, 128]
    assert cluster_bins(8).tolist() == [1, 2, 4, 8, 16, 32, 64, 128]


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 6), seeds)
def test_block_spins_against_sums(M, b, seed):
    spins = random_fields((3, M * b, M * b), np.int8, seed)
    ours = block_spins(spins, b)
    assert ours.dtype == np.int8
    blocks = spins.reshape(3, M, b, M, b).astype(int)
    majority = np.sign(blocks.sum((2, 4)))
    np.testing.assert_array_equal(ours, np.where(majority == 0, blocks[:, :, 0, :, 0], majority))
    np.testing.assert_array_equal(block_spins(-spins, b), -ours)
    moved = block_spins(np.roll(spins, (b, -2 * b), (1, 2)), b)
    np.testing.assert_array_equal(moved, np.roll(ours, (1, -2), (1, 2)))


UP = np.ones((2, 4, 4), np.int8)
ONE = np.array([1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: corner_moments(UP[0], ONE, "open"), "shape"),
        (lambda: corner_moments(UP, ONE, "torus"), "boundary"),
        (lambda: corner_moments(UP, np.array([0]), "open"), "1 .. 3"),
        (lambda: corner_moments(UP, np.array([4]), "open"), "1 .. 3"),
        (lambda: corner_moments(UP, np.array([3]), "periodic"), "1 .. 2"),
        (lambda: corner_moments(UP[:, :3], np.array([2]), "periodic"), "1 .. 1 on a .* 3 x 4"),
        (lambda: corner_moments(UP, np.array([], int), "open"), "1 .. 3"),
        (lambda: corner_moments(UP, np.array([[1]]), "open"), "1 .. 3"),
        (lambda: corner_moments(UP * np.int8(3), ONE, "open"), "field 0 holds"),
        (lambda: two_point(UP[:, :3], "open"), "shape"),
        (lambda: two_point(UP, "cosine"), "boundary"),
        (lambda: two_point(np.stack([UP[0], 0 * UP[0]]), "open"), "field 1 holds"),
        (lambda: structure_factor(UP[:, :3]), "shape"),
        (lambda: cluster_sizes(UP[:, :3], "open"), "shape"),
        (lambda: cluster_sizes(UP, "none"), "boundary"),
        (lambda: cluster_sizes(UP.astype(np.int16), "open"), "int8"),
        (lambda: cluster_sizes(UP * np.int8(2), "open"), "field 0 holds"),
        (lambda: block_spins(UP[0]), "shape"),
        (lambda: block_spins(UP, 3), "3 x 3 do not fill 4 x 4"),
        (lambda: block_spins(UP, 0), "0 x 0"),
        (lambda: block_spins(UP.astype(float)), "int8"),
        (lambda: block_spins(UP * np.int8(-3)), "field 0 holds"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("x", [0, 5, 63, 64, 69])
def test_a_single_wrong_spin_is_found(x):
    """In the first word and in the last one, which is not full."""
    spins = np.ones((3, 70, 70), np.int8)
    spins[2, 69, x] = 0
    for call in (
        lambda: corner_moments(spins, ONE, "periodic"),
        lambda: two_point(spins, "open"),
        lambda: cluster_sizes(spins, "open"),
        lambda: block_spins(spins, 7),
    ):
        with pytest.raises(ValueError, match="field 2 holds"):
            call()


def test_no_fields():
    none = np.ones((0, 8, 8), np.int8)
    assert corner_moments(none, ONE, "open").shape == (0, 1, 15)
    assert two_point(none.astype(float), "open").shape == (0, 8, 3)
    assert structure_factor(none).shape == (0, 8, 5)
    assert cluster_sizes(none, "open")[2].shape == (0, 7)
    assert block_spins(none).shape == (0, 4, 4)


def test_torch_keeps_its_threads():
    """Numba's OpenMP, which has as many as there are processors, may be that of torch."""
    with kept_threads():
        torch.set_num_threads(1)
        corner_moments(random_fields((4, 8, 8), np.int8, 0), np.array([1, 2]), "periodic")
        assert torch.get_num_threads() == 1
