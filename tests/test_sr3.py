"""Conditional models: SR3, white and with a coarse field as further channels."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from small_runs import interrupted_and_resumed, make_inputs, one_thread, run_values, to_toml

import skild_physics as sk
from skild_physics import kspace
from skild_physics.cli.main import cli
from skild_physics.config import parse_config
from skild_physics.config.training import ConditionConfig
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.reverse import sample
from skild_physics.diffusion.schedule import LinearBetaSchedule
from skild_physics.fields import open_fields
from skild_physics.fields.downsampling import downsample
from skild_physics.models.checkpoint import load
from skild_physics.models.conditional import Conditional, coarse_part, interpolated
from skild_physics.training.run import run

quick = pytest.fixture(autouse=True, scope="module")(one_thread)


def keys(s, a=-0.75):
    s = np.abs(s)
    inner = (a + 2) * s**3 - (a + 3) * s**2 + 1
    outer = a * (s**3 - 5 * s**2 + 8 * s - 4)
    return np.where(s < 1, inner, np.where(s < 2, outer, 0.0))


@given(M=st.integers(3, 6), factor=st.integers(1, 5), basis=st.sampled_from(["periodic", "cosine"]))
def test_interpolation_is_the_sum_over_the_cubic_kernel(M, factor, basis):
    rng = np.random.default_rng(M * factor)
    coarse = rng.standard_normal((1, 2, M, M))
    places = (np.arange(M * factor) + 0.5) / factor - 0.5
    U = np.zeros((M * factor, M))
    for j in range(-M, 2 * M):
        at = j % M if basis == "periodic" else min(max(j, 0), M - 1)
        U[:, at] += keys(places - j)
    ours = interpolated(torch.as_tensor(coarse), factor, basis).numpy()
    np.testing.assert_allclose(ours, U @ coarse @ U.T, atol=1e-12)


def white(N, basis="periodic", **schedule):
    return parse_config(
        {
            "out": ".",
            "data": {"source": "none"},
            "process": {
                "white": {"size": N, "basis": basis},
                "schedule": {"kind": "linear-beta", **schedule},
            },
        }
    )


def test_the_white_process_is_that_of_ddpm():
    config = white(8, beta_0=0.1, beta_1=20.0)
    process = config.process.build(*config.process.modes())
    alpha, sigma = process.marginal(torch.tensor([100.0, 300.0, 500.0, 1000.0]))
    assert torch.equal(alpha, alpha[:, :1, :1].expand_as(alpha))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    # Ho et al., arXiv 2006.11239: 1000 betas from 1e-4 to 0.02
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for n, ours in zip((100, 300, 500, 1000), alpha[:, 0, 0] ** 2, strict=True):
        # sums over steps against the integral
        assert np.log(float(ours)) == pytest.approx(np.log(abar[n - 1]), rel=0.015)


@given(
    beta_0=st.floats(0, 30),
    beta_1=st.floats(1e-3, 30),
    t=st.floats(0, 1),
    factor=st.floats(1e-4, 10),
)
def test_linear_beta_is_inverted_and_scaled(beta_0, beta_1, t, factor):
    schedule = LinearBetaSchedule(beta_0, beta_1)
    lam = schedule.lam(t)
    # where beta grows from 0 the inverse is a square root: absolute errors matter, too
    assert float(schedule.lam(schedule.time(lam))) == pytest.approx(float(lam), rel=1e-9, abs=1e-12)
    assert float(schedule.scaled(factor).lam(t)) == pytest.approx(factor * float(lam), rel=1e-12)
    if 1e-3 < t < 1 - 1e-3:
        slope = (schedule.lam(t + 1e-6) - schedule.lam(t - 1e-6)) / 2e-6
        assert float(schedule.rate(t)) == pytest.approx(float(slope), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("betas", [(-1.0, 2.0), (0.1, 0.0), (float("nan"), 1.0)])
def test_impossible_betas(betas):
    with pytest.raises(ValueError, match="beta_"):
        LinearBetaSchedule(*betas)


def test_given_coarse_gaussian_fields_samples_have_the_posterior_distribution():
    """White x_0 given its means over cells: these exactly, and N(0, 1) for all else."""
    N, M = 8, 4
    config = white(N).model_copy(update={"condition": ConditionConfig(factor=2)})
    process = config.process.build(*config.process.modes())
    x_0 = torch.randn(3000, 1, N, N, generator=torch.Generator().manual_seed(1))
    y = downsample(x_0, "box", M, "periodic")

    def mean_over_cells(x):
        coarse = downsample(x, "box", M, "periodic")
        return coarse.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)

    solve = torch.linalg.pinv(
        interpolated(torch.eye(M * M).reshape(-1, 1, M, M), 2, "periodic").reshape(M * M, -1)
    )

    class Exact(Conditional):
        def denoiser(self, conditioning):
            coarse = (conditioning.flatten(1) @ solve).reshape(-1, 1, M, M)
            known = coarse.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)

            def estimate(x_n, n):
                x = kspace.inverse(x_n, "periodic")
                alpha = float(process.marginal(n).alpha[0, 0])
                return kspace.forward(known + alpha * (x - mean_over_cells(x)), "periodic")

            return estimate

    model = Exact(torch.nn.Identity(), process, config, ("field",))
    start = model.observed(M, 2, "box")
    made = sample(start, y, sk.Multistep(100, last_snr=1000.0), batch_size=1000).result
    torch.testing.assert_close(downsample(made, "box", M, "periodic"), y, atol=0.01, rtol=0)
    rest = made - mean_over_cells(made)
    # 3/4 of the variance, 144,000 independent values: sigma of their mean square 0.0028
    assert float(rest.square().mean()) == pytest.approx(0.75, abs=4 * 0.0028 + 0.003)
    torch.testing.assert_close(
        made.mean(0),
        y.mean(0).repeat_interleave(2, -1).repeat_interleave(2, -2),
        atol=5 / 3000**0.5,
        rtol=0,
    )


def test_coarse_part_has_the_coarse_field_of_a_constant():
    ones = torch.ones(2, 3, 8, 8)
    torch.testing.assert_close(coarse_part(ones, 4, "box", "periodic"), ones)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = make_inputs(tmp_path_factory.mktemp("sr3"))
    values = run_values(folder, folder / "run")
    values["process"] = {
        "white": {"size": 8, "basis": "periodic"},
        "schedule": {"kind": "linear-beta"},
    }
    values["condition"] = {"factor": 2}
    values["training"]["prediction"] = "eps"
    run(parse_config(values))
    return folder, values


def test_training_resumes_to_the_same_weights(trained, tmp_path):
    folder, values = trained
    interrupted_and_resumed(values | {"out": str(tmp_path / "half")})
    whole, resumed = (load(p) for p in (folder / "run", tmp_path / "half"))
    assert whole.config.condition is not None
    for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_conditioning_reaches_the_network(trained):
    model = load(trained[0] / "run")
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    conditioning = torch.ones(2, 1, 8, 8)
    with torch.inference_mode():
        one, other = (model.denoiser(c)(x, 700.0) for c in (conditioning, -conditioning))
    assert float((one - other).abs().max()) > 1e-3


def test_both_protocols_from_the_command_line(trained, tmp_path):
    folder = trained[0]

    def command(*arguments):
        arguments = [str(argument) for argument in arguments]
        assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0

    coarse = tmp_path / "coarse.h5"
    full = folder / "train.h5"
    command("coarse-grain", full, "--factor", 2, "--samples", 6, "--out", coarse)
    common = ["--factor", 2, "--steps", 4]
    resolve = "super-resolve", folder / "run"
    command(*resolve, full, *common, "--samples", 6, "--out", tmp_path / "p.h5")
    command(*resolve, coarse, *common, "--protocol", "observed", "--out", tmp_path / "o.h5")
    paired, observed = (open_fields(tmp_path / f"{name}.h5") for name in "po")
    # both are conditioned on the same coarse fields and draw the same noise
    np.testing.assert_allclose(paired.values, observed.values, atol=1e-4)
    assert paired.attrs["effective_resolution"] == 4
    for message, arguments in (
        ("factor 2 only", ("super-resolve", folder / "run", full, "--factor", 4)),
        (
            "trained on fields coarse-grained by box",
            (
                *("super-resolve", folder / "run", coarse, "--factor", 2),
                *("--protocol", "observed", "--downsampling", "gaussian"),
            ),
        ),
        ("a conditional model cannot generate", ("generate", folder / "run")),
    ):
        with pytest.raises(ValueError, match=message):
            command(*arguments, "--out", tmp_path / "q.h5")
    assert not (tmp_path / "q.h5").exists()


def test_a_coarse_side_that_does_not_divide(trained):
    model = load(trained[0] / "run")
    for verb, side in ((model.super_resolve, 4), (model.reconstruct, 8)):
        with pytest.raises(ValueError, match=f"takes fields of {side} x {side} here, got 3 x 3"):
            verb(np.zeros((1, 3, 3), np.float32), 2)
    with pytest.raises(ValueError, match="the fields are 3 x 3, the model takes 4 x 4"):
        sample(model.observed(4, 2, "box"), torch.zeros(1, 1, 3, 3), sk.Multistep())


def test_a_factor_that_does_not_divide_is_refused(trained):
    values = json.loads(json.dumps(trained[1]))
    values["condition"] = {"factor": 3}
    values["out"] += "-three"
    with pytest.raises(ValueError, match=r"condition\.factor = 3"):
        run(parse_config(values))


def test_white_and_its_schedule_go_together():
    with pytest.raises(ValueError, match="linear-beta"):
        parse_config(
            {
                "out": ".",
                "data": {"source": "none"},
                "process": {
                    "white": {"size": 8, "basis": "periodic"},
                    "schedule": {"kind": "linear", "resolution": 2.0},
                },
            }
        )
    with pytest.raises(ValueError, match="snr_threshold"):
        parse_config(white(8).to_json() | {"training": {"snr_threshold": 0.1}})


def test_an_even_process_needs_no_spectrum():
    config = white(6, "cosine")
    process = config.process.build(*config.process.modes())
    assert isinstance(process, Process)
    assert process.basis == "cosine"
    assert not process.frozen.any()


def test_toml_round_trip(trained, tmp_path):
    (tmp_path / "c.toml").write_text(to_toml(trained[1]))
    assert "condition" in (tmp_path / "c.toml").read_text()
