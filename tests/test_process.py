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
from skild_physics.diffusion.integrators import ancestral, step_grid
from skild_physics.diffusion.noise import SampleNoise
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.schedule import (
    LinearSchedule,
    LogLinearSchedule,
    linear_to_resolution,
)


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
    x = ancestral(
        process, exact, x, step_grid(process, process.T, calls), noise, variance="gaussian"
    )
    ratio = (x.square().mean(0)[0] / process.S0).numpy()
    assert np.abs(ratio - 1).max() < 5 * np.sqrt(2 / samples)


def test_posterior_width_loses_variance_only_to_first_order():
    """With the mean alone and the posterior's width, the deficit falls as 1/steps."""
    process = Process(torch.ones(8, 8), linear_to_resolution(8, 0.5, 5, 0.1), "cosine", k_c=3.0)
    deficits = []
    for calls in (1000, 2000, 4000):
        variance = process.S0.clone()
        steps = step_grid(process, process.T, calls, "time").tolist()
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


PUBLISHED = {
    "CIFAR-10": (LinearSchedule(137.7294, 1.57, 5), 3.0),
    "CIFAR-10 ablation": (LogLinearSchedule(-3.75, -2.0), 31.2),
    "ImageNet-256 4x": (LinearSchedule(1132.9352, 550.8723, 9), 0.0),
    "ImageNet-128 4x": (LinearSchedule(564.2461, 275.4361, 9), 0.0),
    "ImageNet-128 8x": (LinearSchedule(564.2461, 102.6489, 5), 0.0),
    "Ising 4x": (LinearSchedule(564.2461, 275.4361, 9), 0.0),
}
SUBNORMAL = 1.2e-38


def exact_lambdas(schedule):
    i, f = mpmath.mpf(schedule.lambda_i), mpmath.mpf(schedule.lambda_f)
    for n in range(1001):
        t = mpmath.mpf(n) / 1000
        if isinstance(schedule, LinearSchedule):
            yield mpmath.mpf(schedule.theta) * t / (i * (1 - t) + f) ** 2
        else:
            yield t * mpmath.mpf(10) ** (i + (f - i) * t)


def exact_coefficients(k2, lams):
    """alpha, sigma and the posterior's three for n = 1..1000 and m = n - 1, of unit variance."""
    rows = []
    alpha_m, noise_m = mpmath.mpf(1), mpmath.mpf(0)
    for lam in lams[1:]:
        alpha_n = mpmath.exp(-k2 * lam / 2)
        noise_n = 1 - alpha_n**2
        decay = alpha_n / alpha_m
        removed = (1 - decay**2) / noise_n
        rows.append(
            [
                alpha_n,
                mpmath.sqrt(noise_n),
                alpha_m * removed,
                decay * noise_m / noise_n,
                mpmath.sqrt(removed * noise_m),
            ]
        )
        alpha_m, noise_m = alpha_n, noise_n
    return np.array(rows, dtype=float)


@pytest.mark.parametrize("config", PUBLISHED)
def test_coefficients_against_fifty_digits(config):
    """Marginal and posterior in float32, at every step, at the lowest and highest modes.

    A mode below k_c is attenuated like k_c, which also gives every wavenumber a 1 x 1 process.
    """
    schedule, k_c = PUBLISHED[config]
    n = torch.arange(1, 1001)
    worst = 0.0
    with mpmath.workdps(50):
        lams = list(exact_lambdas(schedule))
        for u, v in [(0, 0), (0, 1), (1, 1), (3, 4), (31, 31), (255, 255)]:
            k2 = max(mpmath.pi**2 * (u**2 + v**2), mpmath.mpf(k_c) ** 2)
            if k2 == 0:
                continue
            if u < 5:
                process, mode = Process(torch.ones(5, 5), schedule, "cosine", k_c), (u, v)
            else:
                k = float(mpmath.sqrt(k2))
                process, mode = Process(torch.ones(1, 1), schedule, "cosine", k), (0, 0)
            ours = torch.stack(
                [c[:, *mode].float() for c in (*process.marginal(n), *process.posterior(n, n - 1))],
                dim=1,
            ).numpy()
            exact = exact_coefficients(k2, lams)
            normal = exact > SUBNORMAL
            assert (ours[~normal] <= SUBNORMAL).all()
            worst = max(worst, np.abs(ours[normal] / exact[normal] - 1).max())
    assert worst < 2e-7


