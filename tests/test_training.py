"""Training: its configuration, what it minimises, what it learns, what it shows of itself."""

import json
import math
import sys
from itertools import pairwise

import numpy as np
import pytest
import small_runs
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from test_scalespace_training import SHIPPED

from skild_physics.cli.main import main
from skild_physics.data_gen import IsingParameters, generate
from skild_physics.diffusion.adaptive import live_size
from skild_physics.diffusion.prediction import PREDICTIONS, target
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.schedule import LinearSchedule, linear_to_resolution
from skild_physics.fields import load_fields
from skild_physics.kspace import forward, inverse, normalization_factor, wavenumbers
from skild_physics.networks import CompactUNet
from skild_physics.training import hardware
from skild_physics.training.build import build_network, build_process, spectrum_of
from skild_physics.training.checkpoint import load_model, load_state
from skild_physics.training.config import (
    TrainingConfig,
    load_config,
    parse_config,
    shipped_names,
)
from skild_physics.training.distributed import World
from skild_physics.training.evaluation import BANDS, heldout_loss
from skild_physics.training.objective import Levels, field_noise, training_losses
from skild_physics.training.run import dry_run, train
from skild_physics.training.trainer import Trainer, learning_rate

one_thread = pytest.fixture(scope="module", autouse=True)(small_runs.one_thread)
ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = small_runs.make_inputs(tmp_path_factory.mktemp("inputs"), samples=400)
    generate(folder / "other.h5", IsingParameters.planned(12, seed=1), 30)
    return folder


@pytest.fixture
def values(inputs, tmp_path):
    return small_runs.run_values(inputs, tmp_path / "run")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def steep_process(N=8, basis="periodic", resolution=2.0, k_c=0.0):
    S0 = torch.tensor(3 * (wavenumbers(N, basis) ** 2 + 9) ** -0.8)
    return Process(S0, linear_to_resolution(N, resolution, 9, 0.1), basis, k_c)


def each(running):
    """The losses of steps from their running mean."""
    running = np.array(running)
    return np.append(running[0], 100 * running[1:] - 99 * running[:-1])


# what training learns


