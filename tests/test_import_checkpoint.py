"""A checkpoint of the published code becomes a model of this package."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
import xarray as xr
from command_line import run
from scipy.fft import dctn

from skild_physics.kspace import inverse
from skild_physics.models.checkpoint import load
from skild_physics.models.published import import_checkpoint
from skild_physics.networks import NCSNpp

PUBLISHED_FORM = """
out = "unused"
[data]
source = "cifar10"
[process]
snr = 1e-4
k_c = 3.0
[process.law]
size = 8
C = 0.91001
k0_squared = 1.940556
alpha = 1.051304
basis = "cosine"
[process.schedule]
kind = "linear"
resolution = 0.4
[network]
kind = "ncsnpp"
channels = 8
multipliers = [1, 2]
blocks = 1
attention = [4]
output = "paper"
[training]
prediction = "eps"
"""


def test_a_checkpoint_of_the_published_code_is_imported_and_runs(tmp_path):
    (tmp_path / "form.toml").write_text(PUBLISHED_FORM)
    torch.manual_seed(0)
    network = NCSNpp(8, 8, (1, 2), 1, (4,), field_channels=3).eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    averaged = {f"module.{name}": weight for name, weight in network.state_dict().items()}
    last = {name: weight + 1 for name, weight in averaged.items()}
    torch.save({"ema": averaged, "model": last, "step": 7}, tmp_path / "theirs.pt")
    done = run("import-checkpoint theirs.pt --config form.toml --out ours", tmp_path)
    assert done.stdout == "ours/model.safetensors\n"
    assert "of 8 x 8 fields (red, green, blue)" in done.stderr
    assert "7 steps, ema weights" in done.stderr
    made = "generate ours --samples 12 --steps 4 --out made.h5 --plot made.png"
    run(made, tmp_path)
    assert (tmp_path / "made.png").read_bytes().startswith(b"\x89PNG")
    with xr.open_dataset(tmp_path / "made.h5", engine="h5netcdf") as data:
        assert dict(data["field"].sizes) == {"sample": 12, "channel": 3, "y": 8, "x": 8}
        assert np.isfinite(data["field"]).all()

    model = load(tmp_path / "ours")
    x_n, n = torch.randn(2, 3, 8, 8), 300.0
    alpha, sigma = model.process.marginal(n)
    raw = network(inverse(x_n, "cosine"), torch.full((2,), n)).detach()
    # modes of the raw output in the paper's normalisation are eps
    eps = torch.from_numpy(dctn(raw.numpy(), axes=(-2, -1))) / 8**2
    expected = (x_n - sigma * eps) / alpha
    torch.testing.assert_close(
        model.denoiser()(x_n, n).double(), expected, rtol=1e-4, atol=1e-4 * float(expected.std())
    )

    np.save(tmp_path / "given.npy", np.random.default_rng(0).uniform(-1, 1, (12, 3, 8, 8)))
    run("super-resolve ours given.npy --factor 2 --out x.h5", tmp_path)
    with xr.open_dataset(tmp_path / "x.h5", engine="h5netcdf") as data:
        assert data["start"].shape == data["field"].shape == (12, 3, 8, 8)
    np.save(tmp_path / "grey.npy", np.zeros((2, 1, 8, 8), np.float32))
    refused = run("super-resolve ours grey.npy --factor 2 --out y.h5", tmp_path, code=2)
    assert "grey.npy: has 1 channels (field), the model 3 (red, green, blue)" in refused.stderr
    other = "import-checkpoint theirs.pt --config form.toml --set network.blocks=2 --out other"
    assert "another configuration?" in run(other, tmp_path, code=2).stderr
    (tmp_path / "theirs.pt").write_bytes(b"junk")
    run("import-checkpoint theirs.pt --config form.toml --out other", tmp_path, code=2)
    assert not (tmp_path / "other" / "model.safetensors").exists()


SETTINGS = """
class FieldReference:
    def __init__(self, value):
        self._field_type, self._value, self._observers, self._ops = type(value), value, [], []

class ConfigDict:
    def __init__(self, **fields):
        vars(self).update(_fields=fields, _locked=True, _type_safe=True)

    def __getattr__(self, name):
        raise AttributeError(name)

    def __setattr__(self, name, value):
        raise AttributeError(name)
"""


def settings():
    """Nested, as the published training saves them; the classes are gone once they are written."""
    module = ModuleType("ml_collections_like")
    exec(SETTINGS, module.__dict__)
    sys.modules[module.__name__] = module
    inner = module.ConfigDict(lr=module.FieldReference(2e-4), betas=(0.9, 0.999), name=None)
    return module.ConfigDict(model=inner, data=module.ConfigDict(size=8, flip=True, again=inner))


def real_settings():
    config_dict = pytest.importorskip("ml_collections").config_dict
    inner = config_dict.ConfigDict({"lr": 2e-4, "betas": (0.9, 0.999)})
    inner.steps = config_dict.FieldReference(7) + 3
    inner.path = config_dict.placeholder(str)
    return config_dict.ConfigDict({"model": inner, "data": config_dict.FrozenConfigDict(inner)})


@pytest.mark.parametrize("made", [settings, real_settings])
def test_what_the_published_training_saves_is_read_as_it_is(tmp_path, made):
    """Weights, averages, optimiser, epoch, steps, and settings of a class that is not installed."""
    torch.manual_seed(0)
    network = NCSNpp(8, 8, (1, 2), 1, (4,), field_channels=3)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-4)
    network(torch.randn(1, 3, 8, 8), torch.tensor([5.0])).square().sum().backward()
    optimizer.step()
    last = {name: w.clone() for name, w in network.state_dict().items()}
    averaged = {name: w + 0.01 for name, w in last.items()}
    content = {"model": last, "ema": averaged, "opt": optimizer.state_dict()}
    content |= {"epoch": 12, "train_steps": 390_000, "config": made()}
    torch.save(content, tmp_path / "theirs.pt")
    sys.modules.pop("ml_collections_like", None)
    (tmp_path / "form.toml").write_text(PUBLISHED_FORM)

    how = {"config": tmp_path / "form.toml"}
    for weights in ("ema", "model"):
        model = import_checkpoint(
            tmp_path / "theirs.pt", **how, weights=weights, out=tmp_path / weights
        )
        assert model.trained_steps == 390_000
        network.load_state_dict(content[weights])
        x, n = torch.randn(2, 3, 8, 8), torch.full((2,), 300.0)
        with torch.no_grad():
            expected = network.eval()(x, n)
            found = model.network.network(x, n)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
