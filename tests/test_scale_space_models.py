"""Models of Scale Space Diffusion: their errors, runs, checkpoints, and the commands."""

from dataclasses import replace

import numpy as np
import pytest
import small_runs
import torch
import xarray as xr
from click.testing import CliRunner
from PIL import Image

import skild_physics as sk
from skild_physics.cli.main import cli, main
from skild_physics.config import load_config, parse_config
from skild_physics.diffusion.reverse import sample
from skild_physics.diffusion.scale_space import ScaleSpace, level_ends
from skild_physics.diffusion.schedule import LinearBetaSchedule
from skild_physics.fields.downsampling import downsample
from skild_physics.models.checkpoint import load
from skild_physics.models.scale_space import ScaleSpaceModel
from skild_physics.networks import FlexiUNet
from skild_physics.spectrum import Spectrum
from skild_physics.training.run import run

one_thread = pytest.fixture(scope="module", autouse=True)(small_runs.one_thread)
BETAS = LinearBetaSchedule(0.1, 20.0)


def space_of(sizes, kind="box", basis="periodic"):
    return ScaleSpace(sizes, level_ends(len(sizes), 1000), BETAS, kind, basis)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_error_variance_of_white_fields_is_as_computed():
    """A network that answers 0 estimates alpha x_n, lifted: of white fields the error is known."""
    space = space_of((16, 8), "crop")
    config = parse_config(
        {
            "out": "x",
            "data": {"source": "x"},
            "process": {"kind": "scale-space", "size": 16, "basis": "periodic", "factors": [2]},
            "network": {"kind": "flexi", "channels": [4, 4], "blocks": [1, 1], "patch": 1},
        }
    )
    network = FlexiUNet(16, (4, 4), (1, 1), 1)
    torch.nn.init.zeros_(network.head.bias)
    model = ScaleSpaceModel(network, space.levels[0], config, ("spin",), space=space)
    fields = torch.randn(3000, 1, 16, 16, generator=seeded())
    (found,) = model.calibrated(fields, 500).error_variance
    # alpha (alpha x_0 + sigma eps) - x_0 where a mode is kept, -x_0 where it is not
    abar = np.exp(-space.u(space.ends[0]))
    wanted = torch.ones(16, 16).double()
    wanted[:7, :7] = (1 - abar) ** 2 + abar * (1 - abar)
    # the highest wave of an even torus is kept for the noise only
    wanted[7, :8] += abar * (1 - abar)
    wanted[:7, 7] += abar * (1 - abar)
    off = (found / wanted - 1).abs()
    assert float(off.max()) < 5 * np.sqrt(2 / 3000)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scalespace")
    small_runs.make_inputs(folder, L=16, samples=200)
    sk.generate_ising(16, samples=40, seed=2, out=folder / "held.h5").close()
    sk.generate_ising(8, samples=10, seed=2, out=folder / "small.h5").close()
    for name, kind in (("scale", "scale-space"), ("skild", "skild")):
        values = small_runs.run_values(folder, folder / name)
        if kind == "scale-space":
            values |= scale_space_values()
        (folder / f"{name}.toml").write_text(small_runs.to_toml(values))
        run(load_config(folder / f"{name}.toml"))
    return folder


def scale_space_values(**process):
    return {
        "process": {
            "kind": "scale-space",
            "size": 16,
            "basis": "periodic",
            "factors": [2, 2],
            "degradation": "box",
            **process,
        },
        "network": {"kind": "flexi", "channels": [8, 8, 8], "blocks": [1, 1, 1], "patch": 1},
    }


def test_a_run_learns_and_its_checkpoint_knows_its_process(inputs):
    model = load(inputs / "scale")
    assert model.space.sizes == (16, 8, 4)
    assert model.space.ends == level_ends(3, 1000)
    assert [tuple(v.shape) for v in model.error_variance] == [(16, 16), (8, 8)]
    assert all((v > 0).all() for v in model.error_variance)
    assert (inputs / "scale" / "samples" / "0000020.png").exists()


def test_levels_of_a_spectrum_stay_in_the_checkpoint(inputs, tmp_path):
    """It is read once; the model needs it no more."""
    Spectrum.load(inputs / "spectrum.nc").save(tmp_path / "here.nc")
    values = small_runs.run_values(inputs, tmp_path / "run", steps=2)
    values |= scale_space_values(levels={"kind": "spectrum", "file": "here.nc", "snr": 0.3})
    (tmp_path / "run.toml").write_text(small_runs.to_toml(values))
    checkpoint = run(load_config(tmp_path / "run.toml"))
    ends = load(checkpoint).space.ends
    (tmp_path / "here.nc").unlink()
    assert load(checkpoint).space.ends == ends
    assert 0 < ends[0] < ends[1] < ends[2] == 1000


