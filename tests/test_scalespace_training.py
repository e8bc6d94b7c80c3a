"""Training on Scale Space Diffusion, its checkpoints, and the commands that use them."""

from dataclasses import replace

import numpy as np
import pytest
import small_runs
import torch
import xarray as xr
from click.testing import CliRunner
from PIL import Image

from skild_physics import kspace
from skild_physics.cli.main import cli, main
from skild_physics.cli.protocols import route
from skild_physics.data_gen import IsingParameters, generate
from skild_physics.diffusion.downsampling import downsample
from skild_physics.diffusion.resize import DEGRADATIONS
from skild_physics.diffusion.scalespace import ScaleSpace, level_ends
from skild_physics.diffusion.scalespace_sampling import estimator
from skild_physics.diffusion.schedule import LinearBetaSchedule
from skild_physics.diffusion.superresolution import Sampling
from skild_physics.networks import FlexiUNet
from skild_physics.spectrum import Spectrum
from skild_physics.training.checkpoint import Model, load_model
from skild_physics.training.config import TrainingConfig, load_config, parse_config
from skild_physics.training.evaluation import error_variances, heldout_loss
from skild_physics.training.objective import ScaleSpaceTasks, Task
from skild_physics.training.run import train

one_thread = pytest.fixture(scope="module", autouse=True)(small_runs.one_thread)
BETAS = LinearBetaSchedule(0.1, 20.0)


def space_of(sizes, kind="box", basis="periodic"):
    return ScaleSpace(sizes, level_ends(len(sizes), 1000), BETAS, kind, basis)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# what training minimises


@pytest.mark.parametrize("kind", DEGRADATIONS)
@pytest.mark.parametrize("prediction", ["v", "x0", "eps"])
@pytest.mark.parametrize("task", [Task(0, 0, 16), Task(1, 1, 8), Task(1, 0, 8), Task(2, 1, 4)])
def test_a_network_without_loss_gives_x_0(kind, prediction, task):
    """A network that is told x_0 and solves for what is asked has no loss, and its estimate is x_0.

    The target is solved for with the estimate that sampling uses.
    """
    space = space_of((16, 8, 4), kind)
    settings = TrainingConfig(prediction=prediction)
    fields = torch.randn(6, 2, 16, 16, generator=seeded())
    wanted = space.degraded(fields, task.end)
    side = space.sizes[task.end]
    n = torch.full((6,), float(space.ends[task.level - 1]) if task.level else 300.0).double()
    eps = torch.randn(6, 2, task.N, task.N, generator=seeded(1))
    asked = []

    def nothing(x, lam, side=None):
        asked.append(x)
        return torch.zeros(len(x), 2, side or x.shape[-1], side or x.shape[-1])

    def one(x, lam, side=None):
        return 1 + nothing(x, lam, side)

    def perfect(x, lam, side=None):
        x_n = x * space.scale(task.N)
        offset = estimator(nothing, space, prediction)(x_n, float(n[0]), wanted.shape[-1])
        slope = estimator(one, space, prediction)(x_n, float(n[0]), wanted.shape[-1]) - offset
        return (wanted - offset) / slope

    tasks = ScaleSpaceTasks(space, settings)
    losses = tasks.losses(perfect, task, fields, n, eps)
    assert losses.shape == (6,)
    assert float(losses.max()) < 1e-6
    x_n = asked[0] * space.scale(task.N)
    assert torch.allclose(
        estimator(perfect, space, prediction)(x_n, float(n[0]), side), wanted, atol=1e-3
    )
    # the input is the forward marginal
    alpha, sigma = (float(c[0, 0]) for c in space.levels[0].marginal(float(n[0])))
    assert torch.allclose(x_n, alpha * space.degraded(fields, task.level) + sigma * eps, atol=1e-5)
    assert float(tasks.losses(nothing, task, fields, n, eps).min()) > 1e-3


