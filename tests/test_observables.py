import mpmath
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from skild_physics import kspace
from skild_physics.data_gen import IsingParameters, generate
from skild_physics.fields import open_fields
from skild_physics.files import InputError
from skild_physics.observables.blockspins import block_spins
from skild_physics.observables.compare import compare_with_exact
from skild_physics.observables.evaluate import eval_correlators
from skild_physics.observables.exact import BETA_CRITICAL, enumerated_torus, torus_energy
from skild_physics.observables.formulas import torus_decay
from skild_physics.observables.jackknife import chi_square, jackknife
from skild_physics.observables.measure import Plan, default_sides, joined, measure, measure_on
from skild_physics.spectrum import measure_blocks


def spins(n=64, L=8, seed=0):
    values = np.random.default_rng(seed).choice([-1, 1], (n, L, L)).astype(np.int8)
    return xr.DataArray(values, dims=("sample", "y", "x"))


def autoregressive(n, rho, rng, shape=()):
    """Stationary AR(1) series of unit variance, shape (n, *shape)."""
    noise = rng.normal(size=(n, *shape)) * np.sqrt(1 - rho**2)
    x = np.empty((n, *shape))
    x[0] = rng.normal(size=shape)
    for i in range(1, n):
        x[i] = rho * x[i - 1] + noise[i]
    return x


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    path = tmp_path_factory.mktemp("ensemble") / "ising.h5"
    generate(path, IsingParameters.planned(16, seed=3), 6000, workers=2)
    return path


def test_enumeration_knows_kaufman():
    for L in (3, 4):
        states, weights = enumerated_torus(L, 0.4)
        s = states.astype(float)
        e = -(s * (np.roll(s, 1, 1) + np.roll(s, 1, 2))).mean((1, 2))
        assert weights @ e == pytest.approx(torus_energy(L, 0.4), abs=1e-12)
    with pytest.raises(ValueError, match="4 x 4"):
        enumerated_torus(5, 0.4)


def test_four_by_four_against_enumeration(tmp_path):
    """Everything of an ensemble of the 4 x 4 torus against all 2^16 states."""
    L = 4
    path = tmp_path / "ising.h5"
    generate(path, IsingParameters.planned(L, seed=8), 40_000, workers=2)
    with open_fields(path) as fields:
        results = eval_correlators({"wolff": fields}).dataset
    found = {c.observable: c for c in compare_with_exact(results, "wolff")}
    finite = [c for c in found.values() if not c.of_infinite_lattice]
    assert {c.observable for c in finite} == {
        "energy per spin",
        "neighbours",
        "specific heat",
        "kappa4(r = 1)",
        "kappa4(r = 2)",
    }
    assert all(abs(c.z) < 4 for c in finite)
    assert max(c.stderr for c in finite if "kappa4" in c.observable) < 0.01
    states, weights = enumerated_torus(L, BETA_CRITICAL)
    m = states.mean((1, 2))
    m2, m4, abs_m = weights @ m**2, weights @ m**4, weights @ np.abs(m)
    exact = {
        "binder": 1 - m4 / (3 * m2**2),
        "susceptibility": BETA_CRITICAL * 16 * (m2 - abs_m**2),
        "abs_magnetization": abs_m,
    }
    for name, value in exact.items():
        z = (float(results[name][0]) - value) / float(results[f"{name}_stderr"][0])
        assert abs(z) < 4, name
    histogram = results["magnetization_histogram"][0].values
    assert histogram.sum() == pytest.approx(1)
    assert histogram[-1] == pytest.approx(weights[m == 1].sum(), abs=0.02)


def test_exact_values_of_a_larger_torus(ensemble):
    with open_fields(ensemble) as fields:
        results = eval_correlators({"wolff": fields}).dataset
    found = {c.observable: c for c in compare_with_exact(results, "wolff")}
    for name in ("energy per spin", "neighbours", "specific heat", "eta"):
        assert abs(found[name].z) < 4, name
    # finite size shifts these by no more than a few per cent
    for name in ("Binder parameter", "next neighbours"):
        assert found[name].value == pytest.approx(found[name].exact, rel=0.06)
    assert found["eta"].stderr < 0.02
    assert float(results["tau_int"][0]) < 1.5