def command(arguments):
    done = CliRunner().invoke(cli, arguments.split(), catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_the_commands(inputs, monkeypatch):
    """Generate, super-resolve in both protocols, and measure, as with any other model."""
    monkeypatch.chdir(inputs)
    command("generate scale --samples 12 --steps 12 --out made.h5 --plot made.png")
    command("super-resolve scale held.h5 --factor 4 --steps 12 --out paired.h5")
    command("coarse-grain held.h5 --factor 4 --out coarse.h5")
    command("super-resolve scale coarse.h5 --protocol observed --factor 4 --steps 12 --out seen.h5")
    command("super-resolve scale held.h5 --factor 2 --steps 9 --sampler ancestral --out two.h5")
    command(
        "eval-correlators truth=held.h5 made=made.h5 paired=paired.h5 --binarize sign --out c.nc"
    )
    made = {}
    for name in ("made", "paired", "seen", "two"):
        with xr.open_dataset(f"{name}.h5", engine="h5netcdf") as data:
            made[name] = data["field"].values
            assert data.attrs["process"] == "scale-space"
    # block averages are what the process itself makes: both protocols are one
    np.testing.assert_allclose(made["seen"], made["paired"], atol=1e-5)
    assert all(np.isfinite(each).all() for each in made.values())
    assert len(made["made"]) == 12


def test_crops_start_from_coarse_fields_of_the_same_pixel_values(inputs):
    """What coarse-grain --downsampling spectral makes is what a crop makes, but for its scale."""
    model = replace(load(inputs / "scale"), space=space_of((16, 8, 4), "crop"))
    fields = torch.randn(3, 1, 16, 16, generator=seeded())
    coarse = downsample(fields, "spectral", 4, "periodic")
    paired = sample(model.diffused(16, 4), fields, sk.Multistep(12))
    observed = sample(model.observed(4, 4, "spectral"), coarse, sk.Multistep(12))
    assert torch.allclose(paired.start, observed.start, atol=1e-5)
    assert torch.allclose(paired.result, observed.result, atol=1e-4)


def test_a_published_configuration_trains_on_pictures(tmp_path, monkeypatch):
    """With a smaller network: colours, the paper's target, weight and chain."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "celeba").mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        small = rng.integers(0, 256, (9, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((80, 90)).save(tmp_path / "celeba" / f"{i}.png")
    smaller = (
        "process.size=16 process.factors=[2] data.size=16 network.channels=32 network.blocks=1 "
        "network.multipliers=[1,1] process.draw=true training.steps=2 training.batch_size=4 "
        "training.compile=false data.heldout=4"
    )
    command(f"train celeba64-ssd4 {' '.join('--set ' + each for each in smaller.split())}")
    command("generate runs/celeba64-ssd4 --samples 3 --steps 9 --out made.h5")
    model = load(tmp_path / "runs" / "celeba64-ssd4")
    assert model.channels == ("red", "green", "blue")
    assert [len(v) for v in model.error_variance] == [16]
    with xr.open_dataset("made.h5", engine="h5netcdf") as data:
        assert data["field"].shape == (3, 3, 16, 16)


BAD = [
    ("super-resolve scale held.h5 --factor 3 --out x.h5", "factors 2, 4, got 3"),
    ("super-resolve scale small.h5 --factor 2 --out x.h5", "takes fields of 16 x 16"),
    ("super-resolve scale held.h5 --factor 2 --protocol observed --out x.h5", "fields of 8 x 8"),
    ("super-resolve scale held.h5 --factor 2 --protocol rescaled --out x.h5", "no rescaled"),
    (
        "super-resolve scale small.h5 --factor 2 --protocol observed --downsampling lanczos "
        "--out x.h5",
        "coarse-grained by box, not lanczos",
    ),
    ("super-resolve scale held.h5 --factor 4 --steps 3 --out x.h5", "at least 4 evaluations"),
    ("generate scale --steps 4 --out x.h5", "at least 5 evaluations"),
    ("generate scale --live-threshold 0.1 --out x.h5", "--live-threshold is for active modes"),
    ("generate scale --live-threshold 0 --out x.h5", "--live-threshold is for active modes"),
    ("generate scale --L 32 --out x.h5", "makes 16 x 16, got 32"),
    ("train scale.toml --set process.factors=[3]", "3 does not divide the side 16"),
    ("train scale.toml --set process.factors=[2,2,2]", "must be at least 4 x 4"),
    ("train scale.toml --set process.factors=[1]", "greater than or equal to 2"),
    ("train scale.toml --set process.degradation=nearest", "process.degradation"),
    ("train scale.toml --set process.size=32 --set out=new", "the process is for N = 32"),
    ("train scale.toml --set process.spectrum=spectrum.nc", "no key 'spectrum'"),
    ("train scale.toml --set process.levels.ends=[1,2]", "no key 'ends'"),
    (
        "train scale.toml --set network.channels=[8,8] --set network.blocks=[1,1] --set out=new",
        "not 4",
    ),
    ("train scale.toml --set network.kind=compact", "several need 'flexi'"),
    ("train scale.toml --set training.prediction=eps", "need 'x0' or 'v'"),
    ("train scale.toml --set training.shell_weight=true", "goes with process.kind = 'skild'"),
    ("train scale.toml --set training.snr_threshold=0.1", "goes with process.kind = 'skild'"),
    ("train skild.toml --set training.min_snr=5", "goes with process.kind = 'scale-space'"),
    ("train skild.toml --set process.kind=scales", "scales"),
    # the folder holds a run of the other process
    ("train scale.toml --set out=skild", "holds a run of another configuration"),
]


@pytest.mark.parametrize(("arguments", "text"), BAD)
def test_bad_input_is_one_line(inputs, monkeypatch, capsys, arguments, text):
    monkeypatch.chdir(inputs)
    monkeypatch.setattr("sys.argv", ["skild-physics", *arguments.split()])
    files = [path for path in inputs.rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    (error,) = (line for line in capsys.readouterr().err.splitlines() if "Error" in line)
    assert text in error
    left = [path for path in inputs.rglob("*") if path.is_file()]
    assert {path: path.stat().st_mtime_ns for path in left} == before