def test_min_snr_weighs_the_error_of_x_0():
    """Whatever is predicted, the loss is min(SNR, 5) times the squared error of x_0."""
    space = space_of((8, 4))
    fields = torch.randn(5, 1, 8, 8, generator=seeded())
    n = torch.tensor([1.0, 30.0, 100.0, 300.0, 700.0]).double()
    eps = torch.randn(5, 1, 8, 8, generator=seeded(1))
    estimates = []

    def network(x, lam):
        estimates.append(x)
        return 0.3 * x + 0.1

    for prediction in ("x0", "v", "eps"):
        settings = TrainingConfig(prediction=prediction, min_snr=5.0)
        losses = ScaleSpaceTasks(space, settings).losses(network, Task(0, 0, 8), fields, n, eps)
        x_n, estimate = estimates[-1], estimator(network, space, prediction)
        for i, step in enumerate(n.tolist()):
            x_0 = estimate(x_n[i : i + 1], step, 8)
            abar = np.exp(-space.u(step))
            weight = min(abar / (1 - abar), 5.0)
            wanted = weight * float((x_0 - fields[i]).square().mean())
            assert float(losses[i]) == pytest.approx(wanted, rel=1e-4)


def test_levels_are_drawn_as_often_as_their_steps_and_changes_as_asked():
    space = space_of((16, 8, 4))
    tasks, generator = ScaleSpaceTasks(space, TrainingConfig(raising=0.25)), seeded()
    count, drawn, raised = 4000, [], []
    for _ in range(count):
        task, n = tasks.draw(2, generator)
        assert space.sizes[task.level] == task.N
        if task.end < task.level:
            assert task.end == task.level - 1
            assert (n == space.ends[task.end]).all()
            raised.append(task.level)
        else:
            assert {space.level(float(step)) for step in n} == {task.level}
            drawn.extend(n.tolist())
    sigma = np.sqrt(0.25 * 0.75 / count)
    assert abs(len(raised) / count - 0.25) < 4.5 * sigma
    assert abs(raised.count(1) / len(raised) - 0.5) < 4.5 * np.sqrt(0.25 / len(raised))
    share = np.histogram(drawn, np.linspace(0, 1000, 11))[0] / len(drawn)
    assert np.abs(share - 0.1).max() < 4.5 * np.sqrt(0.09 / (len(drawn) / 2))
    with_one = ScaleSpaceTasks(space_of((16,)), TrainingConfig(raising=0.9))
    assert all(with_one.draw(1, generator)[0] == Task(0, 0, 16) for _ in range(20))


def test_heldout_loss_covers_every_level():
    space = space_of((16, 8, 4))
    seen = {}

    def watch(x, lam):
        seen[x.shape[-1]] = seen.get(x.shape[-1], 0) + len(x)
        return torch.zeros_like(x)

    fields = torch.randn(40, 1, 16, 16, generator=seeded())
    tasks = ScaleSpaceTasks(space, TrainingConfig(prediction="v"))
    heldout_loss(watch, tasks, space.levels[0], fields, 16)
    assert sum(seen.values()) == 40 * 8
    for side, count in seen.items():
        level = space.sizes.index(side)
        share = np.diff((0, *space.ends))[level] / 1000
        assert count / 320 == pytest.approx(share, abs=0.02)


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
    model = Model(network, space.levels[0], config, ("spin",), 0, space)
    fields = torch.randn(3000, 1, 16, 16, generator=seeded())
    (found,) = error_variances(model, fields, 500)
    # alpha (alpha x_0 + sigma eps) - x_0 where a mode is kept, -x_0 where it is not
    abar = np.exp(-space.u(space.ends[0]))
    wanted = torch.ones(16, 16).double()
    wanted[:7, :7] = (1 - abar) ** 2 + abar * (1 - abar)
    # the highest wave of an even torus is kept for the noise only
    wanted[7, :8] += abar * (1 - abar)
    wanted[:7, 7] += abar * (1 - abar)
    off = (found / wanted - 1).abs()
    assert float(off.max()) < 5 * np.sqrt(2 / 3000)


