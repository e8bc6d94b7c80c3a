"""Evaluation on the active modes only, with networks that are exact for the fields they get."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import processes

from skild_physics import kspace
from skild_physics.diffusion.adaptive import (
    active_intervals,
    active_size,
    adaptive_denoiser,
)
from skild_physics.diffusion.integrators import ancestral, multistep, step_grid
from skild_physics.diffusion.oracle import gaussian
from skild_physics.diffusion.prediction import PREDICTIONS, convert, denoiser
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.schedule import LinearSchedule, linear_to_resolution

thresholds = st.floats(1e-3, 0.5)


@st.composite
def process_and_multiple(draw):
    process = draw(processes(max_size=16))
    divisors = [d for d in range(1, process.N + 1) if process.N % d == 0]
    return process, draw(st.sampled_from(divisors))


def size_by_looking_at_every_mode(process, n, threshold, multiple):
    """An M x M lattice holds, in both bases, the waves of fewer than M half periods."""
    alpha, sigma = process.marginal(n)
    snr = alpha**2 * process.S0 / sigma**2
    assume(not bool(((snr / threshold - 1).abs() < 1e-9).any()))
    d = torch.tensor(kspace.half_periods(process.N, process.basis))
    larger = torch.maximum(d[:, None], d[None, :])
    needed = int(larger[snr > threshold].max()) if bool((snr > threshold).any()) else 0
    fitting = [M for M in range(multiple, process.N, multiple) if needed < M]
    return min(fitting, default=process.N)


@given(process_and_multiple(), st.floats(0, 1), thresholds)
def test_live_size_is_the_smallest_that_holds_all_live_modes(drawn, fraction, threshold):
    process, multiple = drawn
    n = fraction * process.T
    wanted = size_by_looking_at_every_mode(process, n, threshold, multiple)
    assert active_size(process, n, threshold, multiple) == wanted


@given(process_and_multiple(), thresholds)
def test_live_intervals_are_where_live_size_says(drawn, threshold):
    process, multiple = drawn
    ends = active_intervals(process, threshold, multiple)
    sizes, last = list(ends), list(ends.values())
    assert sizes == sorted(sizes, reverse=True)
    assert last == sorted(last)
    assert last[-1] == process.T
    for n in np.linspace(0, process.T, 101).tolist():
        if np.abs(np.array(last) - n).min() < 1e-6 * process.T and n < process.T:
            continue
        wanted = next(M for M, end in ends.items() if n <= end)
        assert active_size(process, n, threshold, multiple) == wanted
    for M, end in list(ends.items())[:-1]:
        assert active_size(process, end * (1 - 1e-6), threshold, multiple) == M
        assert active_size(process, min(end * (1 + 1e-6), process.T), threshold, multiple) < M


def exact_network(process, D, prediction, sides):
    """Knows the data N(0, D), and finds process and step from the side and lambda M^2 it gets."""

    def network(fields, lam):
        M = fields.shape[-1]
        sides.append(M)
        small = process.cropped(M)
        n = small.step_at(float(lam[0]) / M**2)
        x_n = kspace.forward(fields, process.basis)
        x_0 = gaussian(D[:M, :M] * (M / process.N) ** 2).denoiser(small)(x_n, n)
        output = convert("x0", prediction, small, n, x_0, x_n)
        return kspace.inverse(output, process.basis)

    return network


def fields_at(process, D, n, seed, count=3):
    alpha, sigma = process.marginal(n)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(count, 1, process.N, process.N, generator=generator, dtype=torch.float64)
    return (alpha**2 * D + sigma**2).sqrt() * draws


@given(
    process_and_multiple(),
    st.floats(0.02, 1),
    thresholds,
    st.sampled_from(PREDICTIONS),
    st.integers(0, 2**31),
)
def test_adaptive_denoiser_is_the_full_one_on_live_modes(
    drawn, fraction, threshold, prediction, seed
):
    process, multiple = drawn
    n = fraction * process.T
    D = process.S0 * torch.linspace(0.5, 1, process.N, dtype=torch.float64)
    sides = []
    network = exact_network(process, D, prediction, sides)
    x_n = fields_at(process, D, n, seed)
    full = denoiser(network, process, prediction)(x_n, n)
    ours = adaptive_denoiser(network, process, prediction, threshold, multiple)(x_n, n)
    M = active_size(process, n, threshold, multiple)
    assert sides == [process.N, M]
    if process.N == M:
        assert torch.equal(ours, full)
        return
    away = ((ours - full) / process.S0.sqrt()).abs()
    u = process.exponent(n)
    dead = torch.exp(-u) / -torch.expm1(-u) <= threshold
    assert _largest(away[..., ~dead]) < 1e-6
    # a dead mode is estimated exactly, from the lattice that happens to hold it, or as 0
    estimate = np.sqrt(threshold / (1 + threshold)) * (x_n / process.S0.sqrt()).abs()
    assert bool((away <= estimate * (1 + 1e-6) + 1e-6).all())


def _largest(x):
    return float(x.max()) if x.numel() else 0.0


@given(processes(max_size=12), st.data(), thresholds)
def test_a_step_changes_by_no_more_than_the_signal_left(process, data, threshold):
    """For data N(0, S0), x_m changes by at most alpha_n alpha_m x_n, mode by mode."""
    n = data.draw(st.integers(1, process.T))
    m = data.draw(st.integers(0, n - 1))
    network = exact_network(process, process.S0, "v", [])
    x_n = fields_at(process, process.S0, n, seed=0)
    from_x0 = process.posterior(n, m).from_x0
    estimates = [
        f(x_n, n)
        for f in (
            denoiser(network, process, "v"),
            adaptive_denoiser(network, process, "v", threshold),
        )
    ]
    change = (from_x0 * (estimates[0] - estimates[1])).abs()
    bound = process.marginal(n).alpha * process.marginal(m).alpha * x_n.abs()
    assert bool((change <= bound * (1 + 1e-6) + 1e-9 * process.S0.sqrt()).all())


class Replay:
    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def like(self, x):
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


@pytest.mark.parametrize("basis", kspace.BASES)
@pytest.mark.parametrize("threshold", [0.1, 0.01, 0.001])
@pytest.mark.parametrize("sampler", ["flow", "reversed SDE", "ancestral"])
def test_sampled_fields_change_by_about_the_threshold(sampler, threshold, basis):
    N = 16
    S0 = torch.tensor((kspace.wavenumbers(N, basis) ** 2 + 2) ** -0.9)
    process = Process(S0, linear_to_resolution(N, 0.5, 5, 0.01), basis, k_c=3.0)
    steps = step_grid(process, process.T, 40, "log-resolution", last_snr=30.0)
    sides = []
    network = exact_network(process, S0, "v", sides)
    made = []
    for denoise in (
        denoiser(network, process, "v"),
        adaptive_denoiser(network, process, "v", threshold, multiple=2),
    ):
        noise = Replay(2)
        x = S0.sqrt() * noise.like(torch.empty(20, 1, N, N, dtype=torch.float64))
        if sampler == "ancestral":
            made.append(ancestral(process, denoise, x, steps, noise))
        else:
            tau = float(sampler == "reversed SDE")
            made.append(multistep(process, denoise, x, steps, 2, tau, noise))
    change = (made[0] - made[1]) / S0.sqrt()
    assert min(sides) < N / 2
    assert 0 < float(change.square().mean().sqrt()) < threshold
    assert float(change.abs().max()) < 4 * threshold


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: active_size(p, 10, 0), "threshold .* 0"),
        (lambda p: active_size(p, 10, float("nan")), "threshold .* nan"),
        (lambda p: active_size(p, 10, 0.1, 3), "multiple .* 8, got 3"),
        (lambda p: active_size(p, 10, 0.1, 0), "multiple .* 0"),
        (lambda p: active_size(p, 1001, 0.1), "n must .* 1001"),
        (lambda p: active_intervals(p, -1), "threshold .* -1"),
        (lambda p: adaptive_denoiser(lambda x, lam: x, p, "v", 0.1, 5), "multiple .* 5"),
        (lambda p: adaptive_denoiser(lambda x, lam: x, p, "u"), "prediction .* 'u'"),
    ],
)
def test_bad_input_is_named(make, message):
    process = Process(torch.ones(8, 8), LinearSchedule(20, 2, 5), "periodic")
    with pytest.raises(ValueError, match=message):
        make(process)