def png_size(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return picture.size


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluate_every": 80},
        {"shell_weight": True},
        {"live_threshold": 0.5, "live_multiple": 4},
        {"timesteps": "second-moment"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_training_learns_and_is_loadable(values, changes, tmp_path):
    values["network"]["channels"] = [16]
    values["training"] |= {**changes, "steps": 100, "learning_rate": 8e-3}
    config = parse_config(values)
    losses = []
    checkpoint = train(config, progress=lambda step, loss: losses.append(loss))
    # a network that knows nothing predicts 0 and has loss 1
    assert losses[0] == pytest.approx(1, abs=0.3)
    assert each(losses)[-20:].mean() < 0.85
    model = load_model(checkpoint)
    assert model.config == config
    assert model.trained_steps == 100
    assert model.process.basis == "periodic"
    x = torch.randn(2, 1, 8, 8)
    assert model.network(x, torch.tensor([1e-3, 1e-4])).shape == x.shape

    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    shown = [line for line in lines if "heldout_loss" in line]
    steps = [80, 100] if "evaluate_every" in changes else [100]
    assert [line["step"] for line in shown] == steps
    assert sorted(path.name for path in (tmp_path / "run" / "samples").iterdir()) == [
        f"{step:07}.png" for step in steps
    ]
    assert min(png_size(tmp_path / "run" / "samples" / f"{steps[0]:07}.png")) > 200
    for line in shown:
        assert line.keys() == {"step", "heldout_loss", "heldout_loss_stderr"}
        assert len(line["heldout_loss"]) == len(line["heldout_loss_stderr"]) == BANDS
    # of the average, which lags
    assert np.mean(shown[-1]["heldout_loss"]) < 0.9
    others = [line for line in lines if line not in shown]
    assert [line["step"] for line in others] == list(range(5, 101, 5))
    for line in others:
        assert line["loss"] == losses[line["step"] - 1]
        assert line["learning_rate"] == learning_rate(config.training, line["step"] - 1)
        for name in ("gradient_norm", "fields_per_second", "peak_memory_gib"):
            assert 0 < line[name] < math.inf


PICTURES = {
    "source": {"symmetry": "mirror", "heldout": 8},
    "process": {
        "law": {"size": 16, "C": 0.9, "k0_squared": 2.0, "alpha": 1.05, "basis": "cosine"},
        "schedule": {"kind": "linear", "lambda_i": 70.0, "lambda_f": 1.57, "theta": 5.0},
        "tau": 1e-4,
        "k_c": 3.0,
    },
}


def coloured(count, N=16):
    """Smooth pictures (count, 3, N, N) with values in -1..1, whose channels are alike."""
    k = wavenumbers(N, "cosine")
    grey, own = torch.randn(2, count, 3, N, N, generator=seeded())
    modes = (grey[:, :1] + 0.3 * own) * torch.tensor((k**2 + 2) ** -0.525)
    return torch.tanh(8 * inverse(modes.float(), "cosine")).numpy()


@pytest.mark.parametrize("stored", ["folder", "stack"])
def test_colours_in_the_cosine_basis(values, tmp_path, stored):
    """From pictures to samples, by a law without a spectrum file, along a schedule to nothing."""
    pictures = np.rint((coloured(40) + 1) * 127.5).astype(np.uint8)
    if stored == "stack":
        source, options = tmp_path / "stack.npy", {}
        np.save(source, pictures)
    else:
        source, options = tmp_path / "photos", {"size": 16}
        source.mkdir()
        for i, picture in enumerate(pictures):
            Image.fromarray(np.moveaxis(picture, 0, -1)).save(source / f"{i:02}.png")
    values["data"] = {"source": str(source), **PICTURES["source"], **options}
    values["process"] = PICTURES["process"]
    values["training"] |= {"steps": 60, "batch_size": 8}
    losses = []
    checkpoint = train(parse_config(values), progress=lambda step, loss: losses.append(loss))
    assert each(losses)[-20:].mean() < 0.92
    model = load_model(checkpoint)
    names = ("red", "green", "blue") if stored == "folder" else ("0", "1", "2")
    assert len(model.channels) == 3
    if stored == "folder":
        assert model.channels == names
    assert model.process.basis == "cosine"
    law = 0.9 * (wavenumbers(16, "cosine") ** 2 + 2.0) ** -1.05
    found = model.process.S0.numpy() * normalization_factor(16, "cosine") ** 2
    np.testing.assert_allclose(found, law)
    assert model.network.basis == "cosine"
    assert model.denoiser()(torch.zeros(2, 3, 16, 16), 500.0).shape == (2, 3, 16, 16)
    assert (tmp_path / "run" / "samples" / "0000060.png").exists()


def test_small_ncsnpp_of_the_published_kind_learns(values, tmp_path):
    np.save(tmp_path / "stack.npy", coloured(24))
    values["data"] = {"source": str(tmp_path / "stack.npy"), **PICTURES["source"]}
    values["process"] = PICTURES["process"]
    values["network"] = {
        "kind": "ncsnpp",
        "channels": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention": [8],
        "output": "paper",
    }
    values["training"] |= {"prediction": "eps", "steps": 70, "batch_size": 8, "learning_rate": 4e-3}
    losses = []
    checkpoint = train(parse_config(values), progress=lambda step, loss: losses.append(loss))
    assert losses[0] == pytest.approx(1, abs=0.1)
    assert each(losses)[-20:].mean() < 0.88
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert np.mean(json.loads(lines[-1])["heldout_loss"]) < 0.9
    model = load_model(checkpoint)
    assert model.multiple == 16
    assert not model.network.training


# what training minimises


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("M", [8, 4])
def test_loss_of_a_perfect_network_is_zero(prediction, M):
    """A network that is told x_0 and solves for what is asked, on all modes or on the low ones."""
    process = steep_process(k_c=3.0).cropped(M)
    asked = TrainingConfig(prediction=prediction)
    fields = torch.randn(16, 3, 8, 8, generator=seeded())
    n = torch.linspace(20, 1000, 16, dtype=torch.float64)
    x_0 = forward(fields.double(), "periodic")[..., :M, :M] * (M / 8)

    def perfect(x, lam):
        assert torch.allclose(lam.double(), process.lam(n) * M**2, rtol=1e-5)
        alpha, sigma = process.marginal(n[:, None])
        eps = (forward(x.double(), "periodic") - alpha * x_0) / sigma
        wanted = target(prediction, process, n[:, None], x_0, eps)
        return inverse(wanted, "periodic").float()

    eps = torch.randn(16, 3, M, M, generator=seeded(1))
    for weighted in (False, True):
        chosen = asked.model_copy(update={"shell_weight": weighted})
        losses = training_losses(perfect, process, chosen, fields, n, eps)
        assert losses.shape == (16,)
        assert float(losses.max()) < 1e-6
        zero = training_losses(lambda x, lam: 0 * x, process, chosen, fields, n, eps)
        assert float(zero.min()) > 1e-3


def test_noise_of_a_field_is_its_own():
    """Neither who is computed beside it, nor where, changes it."""
    seeds = [3, 2**64 - 1, 5, 2**63]
    whole = field_noise(seeds, (3, 8, 8), torch.device("cpu"))
    for i, seed in enumerate(seeds):
        assert torch.equal(field_noise([seed], (3, 8, 8), torch.device("cpu"))[0], whole[i])
    many = field_noise(range(2000), (1, 8, 8), torch.device("cpu"))
    covariance = many.flatten(1).T @ many.flatten(1) / 2000
    assert float((covariance - torch.eye(64)).abs().max()) < 5 * math.sqrt(2 / 2000)
    between = many.flatten(1) @ many.flatten(1).T / 64 - torch.eye(2000)
    assert float(between.abs().max()) < 6.5 * math.sqrt(2 / 64)


def test_levels_of_live_modes_are_drawn_as_often_as_their_steps():
    process = Process(torch.ones(16, 16), linear_to_resolution(16, 2, 9, 0.1), "cosine")
    asked = TrainingConfig(live_threshold=0.1, live_multiple=4)
    levels, generator = Levels(process, asked), seeded()
    drawn = []
    for _ in range(2000):
        at, n = levels.draw(2, generator)
        assert all(live_size(process, float(step), 0.1, 4) == at.N for step in n)
        drawn.extend(n.tolist())
    # uniform in (0, T] all in all; the two steps of a draw share a level
    share = np.histogram(drawn, np.linspace(0, 1000, 11))[0] / len(drawn)
    assert np.abs(share - 0.1).max() < 4.5 * np.sqrt(0.09 / 2000)


def test_learning_rate_warms_up_holds_and_decays(values):
    values["training"]["steps"] = 60
    s = parse_config(values).training
    rates = [learning_rate(s, step) for step in range(s.steps)]
    assert rates[0] == pytest.approx(s.learning_rate / 6)
    assert max(rates) == s.learning_rate
    assert rates[-1] < 0.01 * s.learning_rate
    assert all(b <= a for a, b in pairwise(rates[10:]))
    published = s.model_copy(update={"hold": 1.0})
    assert {learning_rate(published, step) for step in range(5, 60)} == {s.learning_rate}


def test_weights_are_averaged_over_about_ten_steps_at_first(values):
    """a <- d_i a + (1 - d_i) w with d_i = min(ema, (1 + i) / (10 + i)), from the first weights."""
    values["training"] |= {"ema": 0.4}
    trainer = Trainer(parse_config(values), ALONE, print)
    expected = None
    for step in range(8):
        trainer.step(step)
        weights = [p.detach().double().clone() for p in trainer.network.parameters()]
        if expected is None:
            expected = weights
        else:
            decay = min(0.4, (1 + step) / (10 + step))
            expected = [decay * a + (1 - decay) * w for a, w in zip(expected, weights, strict=True)]
    found = list(trainer.model(8).network.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(found, weights, strict=True))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-6)


# held-out losses


def test_a_loss_can_be_handed_in(values):
    """What a run of another prediction minimises gives that run's losses, and no others."""
    settings = values["training"] | {"prediction": "x0"}

    class Told(Levels):
        called = 0

        def losses(self, *arguments):
            self.called += 1
            return super().losses(*arguments)

    config, other = parse_config(values), parse_config(values | {"training": settings})
    process = build_process(config, *spectrum_of(config))
    own = Told(process, other.training)
    trainers = [
        Trainer(config, ALONE, print, objective=own),
        Trainer(other, ALONE, print),
        Trainer(config, ALONE, print),
    ]
    handed, wanted, plain = ([t.step(step).loss for step in range(3)] for t in trainers)
    assert handed == wanted
    assert handed != plain
    assert own.called == 3


def test_a_network_can_be_handed_in(values):
    """It is what is trained and averaged, and starts as it was."""

    class Halved(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x, lam):
            return self.network(x, lam) / 2

    config = parse_config(values)
    process = build_process(config, *spectrum_of(config))
    torch.manual_seed(config.training.seed)
    own = Halved(build_network(config, process, 1))
    trainer, plain = Trainer(config, ALONE, print, network=own), Trainer(config, ALONE, print)
    assert trainer.network is own
    assert trainer.parameters == plain.parameters
    for a, b in zip(own.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(a, b)
    before = [w.detach().clone() for w in own.parameters()]
    losses = [each.step(0).loss for each in (trainer, plain)]
    assert losses[0] != losses[1]
    assert any(not torch.equal(a, b) for a, b in zip(before, own.parameters(), strict=True))
    assert isinstance(trainer.average.module, Halved)


def gaussian(process, count, channels):
    """Fields whose modes have exactly the variance S0."""
    modes = torch.randn(count, channels, process.N, process.N, generator=seeded(3))
    return inverse(modes * process.S0.sqrt().float(), process.basis)


def nothing(x, lam):
    return torch.zeros_like(x)


def test_files_of_a_run_are_json(values, tmp_path):
    """Few held-out fields have a loss without an error bar; a gradient that is never clipped."""

    def strictly(text):
        def refused(constant):
            raise AssertionError(f"{constant} is no JSON")

        return json.loads(text, parse_constant=refused)

    values["data"]["heldout"] = 4
    values["training"] |= {"clip": math.inf, "steps": 5}
    said = []
    train(parse_config(values), log=said.append)
    assert (
        strictly((tmp_path / "run" / "run.json").read_text())["config"]["training"]["clip"] is None
    )
    lines = [strictly(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    (shown,) = [line for line in lines if "heldout_loss" in line]
    assert shown["heldout_loss_stderr"] == [None] * BANDS
    (line,) = [line for line in said if "held-out loss" in line]
    assert "(no error bar from 4 fields)" in line
    # the configuration itself survives
    assert load_model(tmp_path / "run").config.training.clip == math.inf
    train(parse_config(values))


@pytest.mark.parametrize("prediction", ["v", "eps"])
@pytest.mark.parametrize("shell_weight", [False, True])
@pytest.mark.parametrize("basis", ["periodic", "cosine"])
def test_heldout_loss_of_a_network_that_knows_nothing_is_one(prediction, shell_weight, basis):
    """Every mode of both targets has variance 1; the weights have mean 1."""
    process = steep_process(basis=basis)
    settings = TrainingConfig(prediction=prediction, shell_weight=shell_weight)
    fields = gaussian(process, 128, 3)
    found = heldout_loss(nothing, Levels(process, settings), process, fields, 50)
    assert np.abs((np.array(found.loss) - 1) / found.stderr).max() < 4
    # the square of a normal variable has variance 2
    if not shell_weight:
        assert found.stderr == pytest.approx([math.sqrt(2 / (8 * 8 * 3 * 128))] * BANDS, rel=0.25)
    assert found.mean == pytest.approx(np.mean(found.loss))
    assert abs(found.mean - 1) < 4 * found.mean_stderr


def test_heldout_loss_of_fewer_than_eight_fields_has_no_error():
    process = steep_process()
    settings = TrainingConfig(prediction="v")
    for n in (7, 8):
        fields = gaussian(process, n, 3)
        found = heldout_loss(nothing, Levels(process, settings), process, fields, 50)
        assert np.isfinite(found.loss).all()
        assert (np.isfinite(found.stderr) == (n == 8)).all()
        assert np.isfinite(found.mean_stderr) == (n == 8)


def test_heldout_loss_is_what_training_minimises():
    """Over fields, steps and noise that have nothing in common with those of the evaluation."""
    process = steep_process()
    settings = TrainingConfig(prediction="x0")
    fields = gaussian(process, 256, 1)

    def half(x, lam):
        return 0.5 * x

    found = heldout_loss(half, Levels(process, settings), process, fields, 64)
    count = 200
    band = [
        torch.cat(
            [
                training_losses(
                    half,
                    process,
                    settings,
                    gaussian(process, count, 1),
                    (b + torch.rand(count, generator=seeded(b), dtype=torch.float64)) * 125,
                    torch.randn(count, 1, 8, 8, generator=seeded(20 + 10 * b + i)),
                )
                for i in range(5)
            ]
        )
        for b in range(BANDS)
    ]
    for loss, stderr, losses in zip(found.loss, found.stderr, band, strict=True):
        error = math.hypot(stderr, float(losses.std()) / math.sqrt(count))
        assert abs(loss - float(losses.mean())) < 4 * error
    assert found.loss[-1] > found.loss[0] + 10 * found.stderr[0]


def test_heldout_loss_is_the_same_every_time():
    process = steep_process()
    fields = gaussian(process, 24, 1)
    torch.manual_seed(0)
    network = CompactUNet((8,), (1,))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    objective = Levels(process, TrainingConfig())
    first, again = (heldout_loss(network, objective, process, fields, 24) for _ in range(2))
    assert first == again
    for batch_size in (1, 7):
        other = heldout_loss(network, objective, process, fields, batch_size)
        np.testing.assert_allclose(other.loss, first.loss, rtol=1e-5)
        np.testing.assert_allclose(other.stderr, first.stderr, rtol=1e-4)
    with torch.no_grad():
        next(network.parameters()).add_(0.1)
    assert heldout_loss(network, objective, process, fields, 24) != first


def test_every_step_is_evaluated_on_its_own_lattice():
    process = Process(torch.ones(16, 16), linear_to_resolution(16, 2, 9, 0.1), "cosine")
    seen = {}

    def watch(x, lam):
        M = x.shape[-1]
        seen.setdefault(M, []).extend(float(process.schedule.time(v)) for v in lam.double() / M**2)
        return torch.zeros_like(x)

    settings = TrainingConfig(live_threshold=0.1, live_multiple=4)
    fields = torch.randn(40, 2, 16, 16, generator=seeded())
    found = heldout_loss(watch, Levels(process, settings), process, fields, 16)
    assert len(seen) >= 3
    assert sum(map(len, seen.values())) == 40 * BANDS
    for M, times in seen.items():
        # float32 has moved the steps a little
        assert {live_size(process, 1000 * t * (1 - 1e-5), 0.1, 4) for t in times} == {M}
    # each band has its own steps, and whole bands are averaged
    every = np.histogram(np.concatenate(list(seen.values())), np.linspace(0, 1, BANDS + 1))[0]
    assert every.tolist() == [40] * BANDS
    np.testing.assert_allclose(found.loss, 1, atol=0.2)


def test_half_precision_trains_like_float32(values):
    losses = {}
    for precision in ("float32", "bfloat16", "float16"):
        values["training"] |= {"precision": precision, "clip": 0.5}
        trainer = Trainer(parse_config(values), ALONE, print)
        assert f", {precision}, " in trainer.summary()
        found = [trainer.step(step) for step in range(12)]
        losses[precision] = np.array([(step.loss, step.gradient_norm) for step in found])
        assert all(w.dtype == torch.float32 for w in trainer.network.parameters())
    for precision in ("bfloat16", "float16"):
        assert not np.array_equal(losses[precision], losses["float32"])
        # a step of float16 may be skipped while its scale adapts, which the norms show
        tolerance = {"bfloat16": 0.02, "float16": 0.005}[precision]
        np.testing.assert_allclose(losses[precision], losses["float32"], rtol=tolerance)


# before a run


def test_dry_run_writes_nothing(values, tmp_path, monkeypatch, capsys):
    found = dry_run(parse_config(values))
    path = tmp_path / "run.toml"
    path.write_text(small_runs.to_toml(values))
    monkeypatch.setattr(sys, "argv", ["skild-physics", "train", str(path), "--dry-run", "--json"])
    main()
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() == found.keys()
    for numbers in (found, printed):
        assert all(0 < value < math.inf for value in numbers.values())
    network = CompactUNet((8,), (1,), 1)
    assert found["parameters"] == sum(p.numel() for p in network.parameters())
    assert found["hours"] == pytest.approx(20 * found["seconds_per_step"] / 3600)
    assert found["fields_per_second"] == pytest.approx(16 / found["seconds_per_step"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.toml"]


def test_runs_keep_freed_memory_and_trainers_alone_do_not(values, monkeypatch):
    calls = []
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda name: calls.append(name))
    config = parse_config(values)
    Trainer(config, ALONE, print)
    assert not calls
    dry_run(config, steps=1)
    assert len(calls) == 1
    train(config)
    assert len(calls) == 2


def test_a_saved_state_has_the_size_that_a_dry_run_says(values, tmp_path):
    """Weights, their average and two moments."""
    values["network"] = {"channels": [64], "blocks": [1]}
    values["training"]["steps"] = 2
    said = dry_run(parse_config(values))["state_gib"] * 2**30
    train(parse_config(values))
    assert (tmp_path / "run" / "state.pt").stat().st_size == pytest.approx(said, rel=0.1)


@pytest.mark.parametrize(("processes", "accumulate"), [(3, 1), (2, 16), (1, 16), (4, 8)])
def test_batches_that_cannot_be_shared_out(values, processes, accumulate):
    values["training"] |= {"batch_size": 16, "accumulate": accumulate}
    config = parse_config(values)
    if processes == 1:
        assert Trainer(config, ALONE, print).part == 1
        return
    with pytest.raises(ValueError, match=f"batch_size = 16 .* {processes} processes") as error:
        Trainer(config, World(0, processes, torch.device("cpu")), print)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {"stepz": 3}}, "training: no key 'stepz', did you mean 'steps'?"),
        ({"training": {"steps": 0}}, "training.steps: "),
        ({"training": {"batch_size": 10, "accumulate": 4}}, "not a multiple of accumulate = 4"),
        ({"typo": 1}, "config: no key 'typo'"),
        ({"network": {"kind": "ncsnpp", "channel": 8}}, "did you mean 'channels'?"),
        ({"network": {"channels": [8, 8], "blocks": [1]}}, "one entry per level"),
        ({"process": {"spectrum": "x", "schedule": {"kind": "linear"}}}, "resolution"),
        ({"process": {"spectrum": "x", "schedule": {"kind": "cubic"}}}, "cubic"),
        ({"process": {"schedule": {"resolution": 2, "kind": "linear"}}}, "give one of spectrum"),
        ({"data": {}}, "data.source"),
        ({"data": {"ensemble": "a.h5"}}, "data: no key 'ensemble'"),
        ({"data": {"source": "a.h5", "heldout": 0}}, "data.heldout"),
        ({"training": {"prediction": "noise"}}, "training.prediction"),
        ({"training": {"live_threshold": -1}}, "training.live_threshold"),
        (
            {"training": {"live_threshold": 0.1, "timesteps": "second-moment"}},
            "needs timesteps = 'uniform'",
        ),
    ],
)
def test_bad_configurations_name_the_key(values, change, message):
    with pytest.raises(ValueError, match=r"^config: ") as error:
        parse_config({**values, **change})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("data", {"source": "other.h5"}, r"N = 8.*other\.h5 have L = 12"),
        ("data", {"heldout": 400}, r"heldout must be .* less than the 400 items"),
        ("network", {"channels": [8] * 5, "blocks": [1] * 5}, "multiples of 16, got L = 8"),
        ("training", {"live_threshold": 0.1, "live_multiple": 3}, r"live_multiple.*got 3"),
        ("process", {"spectrum": "missing.nc"}, "no such file"),
    ],
)
def test_inputs_that_do_not_fit(values, inputs, tmp_path, section, change, message):
    """Nothing is written, and no run is discarded for one that cannot be."""
    change = {
        key: str(inputs / value) if key in ("source", "spectrum") else value
        for key, value in change.items()
    }
    values[section] = {**values[section], **change}
    with pytest.raises(ValueError, match=message) as error:
        train(parse_config(values), overwrite=True)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_network_of_one_size_has_no_smaller_lattices(values, tmp_path):
    values["network"] = {"kind": "ncsnpp", "channels": 8, "multipliers": [1, 2], "blocks": 1}
    values["training"] |= {"live_threshold": 0.1, "live_multiple": 4, "steps": 2}
    for output in ("paper", "orthonormal"):
        values["network"]["output"] = output
        if output == "paper":
            with pytest.raises(ValueError, match=r"live_multiple: .* multiples of 8, got 4"):
                train(parse_config(values))
            assert not (tmp_path / "run").exists()
        else:
            train(parse_config(values))