# runs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scalespace")
    small_runs.make_inputs(folder, L=16, samples=200)
    generate(folder / "held.h5", IsingParameters.planned(16, seed=2), 40)
    generate(folder / "small.h5", IsingParameters.planned(8, seed=2), 10)
    for name, kind in (("scale", "scale-space"), ("skild", "skild")):
        values = small_runs.run_values(folder, folder / name)
        if kind == "scale-space":
            values |= scale_space_values()
        (folder / f"{name}.toml").write_text(small_runs.to_toml(values))
        train(load_config(folder / f"{name}.toml"))
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
    model = load_model(inputs / "scale")
    assert model.scale_space.sizes == (16, 8, 4)
    assert model.scale_space.ends == level_ends(3, 1000)
    assert [tuple(v.shape) for v in model.error_variance] == [(16, 16), (8, 8)]
    assert all((v > 0).all() for v in model.error_variance)
    assert (inputs / "scale" / "samples" / "0000020.png").exists()


def test_levels_of_a_spectrum_stay_in_the_checkpoint(inputs, tmp_path):
    """It is read once; the model needs it no more."""
    Spectrum.load(inputs / "spectrum.nc").save(tmp_path / "here.nc")
    values = small_runs.run_values(inputs, tmp_path / "run", steps=2)
    values |= scale_space_values(levels={"kind": "spectrum", "file": "here.nc", "tau": 0.3})
    (tmp_path / "run.toml").write_text(small_runs.to_toml(values))
    checkpoint = train(load_config(tmp_path / "run.toml"))
    ends = load_model(checkpoint).scale_space.ends
    (tmp_path / "here.nc").unlink()
    assert load_model(checkpoint).scale_space.ends == ends
    assert 0 < ends[0] < ends[1] < ends[2] == 1000


