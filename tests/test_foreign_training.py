"""Training on fields of others: modes without variance, other amplitudes, few fields."""

import json

import numpy as np
import pytest
import xarray as xr
from field_files import one_line
from small_runs import one_thread

import skild_physics as sk
from skild_physics import kspace
from skild_physics.diffusion.prediction import PREDICTIONS, estimate_form, target_form
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.schedule import LinearSchedule
from skild_physics.files import InputError
from skild_physics.training.data import open_training_fields

one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)

SMALL = (
    *("network.channels=[8]", "network.blocks=[1]", "training.snr_threshold=0.1"),
    *("training.compile=false", "training.threads=1", "training.precision=float32"),
)
SAMPLER = sk.Multistep(6)


@pytest.fixture(scope="module")
def lattices():
    return sk.generate_ising(L=16, samples=400, seed=1).values.astype(np.float64)


def torus(values, name="mine"):
    """Periodic fields of an array (sample, y, x) or (sample, channel, y, x)."""
    dims = ("sample", *(["channel"] if values.ndim == 4 else []), "y", "x")
    return xr.DataArray(values, dims=dims, attrs={"basis": "periodic", "source": name})


def trained(values, folder, *overrides, **how):
    model = sk.train(
        "ising64", data=torus(values), steps=20, out=folder, overrides=(*SMALL, *overrides), **how
    )
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return model, lines[0]["loss"], lines[1]["heldout_loss"]


@pytest.mark.parametrize("prediction", ["v", "eps", "w"])
def test_fields_of_zero_mean(lattices, tmp_path, caplog, prediction):
    caplog.set_level("INFO", "skild_physics")
    fields = lattices - lattices.mean(axis=(1, 2), keepdims=True)
    model, loss, heldout = trained(fields, tmp_path, f"training.prediction={prediction}")
    assert "1 of 256 modes have no variance" in caplog.text
    assert 0.1 < loss < 3
    assert 0.1 < np.mean(heldout) < 3
    made = model.generate(4, sampler=SAMPLER).values.astype(np.float64)
    assert made.std() > 0.3
    assert np.abs(made.mean(axis=(1, 2))).max() < 1e-6 * made.std()
    again = model.reconstruct(torus(fields[:3]), 2, sampler=SAMPLER).values.astype(np.float64)
    assert np.abs(again.mean(axis=(1, 2))).max() < 1e-6


def test_fields_of_a_band(lattices, tmp_path):
    """Low modes on a finer lattice, as interpolation leaves them."""
    modes = kspace.forward(lattices, "periodic")
    modes[:, 7:] = modes[:, :, 7:] = 0
    model, loss, heldout = trained(kspace.inverse(modes, "periodic"), tmp_path)
    assert max(loss, np.mean(heldout)) < 3
    made = kspace.forward(model.generate(4, sampler=SAMPLER).values.astype(np.float64), "periodic")
    # shells that the band fills in part have variance
    empty = kspace.shell_index(16, "periodic") > 2 * 6**2
    assert np.abs(made[:, empty]).max() < 1e-5 * made.std()


def test_a_constant_channel(lattices, tmp_path):
    colours = np.stack([lattices, lattices, np.full_like(lattices, 0.3)], axis=1)
    model, loss, heldout = trained(colours, tmp_path)
    assert max(loss, np.mean(heldout)) < 3
    assert model.generate(2, sampler=SAMPLER).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_modes_without_variance_are_zero(prediction):
    S0 = np.ones((8, 8))
    S0[0, 0], S0[5] = 0, 1e-30
    process = Process(S0, LinearSchedule(10, 1, 1), "periodic", k_c=3)
    empty = process.empty.numpy()
    np.testing.assert_array_equal(empty, S0 < 1)
    forms = (target_form(prediction, process, 300), estimate_form(prediction, process, 300))
    for coefficient in (c.numpy() for form in forms for c in form):
        assert np.isfinite(coefficient).all()
        assert not coefficient[empty].any()
    # saved and loaded, cropped and resized they still are
    assert (Process(process.S0, process.schedule, "periodic").empty.numpy() == empty).all()
    assert (process.cropped(4).empty.numpy() == empty[:4, :4]).all()


def test_shells_without_variance_are_not_fitted(lattices, caplog):
    caplog.set_level("INFO", "skild_physics")
    fields = lattices - lattices.mean(axis=(1, 2), keepdims=True)
    found = sk.fit_spectrum(torus(fields))
    assert "mine: 1 of 42 shells have no variance and are not fitted; every" in caplog.text
    # all other modes are the same with and without the mean
    same = sk.fit_spectrum(torus(lattices), k_min=6)
    assert found.fit.law.alpha == pytest.approx(same.fit.law.alpha, rel=1e-6)
    assert found.fit_range == same.fit_range


