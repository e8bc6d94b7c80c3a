"""The forward process and its reversal against algebra, multiprecision, and Gaussian data."""

from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import process_and_steps, processes

from skild_physics import kspace
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.sampler import SampleNoise, ancestral, step_grid
from skild_physics.diffusion.schedule import LinearSchedule, linear_to_resolution


@given(process_and_steps())
def test_forward_marginal_preserves_the_covariance(drawn):
    """Var x_n = alpha^2 S0 + sigma^2 = S0 for every mode at every step."""
    process, n, m = drawn
    for step in (n, m):
        alpha, sigma = process.marginal(step)
        torch.testing.assert_close(alpha**2 * process.S0 + sigma**2, process.S0, rtol=1e-12, atol=0)


@given(process_and_steps())
def test_posterior_times_marginal_is_the_joint(drawn):
    """Mean and variance of x_m given x_0, through x_n and directly."""
    process, n, m = drawn
    (alpha_n, sigma_n), (alpha_m, sigma_m) = process.marginal(n), process.marginal(m)
    from_x0, from_xn, std = process.posterior(n, m)
    torch.testing.assert_close(from_x0 + from_xn * alpha_n, alpha_m, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(
        from_xn**2 * sigma_n**2 + std**2, sigma_m**2, rtol=1e-10, atol=1e-300
    )
    # Cov(x_n, x_m | x_0) = alpha_n / alpha_m sigma_m^2, where the ratio does not underflow
    decay = torch.exp(-(process.exponent(n) - process.exponent(m)) / 2)
    torch.testing.assert_close(from_xn * sigma_n**2, decay * sigma_m**2, rtol=1e-9, atol=1e-300)


@given(processes(), st.data())
def test_marginals_compose(process, data):
    """x_0 -> x_m -> x_n is x_0 -> x_n."""
    n = data.draw(st.integers(1, process.T))
    m = data.draw(st.integers(0, n - 1))
    (alpha_n, sigma_n), (alpha_m, sigma_m) = process.marginal(n), process.marginal(m)
    decay = torch.exp(-(process.exponent(n) - process.exponent(m)) / 2)
    torch.testing.assert_close(decay * alpha_m, alpha_n, rtol=1e-9, atol=1e-300)
    variance = decay**2 * sigma_m**2 + process.transition_std(n, m) ** 2
    torch.testing.assert_close(variance, sigma_n**2, rtol=1e-9, atol=1e-300)


@given(processes(), st.data())
def test_reverse_chain_with_the_exact_gaussian_denoiser_returns_the_covariance(process, data):
    """Variances propagated from x_T ~ N(0, S0) to x_0 on any subsequence of steps.

    For x_0 ~ N(0, S0) the denoiser is E[x_0 | x_n] = alpha_n x_n. With the posterior's width and
    x_0 drawn from p(x_0 | x_n), of variance sigma_n^2, the chain is exact; so it is with the mean
    alone and the stationary width.
    """
    inner = data.draw(st.sets(st.integers(1, process.T - 1), max_size=8))
    steps = [process.T, *sorted(inner, reverse=True), 0]
    drawn, mean_only = process.S0.clone(), process.S0.clone()
    for n, m in pairwise(steps):
        alpha, sigma = process.marginal(n)
        from_x0, from_xn, std = process.posterior(n, m)
        gain = (from_x0 * alpha + from_xn) ** 2
        drawn = gain * drawn + (from_x0 * sigma) ** 2 + std**2
        mean_only = gain * mean_only + process.transition_std(n, m) ** 2
    torch.testing.assert_close(drawn, process.S0, rtol=1e-10, atol=0)
    torch.testing.assert_close(mean_only, process.S0, rtol=1e-10, atol=0)


@settings(max_examples=5, deadline=None)
@given(processes(max_size=6), st.integers(1, 30), st.integers(0, 2**31))
def test_sampled_reverse_chain_returns_the_covariance(process, calls, seed):
    """The ancestral sampler itself, on Gaussian data: variances within 5 sigma mode by mode."""
    samples = 2000

    def exact(x, n):
        return process.marginal(n).alpha * x

    noise = SampleNoise(seed, range(samples))
    shape = torch.empty(samples, 1, process.N, process.N, dtype=torch.float64)
    x = process.S0.sqrt() * noise.like(shape)
    x = ancestral(process, exact, x, step_grid(process.T, calls), noise, variance="gaussian")
    ratio = (x.square().mean(0)[0] / process.S0).numpy()
    assert np.abs(ratio - 1).max() < 5 * np.sqrt(2 / samples)


def test_posterior_width_loses_variance_only_to_first_order():
    """With the mean alone and the posterior's width, the deficit falls as 1/steps."""
    process = Process(torch.ones(8, 8), linear_to_resolution(8, 0.5, 5, 0.1), "cosine", k_c=3.0)
    deficits = []
    for calls in (1000, 2000, 4000):
        variance = process.S0.clone()
        steps = step_grid(process.T, calls).tolist()
        for n, m in pairwise(steps):
            posterior = process.posterior(n, m)
            gain = posterior.from_x0 * process.marginal(n).alpha + posterior.from_xn
            variance = gain**2 * variance + posterior.std**2
        deficits.append(float((1 - variance).max()))
    assert deficits[0] / deficits[1] == pytest.approx(2, rel=0.15)
    assert deficits[1] / deficits[2] == pytest.approx(2, rel=0.15)


def test_forward_samples_have_the_spectrum_of_the_data():
    """A non-Gaussian dataset of variance S0, pushed through the process in pixel space."""
    N, samples, n = 6, 20_000, 400
    rng = np.random.default_rng(7)
    S0 = torch.tensor((kspace.wavenumbers(N, "periodic") ** 2 + 2) ** -0.8)
    process = Process(S0, linear_to_resolution(N, 2, 9, 0.1), "periodic")
    x_0 = S0.sqrt() * torch.tensor(rng.choice([-1.0, 1.0], size=(samples, N, N)))
    alpha, sigma = process.marginal(n)
    x_n = alpha * x_0 + sigma * torch.tensor(rng.normal(size=(samples, N, N)))
    fields = kspace.inverse(x_n, "periodic")
    ratio = (kspace.forward(fields, "periodic").square().mean(0) / S0).numpy()
    assert np.abs(ratio - 1).max() < 5 * np.sqrt(2 / samples)


@pytest.mark.parametrize(
    ("N", "schedule", "k_c"),
    [
        (32, LinearSchedule(137.7294, 1.57, 5), 3.0),
        (256, LinearSchedule(1132.9352, 550.8723, 9), 0.0),
    ],
)
@pytest.mark.parametrize("n", [1, 2, 3, 500, 999, 1000])
def test_coefficients_against_fifty_digits(N, schedule, k_c, n):
    """Marginal and posterior in float32, against mpmath, at the lowest and highest modes."""
    process = Process(torch.ones(N, N), schedule, "cosine", k_c)
    alpha, sigma = (c.float() for c in process.marginal(n))
    posterior = [c.float() for c in process.posterior(n, n - 1)]
    mode = [(0, 0), (0, 1), (3, 4), (N - 1, N - 1)] if k_c else [(0, 1), (3, 4), (N - 1, N - 1)]
    with mpmath.workdps(50):

        def lam(step):
            t = mpmath.mpf(step) / 1000
            i, f, theta = (
                mpmath.mpf(v) for v in (schedule.lambda_i, schedule.lambda_f, schedule.theta)
            )
            return theta * t / (i * (1 - t) + f) ** 2

        for u, v in mode:
            k2 = max(mpmath.pi**2 * (u**2 + v**2), mpmath.mpf(k_c) ** 2)
            abar_n, abar_m = (mpmath.exp(-k2 * lam(step)) for step in (n, n - 1))
            a = mpmath.exp(-k2 * (lam(n) - lam(n - 1)))
            expected = [
                mpmath.sqrt(abar_n),
                mpmath.sqrt(1 - abar_n),
                mpmath.sqrt(abar_m) * (1 - a) / (1 - abar_n),
                mpmath.sqrt(a) * (1 - abar_m) / (1 - abar_n),
                mpmath.sqrt((1 - a) * (1 - abar_m) / (1 - abar_n)),
            ]
            for ours, exact in zip((alpha, sigma, *posterior), expected, strict=True):
                if exact > 1e-37:
                    assert float(ours[u, v]) == pytest.approx(float(exact), rel=2e-7)


def test_zero_mode_is_kept_if_nothing_attenuates_it():
    process = Process(torch.ones(4, 4), LinearSchedule(10, 1, 1), "periodic", k_c=0)
    posterior = process.posterior(1000, 300)
    assert [float(c[0, 0]) for c in posterior] == [0, 1, 0]
    assert all(bool(torch.isfinite(c).all()) for c in posterior)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda p: Process(torch.zeros(4, 4), p.schedule, "cosine"), "S0"),
        (lambda p: Process(-torch.ones(4, 4), p.schedule, "cosine"), "S0"),
        (lambda p: Process(torch.ones(4, 3), p.schedule, "cosine"), "S0"),
        (lambda p: Process(torch.ones(4, 4), p.schedule, "cosine", k_c=-1), "k_c"),
        (lambda p: Process(torch.ones(4, 4), p.schedule, "cosine", T=0), "T must"),
        (lambda p: p.lam(1001), "1001"),
        (lambda p: p.lam(-1), "-1"),
        (lambda p: p.posterior(5, 5), "m = 5, n = 5"),
        (lambda p: p.step_at(1e9), "lam"),
    ],
)
def test_bad_input_is_named(make, name):
    process = Process(torch.ones(4, 4), LinearSchedule(10, 1, 1), "cosine")
    with pytest.raises(ValueError, match=name):
        make(process)