def test_config_file_with_overrides(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'out = "here"\n[data]\nsource = "a.h5"\n[process]\nspectrum = "s.nc"\n'
        '[process.schedule]\nkind = "log-linear"\nlambda_i = -3.75\nlambda_f = -2.0\n'
    )
    config = load_config(path, ("training.steps=7", "training.prediction=eps", "process.k_c=31.2"))
    assert config.training.steps == 7
    assert config.training.prediction == "eps"
    assert config.process.k_c == 31.2
    assert config.out == tmp_path / "here"
    assert config.data.source == str(tmp_path / "a.h5")
    assert math.isclose(float(config.process.schedule.build(32, 0.1).lam(torch.tensor(1.0))), 1e-2)
    for bad, message in (("steps", "section.key"), ("training.stepz=1", "stepz")):
        with pytest.raises(ValueError, match=message):
            load_config(path, (bad,))
    path.write_text("out = [")
    with pytest.raises(ValueError, match=r"run\.toml"):
        load_config(path)
    with pytest.raises(ValueError, match=r"no such file, nor one of .*cifar10-linear"):
        load_config(tmp_path / "missing.toml")


# published configurations


# of arXiv 2605.26032: size, C, k0^2, alpha, lambda_i, lambda_f, theta, k_c, tau, parameters
PUBLISHED = {
    "cifar10-linear": (
        *(32, 0.91001, 1.940556, 1.051304),
        *(137.7294, 1.57, 5.0, 3.0, 1e-4, 429_738_755),
    ),
    "cifar10-log-linear": (
        *(32, 0.91001, 1.940556, 1.051304),
        *(-3.75, -2.0, None, 31.2, 1e-4, 429_738_755),
    ),
    "imagenet256-x4": (
        *(256, 0.93221, 1.570796, 1.059750),
        *(1132.9352, 550.8723, 9.0, 0.0, 0.1, 121_124_867),
    ),
    "imagenet128-x4": (
        *(128, 0.90617, 1.570796, 1.061318),
        *(564.2461, 275.4361, 9.0, 0.0, 0.1, 121_124_867),
    ),
    "imagenet128-x8": (
        *(128, 0.90617, 1.570796, 1.061318),
        *(564.2461, 102.6489, 5.0, 0.0, 0.1, 121_124_867),
    ),
    "ising128-x4": (
        *(128, 0.26641, 3.0, 0.811056),
        *(564.2461, 275.4361, 9.0, 0.0, 0.1, 121_124_867),
    ),
}
# learning rate, warm-up, weight decay, batch, average
OPTIMISATION = {"cifar10": (2e-4, 5000, 0.0, 128, 0.999)}
OTHERS = (1e-4, 1000, 1e-5, 256, 0.9999)
RESOLUTIONS = {
    "imagenet256-x4": 64,
    "imagenet128-x4": 32,
    "imagenet128-x8": 16,
    "ising128-x4": 32,
}


