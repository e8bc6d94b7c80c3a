"""Integrators against closed forms: Gaussian data, where the flow and all variances are known."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import processes

from skild_physics import kspace
from skild_physics.diffusion.integrators import SPACINGS, ancestral, multistep, step_grid
from skild_physics.diffusion.noise import SampleNoise
from skild_physics.diffusion.oracle import GaussianMixture, TwoPoint, gaussian
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.schedule import effective_resolution, linear_to_resolution

NAN, INF = float("nan"), float("inf")


class Draws:
    """One stream for the whole batch, which is faster than one for each sample."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def like(self, x):
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


def small_process(N=8, resolution=1.0, k_c=2.0):
    S0 = torch.tensor((kspace.wavenumbers(N, "periodic") ** 2 + 2) ** -0.8)
    return Process(S0, linear_to_resolution(N, resolution, 9, 0.1), "periodic", k_c=k_c)


def other_spectrum(process, seed=3):
    factors = np.random.default_rng(seed).lognormal(0, 1, size=(process.N, process.N))
    return process.S0 * torch.tensor(factors)


def variance_at(process, D, n):
    alpha, sigma = process.marginal(n)
    return alpha**2 * D + sigma**2


def even_grid(process, start, stop, calls, spacing):
    """Steps even in time, or in the log-SNR of one mode."""
    if spacing == "time":
        return torch.linspace(start, stop, calls + 1, dtype=torch.float64)
    k2 = 20.0
    ends = [np.log(np.expm1(k2 * float(process.lam(n)))) for n in (start, stop)]
    lam = np.log1p(np.exp(np.linspace(*ends, calls + 1)[1:-1])) / k2
    inner = process.schedule.time(torch.tensor(lam)) * process.T
    return torch.cat([torch.tensor([start]).double(), inner, torch.tensor([stop]).double()])


