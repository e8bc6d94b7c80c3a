"""What real coarse fields say about fine ones, and starts of the reverse process from them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import skild_physics as sk
from skild_physics import kspace
from skild_physics.diffusion.noise import SampleNoise
from skild_physics.diffusion.observation import Observation, observed
from skild_physics.diffusion.oracle import gaussian
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.reverse import diffused, sample
from skild_physics.diffusion.sampler import Multistep
from skild_physics.diffusion.schedule import linear_to_resolution
from skild_physics.fields.downsampling import DOWNSAMPLINGS, downsample
from skild_physics.kspace import BASES


def power_law(N, basis="periodic", alpha=0.875):
    return torch.tensor((kspace.wavenumbers(N, basis) ** 2 + 2) ** -alpha) * N**2


def process_of(N, resolution, basis="periodic", k_c=0.0):
    return Process(power_law(N, basis), linear_to_resolution(N, resolution, 9, 0.1), basis, k_c)


def gaussian_fields(process, count, seed=0):
    noise = SampleNoise(seed, range(count))
    like = torch.empty(count, 1, process.N, process.N, dtype=torch.float64)
    return kspace.inverse(process.S0.sqrt() * noise.like(like), process.basis)


@given(
    st.sampled_from(DOWNSAMPLINGS),
    st.sampled_from(BASES),
    st.sampled_from([(12, 4), (12, 5), (16, 6), (9, 4), (8, 8)]),
)
def test_observed_start_is_the_forward_marginal(kind, basis, sizes):
    """Mean over noise and aliases of x_n given x_0, and its variance, mode by mode: where y has
    the mode, alpha x_0 and sigma^2, as if x_0 itself had been diffused; elsewhere N(0, S0)."""
    N, M = sizes
    process = process_of(N, 0.9 * M / 2**0.5, basis)
    seen = Observation(process, kind, M)
    n = seen.step(0.1)
    alpha = process.marginal(n).alpha
    a2 = seen.alias_variance
    held = torch.isfinite(a2)
    # the estimate of a field's low modes: unit gain on themselves, a2 from all others
    G = seen.inverse @ seen.K
    for u, v in zip(*(i.tolist() for i in torch.nonzero(held, as_tuple=True)), strict=True):
        assert float(G[u, u] * G[v, v]) == pytest.approx(1, abs=1e-5)
        others = torch.outer(G[u], G[v]) ** 2
        others[u, v] = 0
        assert float(a2[u, v]) == pytest.approx(
            float((others * process.S0).sum()), rel=1e-6, abs=1e-9
        )
    beta2 = torch.minimum(alpha**2, process.S0 / (process.S0 + a2))
    enough = held & (alpha**2 * (process.S0 + a2) <= process.S0)
    torch.testing.assert_close(beta2[enough], (alpha**2)[enough])
    # these two alone measure the zero mode, to which the process adds no noise, without aliases
    assert bool(enough[0, 0]) or kind not in ("box", "spectral")
    # nothing above the threshold is missing
    snr = alpha**2 / (1 - alpha**2)
    if n < process.T * (1 - 1e-9) and bool((~held).any()):
        assert float(snr[~held].max()) <= 0.1 * (1 + 1e-6)


@pytest.mark.parametrize("basis", BASES)
def test_observed_start_has_the_covariance_of_the_process(basis):
    """Over fields N(0, S0): Var x_n = S0 in every mode, and Cov(x_n, x_0) = beta S0."""
    process, count = process_of(12, 3, basis), 20_000
    truth = gaussian_fields(process, count)
    seen = Observation(process, "box", 4)
    coarse = downsample(truth, "box", 4, basis)
    n = seen.step(0.1)
    x_n = seen.start(coarse, n, SampleNoise(1, range(count)))
    variance = x_n.square().mean(0)[0] / process.S0
    assert float((variance - 1).abs().max()) < 4.8 * np.sqrt(2 / count)
    x_0 = kspace.forward(truth, basis)
    correlation = (x_n * x_0).mean(0)[0] / process.S0
    a2 = seen.alias_variance
    alpha = process.marginal(n).alpha
    beta = torch.minimum(alpha, (process.S0 / (process.S0 + a2)).sqrt())
    assert float((correlation - beta).abs().max()) < 4.8 * np.sqrt(2 / count)


@pytest.mark.parametrize("kind", DOWNSAMPLINGS)
@pytest.mark.parametrize("basis", BASES)
def test_observed_results_coarsen_to_what_was_observed(kind, basis):
    process = process_of(24, 4, basis)
    truth = gaussian_fields(process, 16).float()
    coarse = downsample(truth, kind, 8, basis)
    denoise = gaussian(process.S0).denoiser(process)
    made = sample(observed(process, denoise, 8, kind, 0.1), coarse, Multistep(8))
    assert Observation(process, kind, 8).residual(made.result, coarse) < 1e-4
    # and without being told, the denoiser would not know
    loose = sample(diffused(process, denoise, 3, 0.1), truth, Multistep(8))
    assert Observation(process, kind, 8).residual(loose.result, coarse) > 0.02


def test_coarse_fields_inform_the_estimate_as_bayes_would():
    """Gaussian data, the exact denoiser: the estimate gets closer to x_0, and no gain does much
    better than ours."""
    process = process_of(16, 4)
    truth = gaussian_fields(process, 2000)
    x_0 = kspace.forward(truth, "periodic")
    seen = Observation(process, "box", 8)
    Y = kspace.forward(downsample(truth, "box", 8, "periodic"), "periodic")
    denoise = gaussian(process.S0).denoiser(process)
    for n in (200.0, 1000.0):
        alpha, sigma = process.marginal(n)
        x_n = alpha * x_0 + sigma * torch.randn(
            x_0.shape, generator=torch.Generator().manual_seed(1), dtype=x_0.dtype
        )
        D, g = denoise(x_n, n), seen.gain(n)

        def off(gain, D=D):
            return (seen.project(D, Y, gain) - x_0).square().mean(0)[0, :7, :7].sum()

        best = min(float(off(g * c)) for c in (0.8, 0.9, 1.0, 1.1))
        assert float(off(g)) < 1.01 * best
        assert float(off(g)) < 0.9 * min(float(off(0.0)), float(off(1.0)))


def test_observed_and_paired_starts_agree_on_lattices():
    """Critical lattices and their block averages: the same low modes, up to the noise both add."""
    fields = sk.generate_ising(16, samples=400, seed=3)
    truth = torch.tensor(fields.values).double()[:, None]
    x_0 = kspace.forward(truth, "periodic")
    S0 = x_0.square().mean((0, 1))
    process = Process(S0, linear_to_resolution(16, 3, 9, 0.1), "periodic")
    seen = Observation(process, "box", 8)
    coarse = downsample(truth, "box", 8, "periodic")
    n = seen.step(0.1)
    alpha, sigma = process.marginal(n)
    x_n = seen.start(coarse, n, SampleNoise(0, range(400)))
    away = ((x_n - alpha * x_0) / sigma.clamp(min=1e-12)).square().mean(0)[0]
    k = torch.tensor(kspace.wavenumbers(16, "periodic"))
    low = (k > 0) & (k < 2 * np.pi * 2.5)
    assert float((away[low] - 1).abs().max()) < 5 * np.sqrt(2 / 400)
    torch.testing.assert_close(x_n[..., 0, 0], x_0[..., 0, 0])


@pytest.mark.parametrize("kind", ["box", "spectral"])
def test_results_of_a_side_of_their_own_are_cropped_with_their_start(kind):
    """On a lattice that a network takes, then without the last modes."""
    process = process_of(24, 4, "cosine")
    denoise = gaussian(process.S0).denoiser(process)
    coarse = downsample(gaussian_fields(process, 3).float(), kind, 8, "cosine")
    whole = sample(observed(process, denoise, 8, kind, 0.1), coarse, Multistep(4))
    start = observed(process, denoise, 8, kind, 0.1, size=20)
    made = sample(start, coarse, Multistep(4))
    assert (start.size, start.residual) == (20, None)
    assert torch.equal(made.start, downsample(whole.start, "spectral", 20, "cosine"))
    assert torch.equal(made.result, downsample(whole.result, "spectral", 20, "cosine"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: observed(p, None, 9, "box", 0.1), "at most 8 wide, got 9"),
        (
            lambda p: sample(
                observed(p, None, 4, "box", 0.1), torch.zeros(1, 1, 4, 5), Multistep()
            ),
            "must be 4 x 4, got 4 x 5",
        ),
        (lambda p: observed(p, None, 1, "box", 0.1), "`factor` must be at most 4"),
        (lambda p: Observation(p, "nearest", 4).K, "nearest"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(process_of(8, 2))
