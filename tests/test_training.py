import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skild_physics.data_gen import IsingParameters, generate

from skild_physics.diffusion.adaptive import live_size
from skild_physics.diffusion.prediction import PREDICTIONS, target
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.schedule import linear_to_resolution
from skild_physics.fields import open_source
from skild_physics.kspace import forward, inverse
from skild_physics.networks import CompactUNet
from skild_physics.observables.correlators import corner_means, energy_per_spin
from skild_physics.spectrum import measure_blocks, spectrum_from_blocks
from skild_physics.training.checkpoint import load_model, load_state
from skild_physics.training.config import TrainingConfig, load_config, parse_config
from skild_physics.training.data import random_symmetry
from skild_physics.training.trainer import (
    Levels,
    compiled,
    learning_rate,
    train,
    training_losses,
)


@given(st.integers(3, 12), st.integers(0, 2**31))
def test_symmetries_keep_the_physics(L, seed):
    """Energy, |m| and the corner products, up to the swap of the two axes, do not change."""
    spins = np.random.default_rng(seed).choice([-1, 1], (6, L, L)).astype(np.int8)
    moved = random_symmetry(torch.tensor(spins), torch.Generator().manual_seed(seed)).numpy()
    np.testing.assert_allclose(energy_per_spin(moved), energy_per_spin(spins), atol=1e-12)
    np.testing.assert_array_equal(np.abs(moved.sum((1, 2), int)), np.abs(spins.sum((1, 2), int)))
    sides = np.arange(1, L // 2 + 1)
    before, after = corner_means(spins, sides), corner_means(moved, sides)
    np.testing.assert_allclose(after[..., 0], before[..., 0], atol=1e-6)
    for pair in ((1, 2), (3, 4)):
        np.testing.assert_allclose(after[..., pair].sum(-1), before[..., pair].sum(-1), atol=1e-6)


def test_all_symmetries_occur():
    """A field without symmetry of its own takes all 2 * 8 * L^2 forms."""
    L = 3
    rng = np.random.default_rng(4)
    field = torch.tensor(rng.permutation(np.arange(1, 10)).reshape(1, L, L))
    many = random_symmetry(field.expand(20_000, L, L), torch.Generator().manual_seed(0))
    assert len(torch.unique(many.reshape(-1, 9), dim=0)) == 2 * 8 * L**2


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 3), st.integers(0, 3), st.sampled_from([1, 2]))
def test_network_commutes_with_translations(dy, dx, patch):
    """Periodic padding: shifts by a multiple of the coarsest cell commute with the network."""
    torch.manual_seed(0)
    network = CompactUNet((8, 12), (1, 1), patch, 16)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    cell = network.multiple
    x, lam = torch.randn(2, 1, 16, 16), torch.tensor([1e-3, 1e-5])
    shift = (dy * cell, dx * cell)
    with torch.no_grad():
        moved = network(x.roll(shift, (2, 3)), lam)
        torch.testing.assert_close(moved, network(x, lam).roll(shift, (2, 3)), rtol=1e-3, atol=1e-3)
        assert not torch.allclose(network(x, lam), network(x, lam * 10), atol=1e-3)
        assert network(torch.randn(1, 1, 24, 24), lam[:1]).shape == (1, 1, 24, 24)
    with pytest.raises(ValueError, match="multiples of"):
        network(torch.randn(1, 1, 15, 15), lam[:1])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    generate(folder / "train.h5", IsingParameters.planned(8, seed=1), 400)
    with open_source(folder / "train.h5") as stream:
        blocks = measure_blocks(stream)
    spectrum_from_blocks(blocks, "periodic").save(folder / "spectrum.nc")
    generate(folder / "other.h5", IsingParameters.planned(12, seed=1), 10)
    return folder


