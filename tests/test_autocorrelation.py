import numpy as np
import pytest

from skild_physics.observables.autocorrelation import integrated_autocorrelation_time


def ar1(rho, chains, n, seed):
    rng = np.random.default_rng(seed)
    x = np.empty((n, chains))
    x[0] = rng.normal(size=chains)
    for i in range(1, n):
        x[i] = rho * x[i - 1] + np.sqrt(1 - rho**2) * rng.normal(size=chains)
    return x.T


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("chains", "n"), [(1, 40_000), (16, 2500)])
def test_ar1_chains(rho, chains, n):
    """tau_int of x_t = rho x_(t-1) + noise is (1 + rho) / (2 (1 - rho))."""
    exact = (1 + rho) / (2 * (1 - rho))
    found = integrated_autocorrelation_time(ar1(rho, chains, n, seed=1))
    # automatic windowing leaves a bias of exp(-W / tau) beside the statistical error
    assert abs(found.tau_int - exact) < 4 * found.stderr + 0.03 * exact


def test_error_of_the_error_is_that_of_repeated_runs():
    runs = [integrated_autocorrelation_time(ar1(0.7, 4, 2000, seed)) for seed in range(100)]
    spread = np.std([run.tau_int for run in runs])
    assert np.mean([run.stderr for run in runs]) == pytest.approx(spread, rel=0.35)


def test_bad_input():
    assert integrated_autocorrelation_time(np.ones((2, 5))).tau_int == 0.5
    for shape in ((5,), (5, 1)):
        with pytest.raises(ValueError, match="chain, sample"):
            integrated_autocorrelation_time(np.ones(shape))