@pytest.mark.parametrize("N", [32, 256])
@pytest.mark.parametrize("config", PUBLISHED)
def test_coefficients_of_a_mode_depend_on_its_wavenumber_only(config, N):
    """The modes compared with 50 digits are those of the published lattices."""
    schedule, k_c = PUBLISHED[config]
    full = Process(torch.ones(N, N), schedule, "cosine", k_c)
    n = torch.tensor([1, 500, 1000])
    k_max = float(np.sqrt(2) * np.pi * (N - 1))
    for small, modes in (
        (Process(torch.ones(5, 5), schedule, "cosine", k_c), (..., slice(5), slice(5))),
        (
            Process(torch.ones(1, 1), schedule, "cosine", k_max),
            (..., slice(N - 1, N), slice(N - 1, N)),
        ),
    ):
        ours = (*small.marginal(n), *small.posterior(n, n - 1))
        theirs = (*full.marginal(n), *full.posterior(n, n - 1))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b[modes], rtol=1e-10, atol=1e-300)


@given(processes(), st.floats(0.001, 0.999))
def test_drift_and_diffusion_are_those_of_the_marginal(process, t):
    """d ln alpha / dt = -drift, and N(0, S0) is stationary: diffusion^2 = 2 drift S0."""
    drift, diffusion = process.drift_and_diffusion(t)
    torch.testing.assert_close(diffusion**2, 2 * drift * process.S0, rtol=1e-12, atol=0)
    # the finite difference is of ln alpha itself, which does not underflow where alpha does
    dt = 1e-5 * t * (1 - t)
    later, earlier = (process.exponent((t + s * dt) * process.T) for s in (1, -1))
    torch.testing.assert_close((later - earlier) / (4 * dt), drift, rtol=1e-6, atol=0)
    d_variance = diffusion**2 - 2 * drift * process.marginal(t * process.T).sigma ** 2
    alpha = process.marginal(t * process.T).alpha
    torch.testing.assert_close(
        d_variance,
        2 * drift * alpha**2 * process.S0,
        rtol=1e-9,
        atol=1e-12 * float(diffusion.max() ** 2),
    )


@given(processes(), st.data())
def test_cropped_process_is_the_process_of_the_low_modes(process, data):
    M = data.draw(st.integers(1, process.N))
    small = process.cropped(M)
    n = data.draw(st.floats(0.01, 1)) * process.T
    assert (small.N, small.T, small.k_c) == (M, process.T, process.k_c)
    alpha, sigma = process.marginal(n)
    low = small.marginal(n)
    torch.testing.assert_close(low.alpha, alpha[:M, :M], rtol=1e-12, atol=0)
    torch.testing.assert_close(low.sigma, sigma[:M, :M] * M / process.N, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match=f"M must .* {process.N + 1}"):
        process.cropped(process.N + 1)


@pytest.mark.parametrize("basis", kspace.BASES)
def test_cropped_modes_are_the_same_waves_at_the_same_height(basis):
    """One low wave, sampled on 12 x 12 and on 5 x 5 points, has the cropped mode's amplitude."""
    N, M = 12, 5
    offset = 0.5 if basis == "cosine" else 0.0
    x = {size: (np.arange(size) + offset) / size for size in (N, M)}
    wave = {size: np.cos(2 * np.pi * x[size])[:, None] + 0 * x[size] for size in (N, M)}
    modes = {size: kspace.forward(wave[size], basis) for size in (N, M)}
    np.testing.assert_allclose(modes[M], modes[N][:M, :M] * M / N, atol=1e-12)
    assert np.abs(modes[M]).max() > 1


