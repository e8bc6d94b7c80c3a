import numpy as np
import pytest
import xarray as xr

from skild_physics.observables.autocorrelation import (
    integrated_autocorrelation_time,
    tau_int_of_chains,
)
from skild_physics.observables.ensemble import summarize
from skild_physics.observables.evaluate import block_length


def ar1(rho, chains, n, seed):
    rng = np.random.default_rng(seed)
    x = np.empty((n, chains))
    x[0] = rng.normal(size=chains)
    for i in range(1, n):
        x[i] = rho * x[i - 1] + np.sqrt(1 - rho**2) * rng.normal(size=chains)
    return x.T


@pytest.mark.parametrize("rho", [-0.9, -0.5, 0.0, 0.5, 0.9])
@pytest.mark.parametrize(("chains", "n"), [(1, 40_000), (16, 2500)])
def test_ar1_chains(rho, chains, n):
    """tau_int of x_t = rho x_(t-1) + noise is (1 + rho) / (2 (1 - rho))."""
    exact = (1 + rho) / (2 * (1 - rho))
    found = integrated_autocorrelation_time(ar1(rho, chains, n, seed=1))
    # automatic windowing leaves a bias of exp(-W / tau) beside the statistical error
    assert abs(found.tau_int - exact) < 4 * found.stderr + (0.03 * exact if rho > 0 else 0)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.7])
def test_error_of_the_error_is_that_of_repeated_runs(rho):
    runs = [integrated_autocorrelation_time(ar1(rho, 4, 2000, seed)) for seed in range(100)]
    spread = np.std([run.tau_int for run in runs])
    assert np.mean([run.stderr for run in runs]) == pytest.approx(spread, rel=0.35)
    mean, exact = np.mean([run.tau_int for run in runs]), (1 + rho) / (2 * (1 - rho))
    assert abs(mean - exact) < 4 * spread / 10 + (0.03 * exact if rho > 0 else 0)


def test_anticorrelated_samples_have_honest_errors():
    """Blocks of one sample, no more effective samples than there are, never a negative tau."""
    assert block_length(0.5) == block_length(0.1) == block_length(1e-9) == 0
    for n in (2, 3, 20, 21, 1000):
        tau_int, stderr, _ = integrated_autocorrelation_time((-1.0) ** np.arange(n)[None])
        assert 0.5 / n <= tau_int < 0.7
        assert np.isfinite(stderr)
    # spins that turn over from field to field, and energies that do not know
    spins = (np.random.default_rng(0).choice([-1, 1], (400, 4, 4)) * 1).astype(np.int8)
    found = summarize(xr.DataArray(spins, dims=("sample", "y", "x")))
    assert found.n_effective <= 400
    series = ar1(-0.5, 1, 4000, 3)
    assert tau_int_of_chains(series[0], np.zeros(4000, int)) < 0.25


def test_bad_input():
    assert integrated_autocorrelation_time(np.ones((2, 5))).tau_int == 0.5
    for shape in ((5,), (5, 1)):
        with pytest.raises(ValueError, match="chain, sample"):
            integrated_autocorrelation_time(np.ones(shape))
