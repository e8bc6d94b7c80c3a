import numpy as np
import pytest
import torch
from click.testing import CliRunner
from skild_physics.cli.main import cli
from small_runs import make_inputs, one_thread, run_values

from skild_physics import kspace
from skild_physics.diffusion.oracle import gaussian
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.renormalization import enlarge
from skild_physics.diffusion.schedule import linear_to_resolution
from skild_physics.diffusion.superresolution import Sampling, super_resolve_paired
from skild_physics.fields import load_fields
from skild_physics.training.config import parse_config
from skild_physics.training.run import train

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
    sampling = Sampling(calls=60, last_snr=100.0, batch_size=2000)
    denoise = gaussian(process.S0).denoiser(process)
    made = enlarge(process, denoise, fields, own, 4.0, TAU, sampling)
    modes = kspace.forward(made.result, basis)[:, 0].double()
    # 4.5 sigma of a variance of 6000 values, and what the last call's mean lacks
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


def test_on_the_same_lattice_it_is_the_paired_start():
    process = critical(8)
    fields = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    denoise, sampling = gaussian(process.S0).denoiser(process), Sampling(calls=4)
    ours = enlarge(process, denoise, fields, process, 4.0, TAU, sampling)
    paired = super_resolve_paired(process, denoise, fields, 2.0, TAU, sampling)
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
        enlarge(process, denoise, fields, critical(8), resolution, TAU, Sampling())


def test_again_and_again_from_the_command_line(tmp_path):
    folder = make_inputs(tmp_path)
    values = run_values(folder, folder / "run")
    values["process"]["schedule"]["resolution"] = 0.5
    values["process"]["k_c"] = 3.0
    train(parse_config(values))
    source = folder / "train.h5"
    for L in (16, 32):
        out = tmp_path / f"{L}.h5"
        command = ["super-resolve", folder / "run", source, "--protocol", "rescaled", "--factor", 2]
        command += ["--steps", 3, "--samples", 4, "--out", out]
        done = CliRunner().invoke(cli, [str(c) for c in command], catch_exceptions=False)
        assert done.exit_code == 0
        with load_fields(out) as fields:
            assert fields.shape == (4, L, L)
            assert fields.attrs["effective_resolution"] == pytest.approx(L / 4)
        source = out