def test_zero_mode_is_kept_if_nothing_attenuates_it():
    process = Process(torch.ones(4, 4), LinearSchedule(10, 1, 1), "periodic", k_c=0)
    posterior = process.posterior(1000, 300)
    assert [float(c[0, 0]) for c in posterior] == [0, 1, 0]
    assert all(bool(torch.isfinite(c).all()) for c in posterior)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: Process(torch.zeros(4, 4), p.schedule, "cosine"), r"S0 .* 0\.0"),
        (lambda p: Process(torch.eye(4) - 0.1, p.schedule, "cosine"), r"S0 .* -0\.1"),
        (lambda p: Process(-torch.ones(4, 4), p.schedule, "cosine"), r"S0 .* -1\.0"),
        (lambda p: Process(torch.full((4, 4), torch.nan), p.schedule, "cosine"), "S0 .* nan"),
        (lambda p: Process(torch.full((4, 4), torch.inf), p.schedule, "cosine"), "S0 .* inf"),
        (lambda p: Process(torch.ones(4, 3), p.schedule, "cosine"), r"S0 .* \(4, 3\)"),
        (lambda p: Process(torch.ones(4, 4), p.schedule, "cosine", k_c=-1), "k_c .* -1"),
        (lambda p: Process(torch.ones(4, 4), p.schedule, "cosine", k_c=np.nan), "k_c .* nan"),
        (lambda p: Process(torch.ones(4, 4), p.schedule, "cosine", k_c=np.inf), "k_c .* inf"),
        (lambda p: Process(torch.ones(4, 4), p.schedule, "cosine", T=0), "T must .* 0"),
        (lambda p: p.lam(1001), "n must .* 1001"),
        (lambda p: p.lam(-1), "n must .* -1"),
        (lambda p: p.marginal(float("nan")), "n must .* nan"),
        (lambda p: p.posterior(5, 5), "m = 5, n = 5"),
        (lambda p: p.transition_std(5, 6), "m = 6, n = 5"),
        (lambda p: p.posterior(5, 7), "m = 7, n = 5"),
        (lambda p: p.cropped(0), "M must .* 0"),
        (lambda p: p.step_at(1e9), "lam .* 1e.09"),
        (lambda p: p.step_at_resolution(0.01, 0.1), "lam"),
        (lambda p: p.step_at_resolution(0, 0.1), "resolution .* 0"),
        (lambda p: p.resolution(10, 0), "tau .* 0"),
    ],
)
def test_bad_input_is_named(make, message):
    process = Process(torch.ones(4, 4), LinearSchedule(10, 1, 1), "cosine")
    with pytest.raises(ValueError, match=message):
        make(process)


def steep(N):
    return torch.tensor((kspace.wavenumbers(N, "periodic") ** 2 + 2) ** -0.875) * N**2


@pytest.mark.parametrize("N", [16, 48])
def test_resized_process_keeps_the_lattice_spacing(N):
    """Equal momenta per site are attenuated equally and have equal variance; the law continues."""
    process = Process(steep(24), linear_to_resolution(24, 6, 9, 0.1), "periodic", k_c=5.0)
    other = process.resized(N)
    for n in (10.0, 500.0, 1000.0):
        assert float(other.lam(n)) * N**2 == pytest.approx(float(process.lam(n)) * 24**2)
        assert float(other.resolution(n, 0.1)) / N == pytest.approx(
            float(process.resolution(n, 0.1)) / 24
        )
    q, q_other = (kspace.wavenumbers(size, "periodic") / size for size in (24, N))
    for u in range(3, 12, 2):
        same = np.isclose(q_other, q[u, u])
        if same.any():
            np.testing.assert_allclose(other.S0.numpy()[same], float(process.S0[u, u]), rtol=1e-6)
    # against the exact continuation (k^2 + 2)^-0.875 of this spectrum in k = q * 24
    inner = q_other > 0.5
    expected = (q_other[inner] * 24) ** -1.75 * 24**2
    np.testing.assert_allclose(other.S0.numpy()[inner], expected, rtol=0.03)
    assert other.k_c == pytest.approx(5.0 * N / 24)
    log = Process(steep(8), LogLinearSchedule(-3, -1), "periodic").resized(16)
    assert float(log.lam(1000)) == pytest.approx(0.1 / 4)
    assert process.resized(24) is process


def test_sides_that_a_process_cannot_have():
    process = Process(steep(8), linear_to_resolution(8, 2, 9, 0.1), "periodic")
    with pytest.raises(ValueError, match="N must be at least 4, got 2"):
        process.resized(2)
    with pytest.raises(ValueError, match=r"M must lie in 1\.\.8, got 9"):
        process.cropped(9)
