import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from skild_physics.data_gen import IsingParameters, generate

from skild_physics import kspace
from skild_physics.fields import open_ensemble
from skild_physics.observables.correlators import (
    corner_means,
    default_sides,
    energy_per_spin,
    kappa4,
)
from skild_physics.observables.evaluate import evaluate
from skild_physics.observables.exact import BETA_CRITICAL
from skild_physics.observables.jackknife import jackknife


@given(st.integers(2, 12), st.integers(0, 2**32 - 1), st.sampled_from([np.int8, np.float64]))
def test_corner_means_against_rolls(L, seed, dtype):
    rng = np.random.default_rng(seed)
    amplitude = 1 if dtype == np.int8 else rng.random((3, L, L))
    fields = (rng.choice([-1, 1], (3, L, L)) * amplitude).astype(dtype)
    sides = np.arange(1, L // 2 + 1)
    ours = corner_means(fields, sides)
    for j, r in enumerate(sides):
        a = fields.astype(float)
        b, c = np.roll(a, -r, 2), np.roll(a, -r, 1)
        d = np.roll(b, -r, 1)
        products = (a * b * c * d, a * b, a * c, a * d, b * c)
        expected = np.stack([p.mean((1, 2)) for p in products], axis=-1)
        np.testing.assert_allclose(ours[:, j], expected, atol=1e-6)


def test_kappa4_is_the_fourth_cumulant():
    """Independent +-1 spins with a = b = c = d would give <s^4> - 3 <s^2>^2 = -2."""
    assert kappa4(np.ones(5)) == -2
    assert kappa4(np.array([0.5, 0.5, 0.4, 0.3, 0.2])) == pytest.approx(0.5 - 0.25 - 0.16 - 0.06)


def test_gaussian_fields_have_no_connected_four_point_correlator():
    N, n = 16, 4000
    sigma = (kspace.wavenumbers(N, "periodic") ** 2 + 20) ** -0.5
    modes = sigma * np.random.default_rng(5).normal(size=(n, N, N))
    fields = kspace.inverse(modes, "periodic")
    fields /= fields.std()
    estimate = jackknife(corner_means(fields, default_sides(N)), kappa4)
    assert (np.abs(estimate.value) < 4 * estimate.stderr).all()
    assert estimate.stderr.max() < 0.02


def test_four_by_four_against_enumeration(tmp_path):
    """kappa4 and energy of a generated ensemble against all 2^16 states."""
    L = 4
    states = np.arange(2**16)
    s = (1 - 2 * ((states[:, None] >> np.arange(16)) & 1)).reshape(-1, L, L).astype(np.int8)
    weight = np.exp(-BETA_CRITICAL * L**2 * energy_per_spin(s))
    sides = default_sides(L)
    exact = kappa4(np.average(corner_means(s, sides), axis=0, weights=weight))
    path = tmp_path / "ising.h5"
    generate(path, IsingParameters.planned(L, seed=8), 40_000, workers=2)
    with open_ensemble(path) as data:
        results = evaluate({"wolff": data["spins"]})
    pull = (results["kappa4"][0] - exact) / results["kappa4_stderr"][0]
    assert (np.abs(pull) < 4).all()
    assert float(results["kappa4_stderr"].max()) < 0.01
    energy = np.average(energy_per_spin(s), weights=weight)
    assert abs(float(results["energy"][0]) - energy) < 4 * float(results["energy_stderr"][0])


@given(st.integers(2, 200), st.integers(2, 70), st.integers(0, 2**32 - 1))
def test_jackknife_of_a_mean_is_its_standard_error(n, blocks, seed):
    x = np.random.default_rng(seed).normal(size=n)
    value, stderr = jackknife(x, lambda mean: mean, blocks)
    assert value == pytest.approx(x.mean())
    if blocks >= n:
        assert stderr == pytest.approx(x.std(ddof=1) / np.sqrt(n))
    assert stderr > 0


def test_jackknife_sees_correlations_within_blocks():
    """An AR(1) chain: blocks longer than its memory give the exact error of the mean."""
    rho, n, chains = 0.8, 6400, 200
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(n, chains)) * np.sqrt(1 - rho**2)
    x = np.empty((n, chains))
    x[0] = rng.normal(size=chains)
    for i in range(1, n):
        x[i] = rho * x[i - 1] + noise[i]
    exact = np.sqrt((1 + rho) / (1 - rho) / n)
    _, blocked = jackknife(x, lambda mean: mean, 64)
    _, naive = jackknife(x[:640], lambda mean: mean, 640)
    assert np.mean(blocked) == pytest.approx(exact, rel=0.05)
    assert np.mean(naive) < 0.5 * exact * np.sqrt(10)


def spins(n=64, L=8, seed=0):
    values = np.random.default_rng(seed).choice([-1, 1], (n, L, L)).astype(np.int8)
    return xr.DataArray(values, dims=("sample", "y", "x"))


def test_paired_residuals_cancel_what_both_share():
    truth = spins(256)
    model = truth.copy()
    model[:, 0, 0] *= -1
    paired = evaluate({"truth": truth, "model": model})
    unpaired = evaluate({"truth": truth, "model": model[:-1]})
    shift = paired["kappa4"].diff("source")[0]
    np.testing.assert_allclose(paired["kappa4_residual"][1], shift, atol=1e-12)
    ratio = paired["kappa4_residual_stderr"][1] / unpaired["kappa4_residual_stderr"][1]
    assert float(ratio.max()) < 0.6
    assert float(np.abs(paired["kappa4_residual"][0]).max()) == 0


def test_continuous_fields_are_binarised_or_not():
    truth = spins()
    model = truth * xr.DataArray(
        np.random.default_rng(1).uniform(0.2, 2, truth.shape).astype(np.float32), dims=truth.dims
    )
    signs = evaluate({"truth": truth, "model": model})
    assert float(np.abs(signs["kappa4_residual"]).max()) == 0
    raw = evaluate({"truth": truth, "model": model}, binarize=False)
    assert float(np.abs(raw["kappa4_residual"]).max()) > 0


@pytest.mark.parametrize(
    ("sources", "sides", "message"),
    [
        ({}, None, "nothing"),
        ({"a": spins(), "b": spins(L=6)}, None, "b has 6 x 6"),
        ({"a": spins(n=1)}, None, "single field"),
        ({"a": spins()}, [5], "1 .. 4"),
        ({"a": spins()}, [0], "1 .. 4"),
        ({"a": spins().astype(float) * np.nan}, None, "nan"),
    ],
)
def test_bad_input_is_named(sources, sides, message):
    with pytest.raises(ValueError, match=message):
        evaluate(sources, None if sides is None else np.array(sides))
