"""Inverse renormalisation: the spectra of larger critical lattices, and fields on them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small_runs import make_inputs, one_thread, run_values

from skild_physics import kspace
from skild_physics.cli.main import cli
from skild_physics.config import parse_config
from skild_physics.data_gen import IsingParameters, generate
from skild_physics.diffusion.adaptive import active_intervals
from skild_physics.diffusion.oracle import gaussian
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.renormalization import critical_denoiser, critical_process, rescaled
from skild_physics.diffusion.reverse import diffused, sample
from skild_physics.diffusion.sampler import Multistep
from skild_physics.diffusion.schedule import (
    LinearBetaSchedule,
    LogLinearSchedule,
    linear_to_resolution,
)
from skild_physics.fields import open_fields
from skild_physics.models.checkpoint import load
from skild_physics.spectrum import measure_blocks, spectrum_from_blocks
from skild_physics.spectrum.radial import radial_mean
from skild_physics.training.run import run

quick = pytest.fixture(autouse=True, scope="module")(one_thread)
TAU = 0.1


def critical(N, basis="periodic"):
    """Modes of variance q^(-7/4) in the momentum q per site, and any variance of the mean."""
    q = kspace.wavenumbers(N, basis) / N
    q[0, 0] = np.pi / N
    schedule = linear_to_resolution(N, 0.5, 9.0, TAU)
    return Process(torch.as_tensor(q**-1.75), schedule, basis, k_c=3.0)


@pytest.mark.parametrize("basis", ["periodic", "cosine"])
def test_enlarged_gaussian_fields_have_the_spectrum_of_the_larger_lattice(basis):
    own, process, count = critical(8, basis), critical(16, basis), 6000
    noise = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    X = own.S0.sqrt().float() * noise
    fields = kspace.inverse(X, basis)
    start = rescaled(process, gaussian(process.S0).denoiser(process), own, 4.0, TAU)
    made = sample(start, fields, Multistep(60, last_snr=100.0), batch_size=2000)
    modes = kspace.forward(made.result, basis)[:, 0].double()
    # 4.5 sigma of a variance of 6000 values, and what the last mean lacks
    variance = modes.square().mean(0) / process.S0
    np.testing.assert_allclose(variance, 1, atol=4.5 * (2 / count) ** 0.5 + 0.012)
    # large scales are those of the input, in the units of the larger lattice
    low = slice(0, 3)
    scaled = X[:, 0, low, low] * (process.S0[low, low] / own.S0[low, low]).sqrt()
    n = process.step_at_resolution(4.0, TAU)
    rho = (modes[:, low, low] * scaled).mean(0) / process.S0[low, low]
    expected = process.marginal(n).alpha[low, low] ** 1
    np.testing.assert_allclose(rho, expected, atol=4.5 * (2 / count) ** 0.5 + 0.01)
    ratio = process.S0[1, 1] / own.S0[1, 1]
    assert float(ratio) == pytest.approx(2**1.75)


def test_the_spectrum_of_a_larger_critical_lattice_is_foretold(tmp_path):
    """From 32 x 32 Wolff lattices to 64 x 64, measured on Wolff lattices."""
    spectra = {}
    for L, count in ((32, 20_000), (64, 6000)):
        path = tmp_path / f"{L}.h5"
        generate(path, IsingParameters.planned(L, seed=1), count, workers=2)
        blocks = measure_blocks(open_fields(path))
        spectra[L] = spectrum_from_blocks(blocks, "periodic")
    process = Process(
        torch.as_tensor(spectra[32].per_mode()),
        linear_to_resolution(32, 0.5, 9.0, TAU),
        "periodic",
        k_c=3.0,
    )
    large = critical_process(process, 64)
    measured = radial_mean(spectra[64].per_mode(), "periodic")
    away = np.log(radial_mean(large.S0.numpy(), "periodic") / measured)
    # the lowest waves are known to 1.8 % here, 4 sigma
    assert np.abs(away[:16]).max() < 0.07
    # shells of few directions scatter: the spectrum near the edge is not round
    assert np.abs(away).mean() < 0.03
    # the continuation of a lattice of the same spacing takes the box for a part of the lattice
    wrong = np.log(radial_mean(process.resized(64).S0.numpy(), "periodic") / measured)
    assert np.abs(wrong[:4]).mean() > 0.08
    # from the new lattice's smallest scale to the old end, in units of the box
    assert float(large.lam(1000)) == pytest.approx(float(process.lam(1000)))
    small = float(process.lam(10)) * 32**2
    assert float(large.lam(10)) * 64**2 == pytest.approx(small, rel=0.05)


@pytest.mark.parametrize("basis", ["periodic", "cosine"])
def test_a_power_law_of_the_lattice_momentum_is_continued(basis):
    S0 = {}
    for side in (64, 256):
        p = kspace.wavenumbers(side, basis, "lattice") / side
        p[0, 0] = 2 * np.pi / side
        S0[side] = torch.as_tensor(p**-1.75)
    process = Process(S0[64], linear_to_resolution(64, 0.5, 9.0, TAU), basis, k_c=3.0)
    large = critical_process(process, 256)
    k = kspace.wavenumbers(256, basis) / (2 * np.pi)
    ratio = (large.S0 / S0[256]).numpy()
    np.testing.assert_allclose(ratio[k < 8], 1, rtol=1e-10)
    np.testing.assert_allclose(ratio, 1, rtol=0.05)


def test_each_step_is_evaluated_on_the_smallest_lattice_that_holds_its_live_modes():
    """For Gaussian fields the estimate is the same on all of them: sqrt(abar) x_n."""
    small = critical(32)
    sides, used = (32, 64, 128), []

    def level(N):
        process = critical_process(small, N)
        denoise = gaussian(process.S0).denoiser(process)

        def noted(x_n, n):
            used.append((N, float(process.lam(n))))
            return denoise(x_n, n)

        return process, noted

    levels = [level(N) for N in sides]
    process = levels[-1][0]
    denoise = critical_denoiser(levels, 0.01)
    x_n = process.S0.sqrt() * torch.randn(2, 1, 128, 128, dtype=torch.float64)
    for R in (1.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0):
        n = process.step_at_resolution(R, TAU)
        alpha = process.marginal(n).alpha
        ours, exact = denoise(x_n, n), alpha * x_n
        # only modes of a signal-to-noise ratio below the threshold are left out
        live = alpha**2 / (1 - alpha**2) > 0.01
        torch.testing.assert_close(ours[..., live], exact[..., live])
        assert bool(((ours == 0) | torch.isclose(ours, exact)).all())
        assert used[-1][1] == pytest.approx(float(process.lam(n)))
    assert [N for N, _ in used] == [32, 32, 32, 64, 128, 128, 128]


@pytest.mark.parametrize(("M", "N"), [(16, 32), (64, 32)])
def test_spectra_that_cannot_be_continued(M, N):
    with pytest.raises(ValueError, match="continued"):
        critical_process(critical(M), N)


def test_a_schedule_that_ends_nowhere_in_particular():
    process = Process(critical(32).S0, LinearBetaSchedule(0.1, 20.0), "periodic", k_c=500.0)
    with pytest.raises(ValueError, match="schedules"):
        critical_process(process, 64)
    logarithmic = Process(critical(32).S0, LogLinearSchedule(-4.0, -1.0), "periodic")
    large = critical_process(logarithmic, 64)
    assert float(large.lam(1000)) == pytest.approx(0.1)
    assert float(large.lam(1)) * 4 == pytest.approx(float(logarithmic.lam(1)), rel=0.01)


def test_the_network_sees_lattices_of_the_spacings_it_was_trained_on():
    """Active modes of larger critical lattices: the trained sizes, or larger boxes of the same."""
    model = load("bundled")
    seen = []

    def network(x, lam):
        seen.append((x.shape[-1], float(lam[0])))
        return torch.zeros_like(x[:, :1])

    network.multiple = 4
    model = replace(model, network=network)
    trained = active_intervals(model.process, model.threshold, 16)
    assert set(trained) == {16, 32, 48, 64}
    longest = {}
    start = 0.0
    for M, end in trained.items():
        steps = torch.linspace(start + 1e-6, end, 50, dtype=torch.float64)
        longest[M / 64] = [float(model.process.lam(n)) * M**2 for n in steps]
        start = end
    process, denoise = model.critical(256)
    for R in np.geomspace(0.6, 500, 60):
        n = process.step_at_resolution(float(R), TAU)
        denoise(torch.zeros(1, 1, 256, 256), n)
    assert {M for M, _ in seen} <= {16, 32, 48, 64, 96, 128, 192, 256}
    for M, lam in seen:
        # told as in training, at some share of active modes
        assert any(
            0.99 * min(values) <= lam <= 1.01 * max(values) for values in longest.values()
        ), (M, lam)


def test_a_network_that_is_shown_all_modes_is_told_no_lambda_beyond_its_own():
    model = load("bundled", snr_threshold=0)
    seen = []

    def network(x, lam):
        seen.append((x.shape[-1], float(lam[0])))
        return torch.zeros_like(x[:, :1])

    network.multiple = 4
    process, denoise = replace(model, network=network).critical(256)
    for R in np.geomspace(0.6, 500, 60):
        denoise(torch.zeros(1, 1, 256, 256), process.step_at_resolution(float(R), TAU))
    assert {M for M, _ in seen} == {64, 128, 256}
    most = float(model.process.lam(model.process.T)) * 64**2
    assert max(lam for _, lam in seen) <= most
    # larger boxes only while their coarsest half is noise of no account
    assert max(lam for M, lam in seen if M > 64) < most / 50


def test_on_the_same_lattice_it_is_the_paired_start():
    process = critical(8)
    fields = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    denoise = gaussian(process.S0).denoiser(process)
    ours = sample(rescaled(process, denoise, process, 4.0, TAU), fields, Multistep(4))
    paired = sample(diffused(process, denoise, 2.0, TAU), fields, Multistep(4))
    torch.testing.assert_close(ours.start, paired.start)
    torch.testing.assert_close(ours.result, paired.result)


@pytest.mark.parametrize(
    ("fields", "resolution", "message"),
    [
        (torch.zeros(1, 1, 6, 6), 4.0, "fields must be 8 x 8"),
        (torch.zeros(1, 1, 8, 8), 9.0, "between 0 and 8"),
        (torch.zeros(1, 1, 8, 8), 0.0, "between 0 and 8"),
    ],
)
def test_what_cannot_be_enlarged(fields, resolution, message):
    process = critical(16)
    denoise = gaussian(process.S0).denoiser(process)
    with pytest.raises(ValueError, match=message):
        sample(rescaled(process, denoise, critical(8), resolution, TAU), fields, Multistep())


def test_again_and_again_from_the_command_line(tmp_path):
    folder = make_inputs(tmp_path, L=32, samples=40)
    values = run_values(folder, folder / "run", steps=2)
    values["process"]["schedule"]["resolution"] = 0.5
    values["process"]["k_c"] = 3.0
    run(parse_config(values))
    source = folder / "train.h5"
    for L in (64, 128):
        out = tmp_path / f"{L}.h5"
        command = ["super-resolve", folder / "run", source, "--protocol", "rescaled", "--factor", 2]
        command += ["--steps", 3, "--samples", 4, "--out", out]
        done = CliRunner().invoke(cli, [str(c) for c in command], catch_exceptions=False)
        assert done.exit_code == 0
        fields = open_fields(out)
        assert fields.shape == (4, L, L)
        assert fields.attrs["effective_resolution"] == pytest.approx(L / 8)
        source = out