@pytest.mark.parametrize("count", [16, 200])
def test_few_fields_train_with_a_line_of_advice(lattices, tmp_path, caplog, count):
    """As the configuration says, and as sk.train is given them."""
    caplog.set_level("INFO", "skild_physics")
    fields = tmp_path / "few.h5"
    sk.save(torus(lattices[:count]).astype(np.float32), fields)
    sk.fit_spectrum(fields, out=tmp_path / "s.nc", normalization="isotropic", basis="periodic")
    said = (f"data.source={fields}", f"process.spectrum={tmp_path / 's.nc'}")
    for number, how in enumerate(({"data": fields}, {"overrides": said})):
        overrides = (*SMALL, *how.pop("overrides", ()))
        sk.train("ising64", steps=2, out=tmp_path / str(number), overrides=overrides, **how)
        assert f"{count // 8} of {count} items are held out; data.heldout sets" in caplog.text
        assert f"{count - count // 8} fields of 1 x 16 x 16 and {count // 8} held" in caplog.text
        caplog.clear()
    overrides = (*SMALL, "data.heldout=256")
    with pytest.raises(InputError, match=r"few.h5: data.heldout must be at least 0 and") as error:
        sk.train("ising64", data=fields, steps=2, out=tmp_path / "no", overrides=overrides)
    one_line(error, f"less than the {count} items, got 256")
    assert not (tmp_path / "no" / "run.json").exists()


def test_one_field_and_two(lattices, tmp_path):
    np.save(tmp_path / "one.npy", lattices[:1])
    with pytest.raises(InputError, match=r"one.npy: a variance needs at least 2 fields") as error:
        sk.fit_spectrum(tmp_path / "one.npy")
    one_line(error)
    two = sk.fit_spectrum(torus(lattices[:2]))
    assert "errors: none, from 2 blocks of fields: fewer than 8" in repr(two)
    # the unbiased variance of two numbers is half the square of their difference
    modes = kspace.forward(lattices[:2], "periodic")
    np.testing.assert_allclose(
        two.variance[0] / kspace.normalization_factor(16, "periodic") ** 2,
        (modes[0] - modes[1]) ** 2 / 2,
        atol=1e-9,
    )


def test_fields_of_another_amplitude_than_the_spectrum(lattices, tmp_path, caplog):
    # not of two values, which are spins of any size
    lattices = lattices + 0.01 * np.random.default_rng(1).standard_normal(lattices.shape)
    spectrum = sk.fit_spectrum(torus(lattices), normalization="isotropic")
    for scale in (127, 0.2):
        with pytest.raises(InputError, match="variance of the fields is") as error:
            trained(lattices * scale, tmp_path / "a", spectrum=spectrum)
        one_line(error, "mine: ", "spectrum.nc; measure theirs, or scale them")
        ratio = float(str(error.value).split(" is ")[1].split()[0])
        # of 256 fields of 350, most of it in few modes
        assert ratio == pytest.approx(scale**2, rel=0.2)
    # of the same variance, but of another slope
    modes = kspace.forward(np.random.default_rng(0).standard_normal((400, 16, 16)), "periodic")
    caplog.set_level("INFO", "skild_physics")
    trained(kspace.inverse(modes, "periodic"), tmp_path / "b", spectrum=spectrum)
    assert "mine: the spectrum of the fields is not that of" in caplog.text
    caplog.clear()
    trained(lattices, tmp_path / "c", spectrum=spectrum)
    assert "is not that of" not in caplog.text


def test_fields_too_large_for_white_noise(lattices, tmp_path):
    white = ("process.white.size=16", 'process.white.basis="periodic"')
    lattices = lattices + 0.01 * np.random.default_rng(1).standard_normal(lattices.shape)
    for config in ("ising64-ddpm", "ising64-sr3"):
        with pytest.raises(InputError, match=r"mine: the variance .* the process; scale them"):
            sk.train(
                config,
                data=torus(lattices * 127),
                steps=1,
                out=tmp_path / "a",
                overrides=(
                    "process.size=16" if config == "ising64-ddpm" else white[0],
                    "training.compile=false",
                ),
            )


def test_a_mean_that_the_process_has_no_place_for(lattices, tmp_path):
    """Densities over their mean: all fields have the mean one."""
    fields = lattices - lattices.mean(axis=(1, 2), keepdims=True) + 1
    with pytest.raises(InputError, match="the mean of every field is 1, but it has") as error:
        trained(fields, tmp_path)
    one_line(error, "subtract it from the fields")


def test_symmetries_are_those_that_are_known(tmp_path, caplog):
    """Two values may be anything; of an Ising model on a torus all eight and more hold."""
    spins = sk.generate_ising(L=8, samples=16, seed=1)
    named = {
        "torus": sk.open(spins.values).assign_attrs(model="ising"),
        "none": sk.open(spins.values, boundary="open").assign_attrs(model="ising"),
    }
    for symmetry, fields in named.items():
        caplog.clear()
        assert open_training_fields(fields, heldout=2)[0].symmetry == symmetry
    assert open_training_fields(spins.values, heldout=2)[0].symmetry == "none"
    assert 'data.symmetry = "torus"' in caplog.text
    assert open_training_fields(spins.values, heldout=2, symmetry="torus")[0].symmetry == "torus"
