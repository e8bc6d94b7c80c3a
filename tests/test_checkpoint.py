"""Checkpoints and states: nothing in them is run, those of earlier versions load."""

import json

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
    del header["channels"]
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