def run(arguments):
    done = CliRunner().invoke(cli, arguments.split(), catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_the_commands(inputs, monkeypatch):
    """Generate, super-resolve in both protocols, and measure, as with any other model."""
    monkeypatch.chdir(inputs)
    run("generate scale --samples 12 --steps 12 --out made.h5 --plot made.png")
    run("super-resolve scale held.h5 --factor 4 --steps 12 --out paired.h5")
    run("coarse-grain held.h5 --factor 4 --out coarse.h5")
    run("super-resolve scale coarse.h5 --protocol observed --factor 4 --steps 12 --out seen.h5")
    run("super-resolve scale held.h5 --factor 2 --steps 9 --sampler ancestral --out two.h5")
    run("eval-correlators truth=held.h5 made=made.h5 paired=paired.h5 --binarize sign --out c.nc")
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
    model = replace(load_model(inputs / "scale"), scale_space=space_of((16, 8, 4), "crop"))
    fields = torch.randn(3, 1, 16, 16, generator=seeded())
    coarse = downsample(fields, "spectral", 4, "periodic")
    with torch.no_grad():
        paired, observed = (
            route(model, given.shape[-1], 4, protocol, kind, None, 0.5).run(given, Sampling(12))
            for given, protocol, kind in (
                (fields, "paired", None),
                (coarse, "observed", "spectral"),
            )
        )
    assert torch.allclose(paired.start, observed.start, atol=1e-5)
    assert torch.allclose(paired.result, observed.result, atol=1e-4)


def test_a_published_configuration_trains_on_pictures(tmp_path, monkeypatch):
    """With a smaller network: colours, mirrored edges, the paper's target and weight."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "celeba").mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        small = rng.integers(0, 256, (9, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((80, 90)).save(tmp_path / "celeba" / f"{i}.png")
    smaller = (
        "network.channels=[8,8,8,8] network.blocks=[1,1,1,1] training.steps=4 "
        "training.batch_size=4 training.compile=false data.heldout=4 training.precision=float32"
    )
    run(f"train celeba64-ssd4 {' '.join('--set ' + each for each in smaller.split())}")
    run("generate runs/celeba64-ssd4 --samples 3 --steps 9 --out made.h5")
    model = load_model(tmp_path / "runs" / "celeba64-ssd4")
    assert model.channels == ("red", "green", "blue")
    assert [len(v) for v in model.error_variance] == [64, 32, 16]
    with xr.open_dataset("made.h5", engine="h5netcdf") as data:
        assert data["field"].shape == (3, 3, 64, 64)


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
    ("super-resolve scale held.h5 --factor 4 --steps 3 --out x.h5", "at least 4 network calls"),
    ("generate scale --steps 4 --out x.h5", "at least 5 network calls"),
    ("generate scale --live-threshold 0.1 --out x.h5", "--live-threshold is for live modes"),
    ("generate scale --live-threshold 0 --out x.h5", "--live-threshold is for live modes"),
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
    ("train scale.toml --set training.live_threshold=0.1", "goes with process.kind = 'skild'"),
    ("train skild.toml --set training.min_snr=5", "goes with process.kind = 'scale-space'"),
    ("train skild.toml --set process.kind=scales", "scales"),
    # the folder holds a run of the other process
    ("train scale.toml --set out=skild", "holds a run of another configuration"),
]


@pytest.mark.parametrize(("arguments", "text"), BAD)
def test_bad_input_is_one_line(inputs, monkeypatch, capsys, arguments, text):
    monkeypatch.chdir(inputs)
    monkeypatch.setattr("sys.argv", ["skild-physics", *arguments.split()])
    before = {path: path.stat().st_mtime_ns for path in inputs.rglob("*")}
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    (error,) = (line for line in capsys.readouterr().err.splitlines() if "Error" in line)
    assert text in error
    assert {path: path.stat().st_mtime_ns for path in inputs.rglob("*")} == before


def test_models_of_the_other_process_are_refused(inputs):
    scale, skild = load_model(inputs / "scale"), load_model(inputs / "skild")
    with pytest.raises(ValueError, match="a SKILD model is needed"):
        scale.denoiser()
    with pytest.raises(ValueError, match="a scale-space model is needed"):
        skild.estimate()


SHIPPED = [
    ("celeba64-ssd", (64, 32), (750, 1000)),
    ("celeba64-ssd4", (64, 32, 16, 8), (438, 750, 937, 1000)),
    ("celeba256-ssd6", (256, 128, 64, 32, 16, 8), (306, 555, 750, 888, 972, 1000)),
    ("imagenet64-ssd", (64, 32), (750, 1000)),
    ("ising64-ssd", (64, 32, 16, 8), (438, 750, 937, 1000)),
    ("ising64-ddpm", (64,), (1000,)),
]


@pytest.mark.parametrize(("name", "sizes", "ends"), SHIPPED)
def test_shipped_configurations(name, sizes, ends):
    config = load_config(name)
    settings = config.process
    assert settings.sizes == sizes
    assert level_ends(len(sizes), settings.T, settings.levels.gamma) == ends
    abar = np.exp(-float(settings.schedule.exponent().lam(1.0)))
    betas = np.linspace(1e-4, 0.02, 1000)
    assert np.log(abar) == pytest.approx(np.log1p(-betas).sum(), rel=0.01)
    if name.startswith(("celeba", "imagenet")):
        assert settings.degradation == "bilinear"
        assert config.training.prediction == "x0"
        assert config.training.min_snr == 5


def test_the_periodic_basis_goes_around_the_torus():
    """Nothing in the process knows where the lattice begins."""
    space = space_of((16, 8), "bilinear")
    x = torch.randn(1, 1, 16, 16, generator=seeded()).double()
    moved = space.degraded(x.roll((2, 4), (-2, -1)), 1)
    assert torch.allclose(moved, space.degraded(x, 1).roll((1, 2), (-2, -1)), atol=1e-12)
    assert kspace.BASES == ("cosine", "periodic")