def test_decay_on_the_critical_torus():
    """Theta functions against mpmath, and 1/r^(1/4) at distances small against L."""
    L = 64
    distance, sectors = torus_decay(L)
    nome = mpmath.exp(-mpmath.pi)
    slope = mpmath.pi * mpmath.jtheta(1, 0, nome, 1)
    for r in (1, 7, 32):
        z = mpmath.mpf(r) / L
        theta = [abs(mpmath.jtheta(k, mpmath.pi * z / 2, nome)) for k in (1, 2, 3, 4)]
        first = mpmath.jtheta(1, mpmath.pi * z, nome) / slope
        assert distance[r - 1] == pytest.approx(float(mpmath.log(first)), abs=1e-12)
        assert sectors[r - 1] == pytest.approx(float(mpmath.log(sum(theta))), abs=1e-12)
    assert distance[0] == pytest.approx(np.log(1 / L), abs=1e-3)


def test_gaussian_fields_have_no_connected_four_point_correlator():
    N, n = 16, 4000
    sigma = (kspace.wavenumbers(N, "periodic") ** 2 + 20) ** -0.5
    modes = sigma * np.random.default_rng(5).normal(size=(n, N, N))
    fields = kspace.inverse(modes, "periodic")
    fields = xr.DataArray((fields / fields.std()).astype(np.float32), dims=("sample", "y", "x"))
    results = eval_correlators({"gaussian": fields}, binarize="none").dataset
    for name in ("kappa4", "kappa4_cumulant"):
        pull = results[name][0] / results[f"{name}_stderr"][0]
        assert float(np.abs(pull).max()) < 4
        assert float(results[f"{name}_stderr"].max()) < 0.02


@given(st.integers(2, 200), st.integers(2, 70), st.integers(0, 2**32 - 1))
def test_jackknife_of_a_mean_is_its_standard_error(n, blocks, seed):
    x = np.random.default_rng(seed).normal(size=n)
    value, stderr = jackknife(x, lambda mean: mean, blocks)
    assert value == pytest.approx(x.mean())
    if min(n, blocks) < 8:
        assert np.isnan(stderr)
        return
    if blocks >= n:
        assert stderr == pytest.approx(x.std(ddof=1) / np.sqrt(n))
    assert stderr > 0


@pytest.mark.parametrize("n", [7, 8])
def test_fewer_than_eight_fields_have_no_error_bars(n):
    results = eval_correlators(
        {"few": spins(n), "as many": spins(n, seed=1), "more": spins(20)}, beta=1.0
    ).dataset
    for label, known in (("few", n > 7), ("as many", n > 7), ("more", True)):
        for name in ("kappa4", "energy", "two_point"):
            assert np.isfinite(results[name].sel(source=label)).all()
            errors = results[f"{name}_stderr"].sel(source=label)
            assert (np.isfinite(errors) == known).all(), (label, name)
    for label in ("as many", "more"):
        at = results.sel(source=label)
        assert np.isfinite(at["energy_residual"])
        assert np.isfinite(at["energy_residual_stderr"]) == (n > 7)
        assert np.isfinite(at["kappa4_residual_p_value"]) == (n > 7)
    known = [np.isfinite(each.z) for each in compare_with_exact(results, "few")]
    assert set(known) == {n > 7}


def test_jackknife_sees_correlations_within_blocks():
    """An AR(1) chain: blocks longer than its memory give the exact error of the mean."""
    rho, n = 0.8, 6400
    x = autoregressive(n, rho, np.random.default_rng(1), (200,))
    exact = np.sqrt((1 + rho) / (1 - rho) / n)
    _, blocked = jackknife(x, lambda mean: mean, 64)
    _, naive = jackknife(x[:640], lambda mean: mean, 640)
    assert np.mean(blocked) == pytest.approx(exact, rel=0.05)
    assert np.mean(naive) < 0.5 * exact * np.sqrt(10)


