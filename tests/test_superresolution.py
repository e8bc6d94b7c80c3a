"""Starts of the reverse process: paired, from real coarse fields, and from nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skild_physics import kspace
from skild_physics.data_gen import IsingParameters
from skild_physics.data_gen import generate as generate_ising
from skild_physics.diffusion.downsampling import (
    DOWNSAMPLINGS,
    downsample,
    downsampling_matrix,
)
from skild_physics.diffusion.oracle import gaussian
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.sampler import SampleNoise
from skild_physics.diffusion.schedule import LogLinearSchedule, linear_to_resolution
from skild_physics.diffusion.superresolution import (
    SAMPLERS,
    Observation,
    Sampling,
    generate,
    starting_step,
    super_resolve_observed,
    super_resolve_paired,
)
from skild_physics.fields import load_fields
from skild_physics.kspace import BASES


def power_law(N, basis="periodic", alpha=0.875):
    return torch.tensor((kspace.wavenumbers(N, basis) ** 2 + 2) ** -alpha) * N**2


def process_of(N, resolution, basis="periodic", k_c=0.0):
    return Process(power_law(N, basis), linear_to_resolution(N, resolution, 9, 0.1), basis, k_c)


def gaussian_fields(process, count, seed=0):
    noise = SampleNoise(seed, range(count))
    like = torch.empty(count, 1, process.N, process.N, dtype=torch.float64)
    return kspace.inverse(process.S0.sqrt() * noise.like(like), process.basis)


def test_starting_step_has_the_resolution_of_the_input():
    process = process_of(32, 8)
    assert starting_step(process, 4, 0.1) == pytest.approx(1000)
    n = starting_step(process, 2.5, 0.1)
    k2 = 2 * (np.pi * 32 / 2.5) ** 2
    abar = np.exp(-k2 * float(process.lam(n)))
    assert abar / (1 - abar) == pytest.approx(0.1, rel=1e-6)
    with pytest.raises(ValueError, match=r"factor must be at least 1, got 0\.5"):
        starting_step(process, 0.5, 0.1)
    with pytest.raises(ValueError, match="at most 4"):
        starting_step(process, 8, 0.1)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_results_do_not_depend_on_the_batch(sampler):
    process = process_of(8, 2)
    truth = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(1)).sign()
    denoise = gaussian(1.5 * process.S0).denoiser(process)
    coarse = downsample(truth, "box", 4, "periodic")
    whole = Process(process.S0, linear_to_resolution(8, 0.3, 9, 0.1), "periodic", k_c=3.0)
    for make in (
        lambda s: super_resolve_paired(process, denoise, truth, 3.2, 0.1, s),
        lambda s: super_resolve_observed(process, denoise, coarse, "box", 0.1, s),
        lambda s: generate(whole, gaussian(whole.S0).denoiser(whole), 7, s),
    ):
        runs = [make(Sampling(5, sampler, seed=4, batch_size=b)) for b in (1, 3, 7)]
        for run in runs[1:]:
            torch.testing.assert_close(run.start, runs[0].start, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(run.result, runs[0].result, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_zero_mode_comes_back_exactly(sampler):
    """It is not attenuated (k_c = 0); box averages hold it exactly too."""
    process = process_of(8, 2)
    truth = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)).sign()

    def nothing(x, n):
        return torch.zeros_like(x)

    made = super_resolve_paired(process, nothing, truth, 4, 0.1, Sampling(6, sampler))
    torch.testing.assert_close(made.result.mean((2, 3)), truth.mean((2, 3)), atol=1e-6, rtol=0)
    coarse = downsample(truth, "box", 4, "periodic")
    made = super_resolve_observed(process, nothing, coarse, "box", 0.1, Sampling(6, sampler))
    torch.testing.assert_close(made.result.mean((2, 3)), truth.mean((2, 3)), atol=1e-5, rtol=0)


@given(
    st.sampled_from(DOWNSAMPLINGS), st.integers(2, 20), st.integers(1, 20), st.sampled_from(BASES)
)
def test_downsampling_keeps_constants(kind, N, M, basis):
    M = min(M, N)
    R = downsampling_matrix(kind, N, M, basis)
    assert R.shape == (M, N)
    torch.testing.assert_close(R.sum(1), torch.ones(M, dtype=R.dtype), rtol=0, atol=1e-12)
    if M == N and kind in ("box", "spectral", "bicubic", "lanczos"):
        torch.testing.assert_close(R, torch.eye(N, dtype=R.dtype), rtol=0, atol=1e-12)


def test_box_averages_are_block_averages():
    x = torch.randn(3, 12, 12, dtype=torch.float64)
    blocks = x.reshape(3, 4, 3, 4, 3).mean((2, 4))
    torch.testing.assert_close(downsample(x, "box", 4, "periodic"), blocks)
    # 5 cells of 2.4 sites: the second holds sites 2 (0.6), 3, 4 (0.8)
    row = downsampling_matrix("box", 12, 5, "periodic")[1] * 2.4
    torch.testing.assert_close(row[2:5], torch.tensor([0.6, 1.0, 0.8], dtype=row.dtype))


@pytest.mark.parametrize("kind", ["bicubic", "lanczos", "box"])
def test_image_kernels_are_those_of_pillow(kind):
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(36, 36)).astype(np.float32)
    filters = {"bicubic": "BICUBIC", "lanczos": "LANCZOS", "box": "BOX"}
    theirs = Image.fromarray(pixels).resize((9, 9), Image.Resampling[filters[kind]])
    ours = downsample(torch.tensor(pixels).double(), kind, 9, "cosine")
    np.testing.assert_allclose(ours, np.asarray(theirs), atol=2e-5)


@pytest.mark.parametrize("kind", ["bicubic", "lanczos", "gaussian", "box"])
def test_kernels_on_a_torus_commute_with_translations(kind):
    x = torch.randn(16, 16, dtype=torch.float64)
    moved = downsample(x.roll((4, 8), (0, 1)), kind, 4, "periodic")
    torch.testing.assert_close(moved, downsample(x, kind, 4, "periodic").roll((1, 2), (0, 1)))


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
    made = super_resolve_observed(process, denoise, coarse, kind, 0.1, Sampling(8))
    assert Observation(process, kind, 8).residual(made.result, coarse) < 1e-4
    # and without being told, the denoiser would not know
    loose = super_resolve_paired(process, denoise, truth, 3, 0.1, Sampling(8))
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
            return (seen.agree(D, Y, gain) - x_0).square().mean(0)[0, :7, :7].sum()

        best = min(float(off(g * c)) for c in (0.8, 0.9, 1.0, 1.1))
        assert float(off(g)) < 1.01 * best
        assert float(off(g)) < 0.9 * min(float(off(0.0)), float(off(1.0)))


def test_observed_and_paired_starts_agree_on_lattices(tmp_path):
    """Critical lattices and their block averages: the same low modes, up to the noise both add."""
    generate_ising(tmp_path / "a.h5", IsingParameters.planned(16, seed=3), 400)
    with load_fields(tmp_path / "a.h5") as fields:
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


@pytest.mark.parametrize("N", [16, 48])
def test_resized_process_keeps_the_lattice_spacing(N):
    """Equal momenta per site are attenuated equally and have equal variance; the law continues."""
    process = Process(power_law(24), linear_to_resolution(24, 6, 9, 0.1), "periodic", k_c=5.0)
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
    log = Process(power_law(8), LogLinearSchedule(-3, -1), "periodic").resized(16)
    assert float(log.lam(1000)) == pytest.approx(0.1 / 4)
    assert process.resized(24) is process


def test_generation_from_nothing_returns_the_data():
    """Gaussian data of another spectrum than S0, and all modes at once."""
    process = Process(power_law(8), linear_to_resolution(8, 0.3, 9, 0.1), "periodic", k_c=3.0)
    D = process.S0 * torch.tensor(np.random.default_rng(0).uniform(0.5, 1.5, size=(8, 8)))
    # the last call returns a mean, which lacks 1/SNR of the variance
    sampling = Sampling(60, last_snr=200.0, batch_size=4000)
    made = generate(process, gaussian(D).denoiser(process), 4000, sampling)
    x_0 = kspace.forward(made.result.double(), "periodic")
    ratio = (x_0.square().mean(0)[0] / D).numpy()
    assert np.abs(ratio - 1).max() < 4.8 * np.sqrt(2 / 4000) + 0.02


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda p: super_resolve_paired(p, None, torch.zeros(1, 1, 6, 6), 2, 0.1, Sampling()),
            "6 x 6",
        ),
        (lambda p: Sampling(sampler="euler"), "euler"),
        (lambda p: Sampling(batch_size=0), "batch_size"),
        (
            lambda p: super_resolve_paired(
                p, None, torch.zeros(1, 1, 8, 8), 2, 0.1, Sampling(calls=0)
            ),
            "calls",
        ),
        (
            lambda p: super_resolve_observed(
                p, None, torch.zeros(1, 1, 9, 9), "box", 0.1, Sampling()
            ),
            "at most 8 wide, got 9 x 9",
        ),
        (lambda p: Observation(p, "nearest", 4).K, "nearest"),
        (lambda p: downsampling_matrix("box", 8, 9, "cosine"), "coarse size must lie in 1..8"),
        (lambda p: generate(p, None, 0, Sampling()), "number of samples"),
        (lambda p: p.resized(2), "N must be at least 4, got 2"),
        (lambda p: p.cropped(9), "M must lie in 1..8, got 9"),
    ],
)
def test_bad_input_is_named(make, message):
    process = process_of(8, 2)
    with pytest.raises(ValueError, match=message):
        make(process)