@pytest.fixture
def values(inputs, tmp_path):
    return {
        "out": str(tmp_path / "run"),
        "data": {"ensemble": str(inputs / "train.h5")},
        "process": {
            "spectrum": str(inputs / "spectrum.nc"),
            "schedule": {"kind": "linear", "resolution": 2.0},
        },
        "network": {"channels": [16, 16], "blocks": [1, 1]},
        "training": {
            "steps": 60,
            "batch_size": 16,
            "checkpoint_every": 10,
            "compile": False,
            "warmup_steps": 5,
        },
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"prediction": "v"},
        {"prediction": "eps"},
        {"prediction": "v", "shell_weight": True},
        {"prediction": "v", "live_threshold": 0.5, "live_multiple": 4},
        {"prediction": "v", "timesteps": "second-moment"},
    ],
)
def test_training_learns_and_is_loadable(values, changes):
    values["training"] |= {**changes, "steps": 200}
    config = parse_config(values)
    losses = []
    checkpoint = train(config, progress=lambda step, loss: losses.append(loss))
    # a network that knows nothing predicts 0 and has loss 1
    assert losses[0] == pytest.approx(1, abs=0.3)
    assert losses[-1] < 0.85
    model = load_model(checkpoint)
    assert model.config == config
    assert model.trained_steps == 200
    assert model.process.basis == "periodic"
    x = torch.randn(2, 1, 8, 8)
    assert model.network(x, torch.tensor([1e-3, 1e-4])).shape == x.shape


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_loss_of_a_perfect_network_is_zero(prediction):
    """A network that is told x_0 and solves for what is asked."""
    process = Process(torch.ones(8, 8), linear_to_resolution(8, 2, 9, 0.1), "periodic", k_c=3.0)
    asked = TrainingConfig(prediction=prediction)
    fields = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    n = torch.linspace(20, 1000, 16, dtype=torch.float64)
    x_0 = forward(fields.double(), "periodic")

    def perfect(x, lam):
        assert torch.allclose(lam.double(), process.lam(n) * 64, rtol=1e-5)
        alpha, sigma = process.marginal(n[:, None])
        eps = (forward(x.double(), "periodic") - alpha * x_0) / sigma
        wanted = target(prediction, process, n[:, None], x_0, eps)
        return inverse(wanted, "periodic").float()

    for weighted in (False, True):
        chosen = asked.model_copy(update={"shell_weight": weighted})
        generator = torch.Generator().manual_seed(1)
        losses = training_losses(perfect, process, chosen, fields, n, generator)
        assert losses.shape == (16,)
        assert float(losses.max()) < 1e-6
        zero = training_losses(lambda x, lam: 0 * x, process, chosen, fields, n, generator)
        assert float(zero.min()) > 1e-3


def test_levels_of_live_modes_are_drawn_as_often_as_their_steps():
    process = Process(torch.ones(16, 16), linear_to_resolution(16, 2, 9, 0.1), "cosine")
    asked = TrainingConfig(live_threshold=0.1, live_multiple=4)
    levels, generator = Levels(process, asked), torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(2000):
        at, n = levels.draw(2, generator)
        assert all(live_size(process, float(step), 0.1, 4) == at.N for step in n)
        drawn.extend(n.tolist())
    # uniform in (0, T] all in all; the two steps of a draw share a level
    share = np.histogram(drawn, np.linspace(0, 1000, 11))[0] / len(drawn)
    assert np.abs(share - 0.1).max() < 4.5 * np.sqrt(0.09 / 2000)


@pytest.mark.parametrize("timesteps", ["uniform", "second-moment"])
def test_interrupted_training_equals_uninterrupted_bit_for_bit(values, tmp_path, timesteps):
    values["training"]["timesteps"] = timesteps
    whole = train(parse_config({**values, "out": str(tmp_path / "whole")}))

    config = parse_config(values)
    for stop_at in (7, 23, 55):

        def stop(step, loss, stop_at=stop_at):
            if step == stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(config, progress=stop)
        if stop_at == 23:
            with (tmp_path / "run" / "metrics.jsonl").open("a") as lines:
                lines.write('{"step": 3')
    resumed = train(config)
    a, b = (load_state(path.parent / "state.pt") for path in (whole, resumed))
    assert a["step"] == b["step"] == 60
    assert a["running_loss"] == b["running_loss"]
    for part in ("network", "average"):
        for name, tensor in a[part].items():
            assert torch.equal(tensor, b[part][name]), name
    steps = [json.loads(line)["step"] for line in (resumed.parent / "metrics.jsonl").open()]
    assert steps == list(range(10, 61, 10))

    said = []
    train(config, progress=lambda step, loss: said.append(step))
    assert said == []


def test_another_configuration_in_the_same_folder_is_refused(values):
    train(parse_config(values))
    values["training"]["seed"] = 1
    with pytest.raises(ValueError, match="another configuration"):
        train(parse_config(values))
    train(parse_config(values), overwrite=True)