OURS = ("ising64", "ising64-sr3")


def test_published_configurations_are_those_of_the_paper():
    scale_space = [name for name, *_ in SHIPPED]
    assert shipped_names() == sorted([*PUBLISHED, *OURS, *scale_space, "photographs64"])


def test_ising64_and_its_baseline_differ_in_the_method_alone():
    ours, sr3 = (load_config(name) for name in OURS)
    assert ours.network == sr3.network
    assert ours.data == sr3.data
    assert sr3.condition is not None
    method = {"prediction": "eps", "live_threshold": None}
    assert ours.training.model_copy(update=method) == sr3.training


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configuration(name):
    size, C, k0_squared, alpha, lambda_i, lambda_f, theta, k_c, tau, parameters = PUBLISHED[name]
    config = load_config(name)
    process = build_process(config, *spectrum_of(config))
    assert process.basis == "cosine"
    assert (process.N, process.k_c, process.T) == (size, k_c, 1000)
    assert config.process.tau == tau
    law = C * (wavenumbers(size, "cosine") ** 2 + k0_squared) ** -alpha
    paper = process.S0.numpy() * normalization_factor(size, "cosine") ** 2
    np.testing.assert_allclose(paper, law, rtol=1e-12)

    t = np.array([0.001, 0.25, 0.5, 1.0])
    if theta is None:
        lam = t * 10 ** (lambda_i + (lambda_f - lambda_i) * t)
    else:
        lam = theta * t / (lambda_i * (1 - t) + lambda_f) ** 2
    np.testing.assert_allclose(process.lam(torch.tensor(1000 * t)), lam, rtol=1e-12)
    left = float(process.resolution(1000, tau))
    if name in RESOLUTIONS:
        assert left == pytest.approx(RESOLUTIONS[name], rel=2e-6)
    elif name == "cifar10-linear":
        assert left < 1
    else:
        # its cutoff k_c takes all modes below along: the signal-to-noise ratio of each is below tau
        assert math.exp(-(k_c**2) * lam[-1]) < tau

    with torch.device("meta"):
        network = build_network(config, process, 3)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network.factor is not None
    assert network.schedule == process.schedule
    if theta is not None:
        assert network.schedule == LinearSchedule(lambda_i, lambda_f, theta)

    training = config.training
    assert training.prediction == "eps"
    assert not training.shell_weight
    assert training.timesteps == "uniform"
    assert training.clip == 1.0
    found = (
        training.learning_rate,
        training.warmup_steps,
        training.weight_decay,
        training.batch_size,
        training.ema,
    )
    assert found == OPTIMISATION.get(name.split("-")[0], OTHERS)
    assert learning_rate(training, training.steps - 1) == training.learning_rate


