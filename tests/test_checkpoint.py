"""Checkpoints and states: nothing in them is run, those of earlier versions load."""

import json
from pathlib import Path

import numpy as np
import pytest
import small_runs
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import skild_physics as sk
from skild_physics.config import parse_config
from skild_physics.kspace import forward
from skild_physics.models.checkpoint import load
from skild_physics.training.run import run
from skild_physics.training.state import load_state

one_thread = pytest.fixture(scope="module", autouse=True)(small_runs.one_thread)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return small_runs.make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def values(inputs, tmp_path):
    return small_runs.run_values(inputs, tmp_path / "run")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


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
        load(broken)
    with pytest.raises(ValueError, match="no such file, did you mean 'bundled'"):
        load("bundeld")
    with pytest.raises(ValueError, match="no such file"):
        load(tmp_path / "nothing")


def test_checkpoints_of_the_first_version_load(values, tmp_path):
    """They knew lattice ensembles only, and other names."""
    path = run(parse_config(values))
    with safe_open(path, "pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    of_run = json.loads(header["config"])
    of_run["data"] = {"ensemble": "train.h5", "symmetries": True}
    del header["channels"], header["sha256"]
    header |= {"schema_version": "1", "config": json.dumps(of_run)}
    save_file(tensors, tmp_path / "old.safetensors", header)
    old, new = load(tmp_path / "old.safetensors"), load(path)
    assert old.channels == ("spin",)
    for a, b in zip(old.network.parameters(), new.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_bundled_checkpoint_denoises_far_better_than_gaussian_theory():
    """The mean of Gaussian theory is sqrt(abar) x_n; at R = N most spins can be told from it."""
    model = load("bundled")
    process = model.process
    assert model.channels == ("spin",)
    fields = sk.generate_ising(64, samples=32, seed=7)
    x_0 = forward(torch.tensor(fields.values[:, None], dtype=torch.float32), "periodic")
    n = process.step_at_resolution(64.0, 0.1)
    alpha, sigma = (c.float() for c in process.marginal(n))
    x_n = alpha * x_0 + sigma * torch.randn(x_0.shape, generator=seeded())
    with torch.inference_mode():
        ours = model.denoiser()(x_n, n)
    # measured: 0.036 against 0.14
    assert float((ours - x_0).square().mean()) < 0.35 * float((alpha * x_n - x_0).square().mean())


def test_what_a_model_makes_has_the_parameters_of_its_training_fields(tmp_path, caplog):
    """A field that is given keeps its own; at other sizes they hold at the critical point alone."""
    hot = sk.generate_ising(L=32, samples=40, beta=0.3, seed=1)
    small = ("network.channels=[8]", "network.blocks=[1]", "training.snr_threshold=0.1")
    model = sk.train("ising64", data=hot, steps=1, out=tmp_path / "run", overrides=small)
    header = {"model": "ising", "beta": 0.3, "boundary": "periodic"}
    with safe_open(tmp_path / "run" / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["trained_on"]) == header
    assert model.trained_on == load(tmp_path / "run").trained_on == header
    how = {"sampler": sk.Multistep(2)}

    def known(fields):
        return {name: fields.attrs[name] for name in header if name in fields.attrs}

    assert known(model.generate(1, **how)) == header
    assert known(model.generate(1, out=tmp_path / "made.h5", **how)) == header
    assert known(sk.open(tmp_path / "made.h5")) == header
    coarse = sk.coarse_grain(hot[:2], factor=2)
    assert known(coarse) == {"boundary": "periodic"}
    assert known(model.super_resolve(coarse, 2, **how)) == header
    assert known(model.reconstruct(hot[:1].values, 2, **how)) == header
    assert not [each for each in caplog.records if each.levelname == "WARNING"]
    critical = sk.generate_ising(L=32, samples=1)
    again = model.reconstruct(critical, 2, **how)
    assert again.attrs["beta"] == critical.attrs["beta"]
    assert "at beta = 0.4406867935 are given to a model trained at 0.3" in caplog.text
    assert model.enlarge(critical, 2, **how).attrs["beta"] == critical.attrs["beta"]
    away = {"model": "ising", "boundary": "periodic"}
    assert known(model.enlarge(hot[:1], 2, **how)) == away
    assert known(model.generate(1, L=64, **how)) == away


SHIPPED = [
    "skild_physics/pretrained/ising64/model.safetensors",
    "paper_figures/ising64_sr3/model.safetensors",
]


@pytest.mark.parametrize("path", SHIPPED)
def test_shipped_models_of_lattices_know_that_these_are_critical(path):
    beta = load(Path(__file__).parents[1] / path).trained_on["beta"]
    assert np.sinh(2 * beta) == pytest.approx(1, abs=1e-12)


def test_photographs_have_no_temperature():
    assert load("bundled-photographs").trained_on == {}