def test_nan_stops_the_run_and_keeps_the_state(values):
    values["training"] |= {"learning_rate": 1e30, "warmup_steps": 0, "clip": 1e30}
    with pytest.raises(FloatingPointError, match="at step"):
        train(parse_config(values))


def test_learning_rate_warms_up_holds_and_decays(values):
    s = parse_config(values).training
    rates = [learning_rate(s, step) for step in range(s.steps)]
    assert rates[0] == pytest.approx(s.learning_rate / 6)
    assert max(rates) == s.learning_rate
    assert rates[-1] < 0.01 * s.learning_rate
    assert all(b <= a for a, b in pairwise(rates[10:]))


def test_compilation_falls_back_without_a_compiler(monkeypatch):
    network = CompactUNet((8,), (1,))
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert compiled(network, True) == (network, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {"stepz": 3}}, "training.stepz"),
        ({"training": {"steps": 0}}, "training.steps"),
        ({"typo": 1}, "typo"),
        ({"network": {"channels": [8, 8], "blocks": [1]}}, "one entry per level"),
        ({"process": {"spectrum": "x", "schedule": {"kind": "linear"}}}, "resolution"),
        ({"process": {"spectrum": "x", "schedule": {"kind": "cubic"}}}, "cubic"),
        ({"data": {}}, "data.ensemble"),
        ({"training": {"prediction": "noise"}}, "training.prediction"),
        ({"training": {"live_threshold": -1}}, "training.live_threshold"),
        (
            {"training": {"live_threshold": 0.1, "timesteps": "second-moment"}},
            "needs timesteps = 'uniform'",
        ),
    ],
)
def test_bad_configurations_name_the_key(values, change, message):
    with pytest.raises(ValueError, match=message):
        parse_config({**values, **change})


def test_inputs_that_do_not_fit(values, inputs, tmp_path):
    values["data"]["ensemble"] = str(inputs / "other.h5")
    with pytest.raises(ValueError, match=r"N = 8.*L = 12"):
        train(parse_config(values))
    values["data"]["ensemble"] = str(inputs / "train.h5")
    values["network"] = {"channels": [8, 8, 8, 8, 8], "blocks": [1, 1, 1, 1, 1]}
    with pytest.raises(ValueError, match="multiple of 16"):
        train(parse_config(values))
    values["network"] = {"channels": [8, 8], "blocks": [1, 1]}
    values["training"] |= {"live_threshold": 0.1, "live_multiple": 3}
    with pytest.raises(ValueError, match=r"live_multiple.*got 3"):
        train(parse_config(values))
    values["process"]["spectrum"] = str(tmp_path / "missing.nc")
    with pytest.raises(ValueError, match="no such file"):
        train(parse_config(values))


def test_config_file_with_overrides(values, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'out = "here"\n[data]\nensemble = "a.h5"\n[process]\nspectrum = "s.nc"\n'
        '[process.schedule]\nkind = "log-linear"\nlambda_i = -3.75\nlambda_f = -2.0\n'
    )
    config = load_config(path, ("training.steps=7", "training.prediction=eps", "process.k_c=31.2"))
    assert config.training.steps == 7
    assert config.training.prediction == "eps"
    assert config.process.k_c == 31.2
    assert config.out == tmp_path / "here"
    assert config.data.ensemble == tmp_path / "a.h5"
    assert math.isclose(float(config.process.schedule.build(32, 0.1).lam(torch.tensor(1.0))), 1e-2)
    for bad, message in (("steps", "section.key"), ("training.stepz=1", "stepz")):
        with pytest.raises(ValueError, match=message):
            load_config(path, (bad,))
    path.write_text("out = [")
    with pytest.raises(ValueError, match=r"run\.toml"):
        load_config(path)


def test_checkpoints_are_never_unpickled(tmp_path):
    """A pickle that would run code is refused, as are foreign and broken files."""
    fired = tmp_path / "fired"

    class Bomb:
        def __reduce__(self):
            return (fired.write_text, ("boom",))

    bomb = tmp_path / "state.pt"
    torch.save({"step": Bomb()}, bomb)
    with pytest.raises(ValueError, match="training state"):
        load_state(bomb)
    assert not fired.exists()
    broken = tmp_path / "model.safetensors"
    broken.write_bytes(b"\x00" * 100)
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        load_model(broken)
    with pytest.raises(ValueError, match="no such file"):
        load_model(tmp_path / "nothing")