@pytest.mark.parametrize("spacing", ["time", "log-SNR"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_order_of_convergence_on_the_exact_flow(order, spacing):
    """For x_0 ~ N(0, D) the probability flow scales every mode by sqrt(Var x_m / Var x_n).

    Correction keeps the order and lowers the error. The first step has nothing to extrapolate from
    and is of first order, so it is cut short, which is what a method of third order needs to show
    it.
    """
    process = small_process()
    D = other_spectrum(process)
    start, stop = 900.0, 30.0
    x = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    exact = x * torch.sqrt(variance_at(process, D, stop) / variance_at(process, D, start))
    denoise = gaussian(D).denoiser(process)
    errors: dict[bool, list[float]] = {False: [], True: []}
    for calls in (40, 80, 160, 320):
        grid = even_grid(process, start, stop, calls, spacing)
        first = grid[0] + (grid[1] - grid[0]) / calls
        grid = torch.cat([grid[:1], first[None], grid[1:]])
        for corrector, found in errors.items():
            ours = multistep(process, denoise, x, grid, order, corrector=corrector)
            found.append(float((ours / exact - 1).abs().max()))
    plain, corrected = (-np.diff(np.log2(found)) for found in errors.values())
    assert plain[-1] == pytest.approx(order, abs=0.25)
    assert corrected[-1] > order - 0.25
    assert errors[False][-1] < [1e-2, 1e-3, 1e-4][order - 1]
    assert errors[True][-1] <= errors[False][-1] * (1 if order == 1 else 0.5)


def test_third_order_is_second_order_if_the_first_step_is_as_long_as_the_others():
    process = small_process()
    D = other_spectrum(process)
    x = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    exact = x * torch.sqrt(variance_at(process, D, 30.0) / variance_at(process, D, 900.0))
    errors = [
        multistep(
            process,
            gaussian(D).denoiser(process),
            x,
            even_grid(process, 900.0, 30.0, calls, "time"),
            3,
            corrector=False,
        )
        / exact
        - 1
        for calls in (160, 320)
    ]
    ratio = float(errors[0].abs().max() / errors[1].abs().max())
    assert np.log2(ratio) == pytest.approx(2, abs=0.1)


class Silence:
    def like(self, x):
        return torch.zeros_like(x)


@pytest.mark.parametrize("stochasticity", [0.0, 0.5, 1.0, 1.7])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_step_is_exact_if_the_estimate_is_a_polynomial_in_log_snr(order, stochasticity):
    """Without its noise, against quadrature of the reversed SDE over the last of four steps."""
    process = small_process(N=4)
    polynomial = np.random.default_rng(6).normal(size=(order, 4, 4))

    def log_snr(n):
        alpha, sigma = process.marginal(n)
        return (alpha / sigma).log().numpy()

    def estimate(ell):
        return sum(c * ell**power for power, c in enumerate(polynomial))

    seen = []

    def denoise(x, n):
        seen.append(x)
        return torch.tensor(estimate(log_snr(n)))[None, None]

    steps = torch.tensor([800.0, 640.0, 600.0, 510.0, 390.0], dtype=torch.float64)
    x = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    ours = multistep(process, denoise, x, steps, order, stochasticity, Silence())[0, 0].numpy()

    start, stop = log_snr(510.0), log_snr(390.0)
    c, h = 1 + stochasticity**2, stop - start
    nodes, weights = np.polynomial.legendre.leggauss(40)
    s = [(1 + node) / 2 * h for node in nodes]
    integral = sum(
        w / 2 * h * np.exp(-c * (h - t)) * estimate(start + t)
        for w, t in zip(weights, s, strict=True)
    )
    (_, sigma_n), (alpha_m, sigma_m) = (
        [v.numpy() for v in process.marginal(n)] for n in (510.0, 390.0)
    )
    kept = sigma_m / sigma_n * np.exp(-(stochasticity**2) * h) * seen[-1][0, 0].numpy()
    np.testing.assert_allclose(ours, kept + alpha_m * c * integral, rtol=1e-9, atol=1e-12)


def test_multistep_leaves_matched_gaussian_fields_alone():
    """With Var x_0 = S0 the probability flow does not move at all."""
    process = Process(torch.ones(8, 8), linear_to_resolution(8, 2, 9, 0.1), "periodic")
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grid = torch.linspace(1000, 20, 200, dtype=torch.float64)
    ours = multistep(process, gaussian(process.S0).denoiser(process), x, grid)
    torch.testing.assert_close(ours, x, rtol=2e-3, atol=2e-3)


@settings(max_examples=40)
@given(processes(max_size=6), st.integers(1, 12), st.sampled_from(SPACINGS), st.integers(0, 2**31))
def test_first_order_reversed_sde_is_the_ancestral_sampler(process, calls, spacing, seed):
    D = other_spectrum(process)
    x = process.S0.sqrt() * torch.randn(
        3,
        1,
        process.N,
        process.N,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(seed),
    )
    steps = step_grid(process, process.T, calls, spacing)
    denoise = gaussian(D).denoiser(process)
    one = ancestral(process, denoise, x, steps, Draws(seed))
    other = multistep(process, denoise, x, steps, 1, 1.0, Draws(seed))
    scale = process.S0.sqrt()
    torch.testing.assert_close(other / scale, one / scale, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("stochasticity", [0.5, 1.0])
@pytest.mark.parametrize("order", [2, 3])
def test_stochastic_multistep_returns_the_variance_of_the_data(order, stochasticity):
    process = small_process(resolution=0.4)
    D = other_spectrum(process)
    count, draws = 2000, Draws(17)
    x = variance_at(process, D, process.T).sqrt() * draws.like(torch.empty(count, 1, 8, 8))
    steps = step_grid(process, process.T, 100, "log-resolution", last_snr=1000.0)
    made = multistep(
        process, gaussian(D).denoiser(process), x.double(), steps, order, stochasticity, draws
    )
    ratio = made.square().mean(0)[0] / D
    assert float((ratio - 1).abs().max()) < 4 * np.sqrt(2 / count)
    assert abs(float(ratio.mean()) - 1) < 4 * np.sqrt(2 / count / 64)


@pytest.mark.parametrize("stochasticity", [0.0, 0.7, 1.0])
def test_every_mode_that_is_frozen_stays(stochasticity):
    process = small_process(k_c=0.0)
    draws = Draws(1)
    x = draws.like(torch.empty(4, 1, 8, 8, dtype=torch.float64))

    def wrong(y, n):
        return torch.full_like(y, 7.0)

    for order in (1, 2, 3):
        steps = step_grid(process, 1000, 6)
        made = multistep(process, wrong, x, steps, order, stochasticity, draws)
        assert torch.equal(made[..., 0, 0], x[..., 0, 0])
        assert float((made[..., 0, 1] - 7).abs().max()) == 0
    made = ancestral(process, wrong, x, steps, draws)
    assert torch.equal(made[..., 0, 0], x[..., 0, 0])


@given(
    processes(),
    st.floats(0.01, 1),
    st.integers(1, 60),
    st.sampled_from(SPACINGS),
    st.floats(0.1, 1e4),
)
def test_step_grid(process, fraction, calls, spacing, last_snr):
    start = fraction * process.T
    grid = step_grid(process, start, calls, spacing, last_snr)
    assert grid.shape == (calls + 1,)
    assert (float(grid[0]), float(grid[-1])) == (start, 0)
    assert bool((grid.diff() < 0).all())
    last = np.log1p(1 / last_snr) / process.k_max**2
    if spacing == "time" or calls == 1 or last >= float(process.lam(start)):
        np.testing.assert_allclose(grid.numpy(), np.linspace(start, 0, calls + 1), atol=1e-12)
        return
    assert float(process.lam(grid[-2])) == pytest.approx(last, rel=1e-9)
    R = effective_resolution(process.lam(grid[:-1]), tau=0.1).numpy()
    if spacing == "log-resolution":
        R = np.log(R)
    np.testing.assert_allclose(np.diff(R), (R[-1] - R[0]) / (calls - 1), rtol=1e-5, atol=1e-9)


def test_last_snr_is_that_of_the_highest_mode():
    process = small_process(k_c=0.0)
    n = float(step_grid(process, 1000, 10, "resolution", last_snr=30.0)[-2])
    alpha, sigma = process.marginal(n)
    # index 7 is the highest wave of either axis
    snr = (alpha**2 * process.S0 / sigma**2)[7, 7]
    assert float(snr) == pytest.approx(30, rel=1e-9)


def test_streams_of_different_samples_differ():
    draws = SampleNoise(1, [0, 1, 5]).like(torch.empty(3, 4, 4))
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws, SampleNoise(2, [0, 1, 5]).like(torch.empty(3, 4, 4)))
    again = SampleNoise(1, [5]).like(torch.empty(1, 4, 4))
    assert torch.equal(draws[2], again[0])


@pytest.mark.parametrize("order", [1, 3])
def test_samples_do_not_depend_on_the_batch(order):
    process = small_process(resolution=0.4)
    denoise = gaussian(other_spectrum(process)).denoiser(process)
    shape = (1, 8, 8)
    steps = step_grid(process, process.T, 7)

    def sample(indices):
        noise = SampleNoise(4, indices)
        x = noise.like(torch.empty(len(indices), *shape, dtype=torch.float64))
        return multistep(process, denoise, x, steps, order, 0.8, noise)

    together = sample(range(5))
    apart = torch.cat([sample([0, 1]), sample([2]), sample([3, 4])])
    torch.testing.assert_close(apart, together, rtol=1e-10, atol=1e-12)


def stripes(N, variance):
    """All translations of a half/half stripe of +-1, along x and y, plus white noise."""
    profile = torch.where(torch.arange(N) < N // 2, 1.0, -1.0).double()
    along_y = torch.stack([profile.roll(i).expand(N, N) for i in range(N)])
    fields = torch.cat([along_y, along_y.transpose(-1, -2)])
    return GaussianMixture(
        torch.full((2 * N,), 1 / (2 * N), dtype=torch.float64),
        kspace.forward(fields, "periodic"),
        torch.full((N, N), variance, dtype=torch.float64),
    )


SAMPLERS = {
    # calls, samples, and the largest relative error of a variance that the steps may cause
    "flow": (60, 2000, 0.01),
    "reversed SDE": (80, 2000, 0.02),
    "ancestral": (200, 1000, 0.06),
}


def sample(name, process, denoise, count, calls, seed):
    draws = Draws(seed)
    x = process.S0.sqrt().float() * draws.like(torch.empty(count, 1, process.N, process.N))
    steps = step_grid(process, process.T, calls, "log-resolution", last_snr=1000.0)
    if name == "ancestral":
        return ancestral(process, denoise, x, steps, draws).double()
    stochasticity = 1.0 if name == "reversed SDE" else 0.0
    return multistep(process, denoise, x, steps, 2, stochasticity, draws).double()


@pytest.mark.parametrize("name", SAMPLERS)
def test_mixture_of_stripes_comes_back(name):
    """Mean, variance, and fourth moments of pixels, of data far from Gaussian.

    Samples agree within 4 sigma and the tolerance for finitely many steps.
    """
    N, D = 8, 0.15**2
    data = stripes(N, D)
    S0 = data.variance()
    process = Process(S0, linear_to_resolution(N, 0.4, 5, 1e-4), "periodic", k_c=3.0)
    calls, count, tolerance = SAMPLERS[name]
    modes = sample(name, process, data.denoiser(process), count, calls, seed=5)[:, 0]

    def agrees(values, exact, tolerance):
        sigma = values.std(0) / np.sqrt(count)
        away = (values.mean(0) - exact).abs()
        return bool((away <= 4 * sigma + tolerance).all())

    assert agrees(modes, torch.zeros(N, N), 0)
    assert agrees(modes.square(), S0, tolerance * S0)
    noise_only = S0 < 1.01 * D
    assert int(noise_only.sum()) > 40
    assert agrees(modes[:, noise_only].square().mean(1), torch.tensor(D), tolerance * D)
    pixels = kspace.inverse(modes, "periodic")
    assert agrees(pixels.square().mean((1, 2)), torch.tensor(1 + D), tolerance * D)
    fourth = 1 + 6 * D + 3 * D**2
    assert agrees(pixels.pow(4).mean((1, 2)), torch.tensor(fourth), tolerance * 6 * D)
    # what is left of a stripe after its nearest pattern is white noise: no blends of patterns
    patterns = kspace.inverse(data.means, "periodic")
    left = (pixels[:, None] - patterns).square().mean((2, 3)).amin(1)
    assert float(left.max()) < D * (1 + 6 * np.sqrt(2 / N**2))


@pytest.mark.parametrize("name", SAMPLERS)
def test_fourth_cumulant_of_two_points_comes_back(name):
    process = small_process(N=4, resolution=0.4, k_c=3.0)
    data = TwoPoint(process.S0.sqrt())
    count = 8000
    modes = sample(name, process, data.denoiser(process), count, 60, seed=8)[:, 0]
    x = modes / data.amplitude
    m2, m4 = x.square().mean(0), x.pow(4).mean(0)
    influence = x.pow(4) - 6 * m2 * x.square()
    sigma = influence.std(0) / np.sqrt(count)
    assert bool(((m4 - 3 * m2**2 + 2).abs() <= 4 * sigma + 2e-3).all())
    # signs are fair coins, independent of each other
    signs = x.sign().reshape(count, 16)
    moments = torch.cat([signs.mean(0), (signs.T @ signs / count).triu(1).flatten()])
    assert float(moments.abs().max()) < 4.5 / np.sqrt(count)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, x: step_grid(p, 100, 0), "n_evals.* 0"),
        (lambda p, x: step_grid(p, 100, 5, "even"), "spacing .* 'even'"),
        (lambda p, x: step_grid(p, 1001, 5), "start .* 1001"),
        (lambda p, x: step_grid(p, 0, 5), "start .* 0"),
        (lambda p, x: step_grid(p, NAN, 5), "start .* nan"),
        (lambda p, x: step_grid(p, 100, 5, last_snr=0), "last_snr.* 0"),
        (lambda p, x: step_grid(p, 100, 5, last_snr=NAN), "last_snr.* nan"),
        (lambda p, x: run(p, x, order=4), "order .* 4"),
        (lambda p, x: run(p, x, order=0), "order .* 0"),
        (lambda p, x: run(p, x, stochasticity=-1), "stochasticity .* -1"),
        (lambda p, x: run(p, x, stochasticity=NAN), "stochasticity .* nan"),
        (lambda p, x: run(p, x, stochasticity=INF), "stochasticity .* inf"),
        (lambda p, x: run(p, x, stochasticity=0.5), "noise"),
        (lambda p, x: run(p, x, steps=[10, 20, 0]), r"descend.* \[10\.0, 20\.0"),
        (lambda p, x: run(p, x, steps=[10, 10, 0]), "descend"),
        (lambda p, x: run(p, x, steps=[10, NAN, 0]), "n must .* nan"),
        (lambda p, x: ancestral(p, keep, x, torch.tensor([5, 8]), Draws(0)), "descend"),
        (
            lambda p, x: ancestral(p, keep, x, torch.tensor([8, 0]), Draws(0), "exact"),
            "variance .* 'exact'",
        ),
        (lambda p, x: SampleNoise(1, [0]).like(torch.empty(2, 3)), "1 samples, got 2"),
    ],
)
def test_bad_input_is_named(make, message):
    process = small_process(N=4)
    with pytest.raises(ValueError, match=message):
        make(process, torch.zeros(2, 1, 4, 4))


def keep(x, n):
    return x


def run(process, x, steps=(10, 5, 0), **options):
    return multistep(process, keep, x, torch.tensor(steps, dtype=torch.float64), **options)


def test_each_call_is_at_the_step_before():
    process = small_process(N=4)
    called = []

    def denoise(x, n):
        called.append(n)
        return x

    steps = step_grid(process, 700, 5)
    x = torch.zeros(1, 1, 4, 4)
    multistep(process, denoise, x, steps)
    assert called == steps[:-1].tolist()
    assert all(n > m for n, m in pairwise(called))
