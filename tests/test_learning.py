"""Small runs learn, show how, and leave a model that loads."""

import json
import math

import numpy as np
import pytest
import small_runs
import torch
from PIL import Image

from skild_physics.config import parse_config
from skild_physics.kspace import inverse, normalization_factor, wavenumbers
from skild_physics.models.checkpoint import load
from skild_physics.training.evaluation import BANDS
from skild_physics.training.run import run
from skild_physics.training.trainer import learning_rate

one_thread = pytest.fixture(scope="module", autouse=True)(small_runs.one_thread)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return small_runs.make_inputs(tmp_path_factory.mktemp("inputs"), samples=400)


@pytest.fixture
def values(inputs, tmp_path):
    return small_runs.run_values(inputs, tmp_path / "run")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def each(running):
    """The losses of steps from their running mean."""
    running = np.array(running)
    return np.append(running[0], 100 * running[1:] - 99 * running[:-1])


def png_size(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return picture.size


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluate_every": 80},
        {"shell_weight": True},
        {"snr_threshold": 0.5, "active_multiple": 4},
        {"timesteps": "second-moment"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_training_learns_and_is_loadable(values, changes, tmp_path):
    values["network"]["channels"] = [16]
    values["training"] |= {**changes, "steps": 100, "learning_rate": 8e-3}
    config = parse_config(values)
    losses = []
    checkpoint = run(config, progress=lambda step, loss: losses.append(loss))
    # a network that knows nothing predicts 0 and has loss 1
    assert losses[0] == pytest.approx(1, abs=0.3)
    assert each(losses)[-20:].mean() < 0.85
    model = load(checkpoint)
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
        "snr": 1e-4,
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
    checkpoint = run(parse_config(values), progress=lambda step, loss: losses.append(loss))
    assert each(losses)[-20:].mean() < 0.92
    model = load(checkpoint)
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
    checkpoint = run(parse_config(values), progress=lambda step, loss: losses.append(loss))
    assert losses[0] == pytest.approx(1, abs=0.1)
    assert each(losses)[-20:].mean() < 0.88
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert np.mean(json.loads(lines[-1])["heldout_loss"]) < 0.9
    model = load(checkpoint)
    assert model.multiple == 16
    assert not model.network.training