def covered(rho, n, replicas, seed):
    """Shares of 68 % intervals of m2 and U4 that hold their exact values, 1 and 0."""
    rng = np.random.default_rng(seed)
    inside = np.zeros(2)
    for _ in range(replicas):
        # constant fields with Gaussian amplitude: m is the amplitude
        amplitude = autoregressive(n, rho, rng)[:, None, None]
        fields = xr.DataArray(
            np.broadcast_to(amplitude, (n, 4, 4)).astype(np.float32), dims=("sample", "y", "x")
        )
        results = eval_correlators({"x": fields}, sides=(1,), binarize="none").dataset
        for i, (name, exact) in enumerate((("m2", 1.0), ("binder", 0.0))):
            error = float(results[f"{name}_stderr"][0])
            inside[i] += abs(float(results[name][0]) - exact) < error
    return inside / replicas


@settings(max_examples=3, deadline=None)
@given(st.sampled_from([0.0, 0.5, 0.8]), st.integers(0, 2**31))
def test_error_bars_of_correlated_samples_are_not_too_small(rho, seed):
    """At 40 replicas 68 % coverage is 4.5 sigma above 35 %; ignoring rho = 0.8 gives 26 %."""
    assert covered(rho, 1024, 40, seed).min() > 0.35


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8, 0.9])
def test_coverage(rho):
    """68.3 % intervals cover in 68.3 % of 600 cases, up to 4 sigma of the count and 4 % of bias."""
    shares = covered(rho, 4096, 600, 1)
    assert (np.abs(shares - 0.683) < 0.04 + 4 * np.sqrt(0.683 * 0.317 / 600)).all(), shares