# checkpoints


def test_checkpoints_are_never_unpickled(tmp_path):
    """A pickle that would run code is refused, as are foreign and broken files."""
    fired = tmp_path / "fired"

    class Bomb:
        def __reduce__(self):
            return (fired.write_text, ("boom",))

    state = tmp_path / "state.pt"
    torch.save({"step": Bomb(), "config": "{}"}, state)
    with pytest.raises(ValueError, match="training state"):
        load_state(state)
    assert not fired.exists()
    for foreign in ({"step": 3}, {"config": "{}"}, torch.ones(3)):
        torch.save(foreign, state)
        with pytest.raises(ValueError, match="not a training state"):
            load_state(state)
    broken = tmp_path / "model.safetensors"
    broken.write_bytes(b"\x00" * 100)
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        load_model(broken)
    with pytest.raises(ValueError, match="no such file"):
        load_model(tmp_path / "nothing")


def test_checkpoints_of_the_first_version_load(values, tmp_path):
    """They knew lattice ensembles only, and other names."""
    path = train(parse_config(values))
    with safe_open(path, "pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    of_run = json.loads(header["config"])
    of_run["data"] = {"ensemble": "train.h5", "symmetries": True}
    del header["channels"]
    header |= {"schema_version": "1", "config": json.dumps(of_run)}
    save_file(tensors, tmp_path / "old.safetensors", header)
    old, new = load_model(tmp_path / "old.safetensors"), load_model(path)
    assert old.channels == ("spin",)
    for a, b in zip(old.network.parameters(), new.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_bundled_checkpoint_denoises_far_better_than_gaussian_theory(tmp_path):
    """The mean of Gaussian theory is sqrt(abar) x_n; at R = N most spins can be told from it."""
    model = load_model("bundled")
    process = model.process
    assert model.channels == ("spin",)
    generate(tmp_path / "new.h5", IsingParameters.planned(64, seed=7), 32)
    with load_fields(tmp_path / "new.h5") as opened:
        x_0 = forward(torch.tensor(opened.values[:, None], dtype=torch.float32), "periodic")
    n = process.step_at_resolution(64.0, 0.1)
    alpha, sigma = (c.float() for c in process.marginal(n))
    x_n = alpha * x_0 + sigma * torch.randn(x_0.shape, generator=seeded())
    with torch.inference_mode():
        ours = model.denoiser()(x_n, n)
    # measured: 0.036 against 0.14
    assert float((ours - x_0).square().mean()) < 0.35 * float((alpha * x_n - x_0).square().mean())
