"""A model of red, green and blue that was trained on lattices takes lattices and makes lattices."""

import json

import numpy as np
import pytest
import torch
import xarray as xr
from command_line import run
from scipy.fft import dctn
from test_import_checkpoint import PUBLISHED_FORM

import skild_physics as sk
from skild_physics.config import parse_config
from skild_physics.files import InputError
from skild_physics.machine import World
from skild_physics.models.published import import_checkpoint
from skild_physics.networks import NCSNpp
from skild_physics.training.trainer import Trainer

L, PIXELS = 8, (-1.0, 0.992)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights of three channels, and of one, of a network that nothing trained; and lattices."""
    folder = tmp_path_factory.mktemp("pictures")
    # from eps, a network that knows nothing makes fields beyond all bounds
    form = PUBLISHED_FORM.replace('"eps"', '"v"')
    (folder / "pictures.toml").write_text(form)
    lattices = form.replace(
        'source = "cifar10"', f'source = "ising.h5"\nspin_pixels = {list(PIXELS)}'
    )
    (folder / "lattices.toml").write_text(lattices)
    for channels in (3, 1):
        torch.manual_seed(0)
        network = NCSNpp(L, 8, (1, 2), 1, (4,), field_channels=channels)
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.1)
        torch.save({"ema": network.state_dict()}, folder / f"{channels}.pt")
    sk.generate_ising(L, samples=16, seed=1, updates=3, out=folder / "ising.h5").close()
    return folder


@pytest.fixture(scope="module")
def models(folder):
    """The same weights as a model of lattices, and as one of pictures."""
    return [
        import_checkpoint(folder / "3.pt", config=folder / f"{name}.toml", out=folder / name)
        for name in ("lattices", "pictures")
    ]


def pictures_of(spins):
    """By hand: (n, 3, M, M) of (n, M, M)."""
    down, up = PIXELS
    pixels = down + (torch.as_tensor(spins).float() + 1) / 2 * (up - down)
    return torch.stack([pixels] * 3, dim=1).numpy()


def spins_of(pictures):
    down, up = PIXELS
    return ((torch.as_tensor(np.array(pictures)).mean(1) - down) / (up - down) * 2 - 1).numpy()


def test_every_verb_is_that_of_pictures_between_a_copy_and_a_mean(folder, models):
    ours, theirs = models
    assert (ours.channels, theirs.channels) == (("spin",), ("red", "green", "blue"))
    with sk.open(folder / "ising.h5") as fields:
        spins = fields.load()
    how = {"sampler": sk.Multistep(3), "seed": 4}
    made, by_hand = (model.generate(3, **how) for model in models)
    np.testing.assert_allclose(made, spins_of(by_hand), rtol=0, atol=1e-5)
    coarse = sk.coarse_grain(spins, factor=2)
    for verb, given in (("reconstruct", spins), ("super_resolve", coarse)):
        made = getattr(ours, verb)(given, 2, **how)
        of_pictures = sk.open(pictures_of(given.values), data_range=(-1, 1))
        kernel = {"kernel": "box"} if verb == "super_resolve" else {}
        by_hand = getattr(theirs, verb)(of_pictures, 2, **kernel, **how)
        assert made.shape == (16, L, L)
        np.testing.assert_allclose(made, spins_of(by_hand), rtol=0, atol=1e-5)
        np.testing.assert_allclose(made["start"], spins_of(by_hand["start"]), rtol=0, atol=1e-5)
        assert made.lattices == "mean of three channels, pixels -1 and 0.992"
        assert made.channels == "spin"
        assert "lattices" not in by_hand.attrs
    # theirs agrees with the pictures, hence ours with the lattices
    assert made.consistency_residual < 1e-5
    with pytest.raises(InputError, match=r"has 3 channels .*, the model 1 \(spin\)"):
        ours.reconstruct(of_pictures, 2)


def test_it_goes_on_from_the_starts_that_it_wrote(folder, models, tmp_path):
    ours, _ = models
    how = {"sampler": sk.Multistep(3), "seed": 4}
    made = ours.reconstruct(folder / "ising.h5", 2, start_out=tmp_path / "start.npy", **how)
    again = ours.reconstruct(folder / "ising.h5", 2, start=tmp_path / "start.npy", **how)
    np.testing.assert_allclose(again, made, rtol=0, atol=1e-5)
    # how the channels differ from their mean is drawn
    other = ours.reconstruct(
        folder / "ising.h5", 2, start=tmp_path / "start.npy", **how | {"seed": 5}
    )
    assert np.abs(other - made).max() > 1e-4
    np.testing.assert_array_equal(other["start"], made["start"])


def test_starts_of_the_published_code(folder, models, tmp_path):
    """Three channels of modes in the paper's normalisation: SciPy's transform over the sites."""
    ours, theirs = models
    how = {"sampler": sk.Multistep(3), "seed": 4}
    spins = sk.open(folder / "ising.h5").load()
    of_pictures = sk.open(pictures_of(spins.values), data_range=(-1, 1))
    by_hand = theirs.reconstruct(of_pictures, 2, **how)
    modes = torch.as_tensor(dctn(by_hand["start"].values, axes=(-2, -1)) / L**2)
    torch.save({"x_init_k": modes, "paths": ["a"]}, tmp_path / "cache.pt")
    # of another seed, since nothing is drawn after the start
    how["seed"] = 5
    again = theirs.reconstruct(of_pictures, 2, start=tmp_path / "cache.pt", **how)
    np.testing.assert_allclose(again, by_hand, rtol=0, atol=1e-4)
    made = ours.reconstruct(spins, 2, start=f"{tmp_path / 'cache.pt'}:x_init_k", **how)
    np.testing.assert_allclose(made, spins_of(by_hand), rtol=0, atol=1e-4)
    np.testing.assert_allclose(made["start"], spins_of(by_hand["start"]), rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="states of 2 x 8 x 8, expected 16 of 1 or 3 x 8 x 8"):
        ours.reconstruct(spins, 2, start=by_hand["start"].values[:, :2], **how)


def test_the_commands_take_and_make_lattices(folder, models):
    done = run("super-resolve lattices ising.h5 --factor 2 --steps 3 --out fine.h5", folder)
    assert "the model is one of pictures; lattices are the mean of three channels" in done.stderr
    run("generate lattices --samples 16 --steps 3 --out made.h5", folder)
    sources = "truth=ising.h5 skild=fine.h5 made=made.h5"
    run(f"eval-correlators {sources} --boundary open --binarize sign --out k.nc", folder)
    for name in ("fine", "made"):
        with xr.open_dataset(folder / f"{name}.h5", engine="h5netcdf") as data:
            assert data["field"].dims == ("sample", "y", "x")
            assert data.attrs["lattices"] == "mean of three channels, pixels -1 and 0.992"


def test_weights_of_one_channel_are_a_model_of_fields_as_they_are(folder):
    how = {"config": folder / "lattices.toml", "out": folder / "one"}
    model = import_checkpoint(folder / "1.pt", **how)
    assert model.channels == ("field",)
    assert model.config.data.spin_pixels is None
    assert import_checkpoint(folder / "1.pt", **how).channels == ("field",)


def test_training_shows_the_network_pictures_of_lattices(folder, tmp_path):
    plain = ("training.compile=false", "training.threads=1", "training.precision=float32")
    few = ("training.steps=2", "training.batch_size=4", "data.heldout=4")
    config = sk.load_config(folder / "lattices.toml", (*plain, *few, f"out={tmp_path}/run"))
    trainer = Trainer(config, World(0, 1, torch.device("cpu")), lambda line: None)
    batch = trainer._fields(0)
    assert batch.shape == (4, 3, L, L)
    assert batch.unique().tolist() == pytest.approx(PIXELS)
    model = sk.train(config)
    assert model.network.network.all_modules[2].weight.shape[1] == 3
    assert model.reconstruct(folder / "ising.h5", 2, sampler=sk.Multistep(2)).shape == (16, L, L)
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert kept["data"]["spin_pixels"] == list(PIXELS)


def test_what_cannot_be_pictures_of_lattices_is_refused(folder):
    values = sk.load_config(folder / "lattices.toml").to_json()
    with pytest.raises(InputError, match="spin_pixels must be two numbers, the smaller one first"):
        parse_config(values | {"data": values["data"] | {"spin_pixels": [1, 1]}})
    with pytest.raises(InputError, match=r"data\.spin_pixels: goes with process\.kind = 'skild'"):
        parse_config(values | {"condition": {"factor": 2}})
    np.save(folder / "colours.npy", pictures_of(np.ones((16, L, L))))
    config = sk.load_config(folder / "lattices.toml", ("data.source=colours.npy",))
    with pytest.raises(InputError, match=r"data\.spin_pixels: is for lattices, .* not 3"):
        Trainer(config, World(0, 1, torch.device("cpu")), lambda line: None)