@given(st.integers(1, 6), st.integers(8, 40), st.integers(0, 2**31))
@settings(max_examples=5, deadline=None)
def test_chi_square_of_a_curve_has_uniform_p_values(p, blocks, seed):
    """Correlated sides, few blocks: p-values of true hypotheses pass a Kolmogorov-Smirnov test."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(p, p)) + 2 * np.eye(p)
    found = []
    for _ in range(400):
        x = rng.normal(size=(blocks, p)) @ mix
        found.append(chi_square(x.mean(0), np.cov(x.T).reshape(p, p) / blocks, blocks).p_value)
    assert stats.kstest(found, "uniform").pvalue > 1e-5
    assert np.isnan(chi_square(np.ones(3), np.eye(3), 3).p_value)


def test_paired_residuals_cancel_what_both_share():
    truth = spins(256)
    model = truth.copy()
    model[:, 0, 0] *= -1
    paired = eval_correlators({"truth": truth, "model": model}).dataset
    unpaired = eval_correlators({"truth": truth, "model": model[:-1]}).dataset
    shift = paired["kappa4"].diff("source")[0]
    np.testing.assert_allclose(paired["kappa4_residual"][1], shift, atol=1e-12)
    ratio = paired["kappa4_residual_stderr"][1] / unpaired["kappa4_residual_stderr"][1]
    assert float(ratio.max()) < 0.6
    assert float(np.abs(paired["kappa4_residual"][0]).max()) == 0
    assert float(unpaired["kappa4_residual_p_value"][1]) > 1e-4
    variance = np.diagonal(paired["kappa4_covariance"], axis1=1, axis2=2)
    np.testing.assert_allclose(np.sqrt(variance), paired["kappa4_stderr"])


def test_a_wrong_model_is_seen_by_the_curve_as_a_whole(ensemble):
    with open_fields(ensemble) as fields:
        truth = fields[:3000].load()
    # a twentieth of the spins at random
    flips = np.random.default_rng(1).random(truth.shape) < 0.05
    model = truth * np.where(flips, -1, 1).astype(np.int8)
    results = eval_correlators({"truth": truth, "model": model, "same law": truth[::-1]}).dataset
    p = dict(zip(results["source"].values, results["kappa4_residual_p_value"].values, strict=True))
    assert p["model"] < 1e-12
    assert p["same law"] > 1e-4


def test_continuous_fields_by_sign_and_as_they_are():
    truth = spins()
    rng = np.random.default_rng(1)
    model = truth * rng.uniform(0.05, 2, truth.shape).astype(np.float32)
    results = eval_correlators({"truth": truth, "model": model}).dataset
    assert results["source"].values.tolist() == ["truth", "model", "model (raw)"]
    assert float(np.abs(results["kappa4_residual"][1]).max()) == 0
    assert float(np.abs(results["kappa4_residual"][2]).min()) > 0
    near = np.mean(np.abs(model.values) < 0.1)
    np.testing.assert_allclose(results["near_zero"].values, [np.nan, near, near])
    for how in ("sign", "none"):
        one = eval_correlators({"truth": truth, "model": model}, binarize=how).dataset
        assert one["source"].values.tolist() == ["truth", "model"]


def test_rounds_of_block_spins_are_evaluations_of_block_spins(ensemble):
    with open_fields(ensemble) as fields:
        plain = fields[:500].load()
    rounds = eval_correlators({"x": plain}, block_spins=2, clusters=True).datasets
    coarse = plain
    for k, found in enumerate(rounds):
        assert found.attrs["L"] == 16 >> k
        alone = eval_correlators({"x": coarse}, clusters=True).dataset
        for name in ("kappa4", "binder", "two_point", "cluster_sizes"):
            np.testing.assert_array_equal(found[name], alone[name])
        # rounds have as many blocks as the correlation of the first one wants
        np.testing.assert_allclose(found["energy_stderr"], alone["energy_stderr"], rtol=0.25)
        values = block_spins(coarse.values)
        coarse = xr.DataArray(values, dims=coarse.dims, attrs=coarse.attrs)


def test_open_patches_are_averages_over_what_fits_in():
    """Patches of i.i.d. spins: kappa4 vanishes, and nothing wraps around."""
    fields = spins(2000, 6, seed=4)
    fields[:, :, 0] = fields[:, :, 5]
    torn = eval_correlators({"x": fields}, boundary="open", clusters=True).dataset
    torus = eval_correlators({"x": fields}, clusters=True).dataset
    assert torn["side"].values.tolist() == [1, 2]
    G, dG = torn["two_point"][0, :, 0], torn["two_point_stderr"][0, :, 0]
    assert abs(float(G[1])) < 4 * float(dG[1])
    assert float(torus["two_point"][0, 1, 0]) == pytest.approx(1 / 6, abs=0.02)
    assert float(G[5]) == 1
    assert "eta" not in torn


def test_shards_anywhere_add_up_to_the_ensemble(ensemble):
    plan = Plan(block_spins=1, clusters=True)
    with open_fields(ensemble) as fields:
        whole = measure(fields, plan, 40)
        parts = [measure(fields, plan, 40, blocks) for blocks in (range(13), range(13, 40))]
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            far = measure_on(client, fields, plan, 40)
            # what was taken of a file, not all that is in it
            taken = fields[::7][100:]
            few, far_few = measure(taken, plan, 40), measure_on(client, taken, plan, 40)
            near, there = measure_blocks(taken, skipped={}), measure_blocks(taken, client=client)
            with pytest.raises(InputError, match="fields in files"):
                measure_blocks(taken.load().drop_encoding(), client=client)
    for here, elsewhere in zip(near, there, strict=True):
        np.testing.assert_array_equal(here.M2, elsewhere.M2)
        np.testing.assert_array_equal(here.mean, elsewhere.mean)
    for one, other in ((whole, joined(parts)), (whole, far), (few, far_few)):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a.counts, b.counts)
            np.testing.assert_array_equal(a.energy, b.energy)
            for name, sums in a.sums.items():
                np.testing.assert_allclose(sums, b.sums[name], rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ({}, {}, "nothing"),
        ({"a": spins(), "b": spins(L=6)}, {}, "b has 6 x 6"),
        ({"a": spins()[:, :4]}, {}, "only square"),
        ({"a": spins(n=1)}, {}, "single field"),
        ({"a": spins()}, {"sides": (5,)}, r"1 \.\. 4"),
        ({"a": spins()}, {"sides": (0,)}, r"1 \.\. 4"),
        ({"a": spins()}, {"sides": (8,), "boundary": "open"}, r"1 \.\. 7"),
        ({"a": spins()}, {"block_spins": 3}, "halved 3 times"),
        ({"a": spins().astype(np.float32) * np.nan}, {}, "nan"),
    ],
)
def test_bad_input_is_named(sources, options, message):
    with pytest.raises(ValueError, match=message):
        eval_correlators(sources, **options)


def test_default_sides():
    assert default_sides(128).tolist() == [1, 2, 4, 8, 16, 32, 64]
    assert default_sides(2).tolist() == [1]
