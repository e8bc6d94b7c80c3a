"""Models say so when fields are not of the kind they were trained on, and not otherwise."""

import numpy as np
import pytest
from field_files import one_line

import skild_physics as sk
from skild_physics.files import InputError
from skild_physics.kspace import inverse
from skild_physics.models.agreement import variance_ratios

SAMPLER = sk.Multistep(1)
OTHER = "is not that of the model's training fields"


@pytest.fixture(scope="module")
def lattices():
    return sk.generate_ising(L=64, samples=64, seed=11)


@pytest.fixture(scope="module")
def bundled():
    return sk.load("bundled")


@pytest.fixture(autouse=True)
def heard(caplog):
    caplog.set_level("WARNING", "skild_physics")


@pytest.mark.parametrize("count", [1, 20])
def test_its_own_kind_passes_without_a_word(bundled, lattices, caplog, count):
    fields = lattices[:count]
    bundled.reconstruct(fields, 4, sampler=SAMPLER)
    bundled.enlarge(fields, 2, sampler=SAMPLER)
    for kernel in ("box", "spectral", "gaussian"):
        coarse = sk.coarse_grain(fields, factor=4, kernel=kernel)
        bundled.super_resolve(coarse, 4, sampler=SAMPLER)
    assert not caplog.text


def test_photographs_pass(caplog):
    model = sk.load("bundled-photographs")
    for word in ("photographs", "photographs-test"):
        fields = sk.open(word)[:: (250 if word == "photographs" else 4)]
        model.reconstruct(fields, 2, sampler=SAMPLER, samples=24)
        coarse = sk.coarse_grain(fields, factor=2, kernel="bicubic", samples=24)
        model.super_resolve(coarse, 2, sampler=SAMPLER)
    # as an array, whose fields are not known to be of six pictures
    patches = sk.open("photographs")[::136].values
    model.reconstruct(patches, 2, sampler=SAMPLER)
    assert not caplog.text
    model.reconstruct(patches / 5, 2, sampler=SAMPLER, data_range=(-1, 1))
    assert OTHER in caplog.text


@pytest.mark.parametrize("beta", [0.3, 0.6])
def test_lattices_of_another_temperature(bundled, caplog, beta):
    fields = sk.generate_ising(L=64, samples=24, beta=beta, seed=2)
    bundled.reconstruct(fields, 4, sampler=SAMPLER)
    assert OTHER in caplog.text
    caplog.clear()
    bundled.super_resolve(sk.coarse_grain(fields, factor=4), 4, sampler=SAMPLER)
    assert OTHER in caplog.text


def test_fields_of_another_amplitude(bundled, lattices, caplog):
    coarse = sk.coarse_grain(lattices[:24], factor=4)
    bundled.super_resolve(coarse * 0.5, 4, kernel="gaussian", sampler=SAMPLER)
    assert f"{OTHER}: its variance is 0.2" in caplog.text
    caplog.clear()
    checks = coarse.copy(
        data=np.broadcast_to(np.indices((16, 16)).sum(0) % 2 * 2.0 - 1, (24, 16, 16))
    )
    bundled.super_resolve(checks, 4, sampler=SAMPLER)
    assert OTHER in caplog.text


@pytest.mark.parametrize("name", ["bundled", "bundled-photographs"])
def test_values_that_cannot_be_meant(name, tmp_path):
    model = sk.load(name)
    channels = len(model.channels)
    pixels = np.random.default_rng(0).uniform(0, 255, (3, channels, 64, 64))
    np.save(tmp_path / "pixels.npy", pixels.squeeze())
    for protocol in (model.reconstruct, model.super_resolve):
        how = {"kernel": "box"} if protocol == model.super_resolve else {}
        how |= {"out": tmp_path / "x.h5", "data_range": (-1, 1)}
        with pytest.raises(InputError, match=r"pixels.npy: values reach 25") as error:
            protocol(tmp_path / "pixels.npy", 2, **how)
        one_line(error, "[-1, 1]; say with `data_range`")
    assert not (tmp_path / "x.h5").exists()


def test_a_model_of_spins_is_given_other_values(bundled, lattices, caplog):
    noise = np.random.default_rng(0).normal(size=(20, 64, 64)).cumsum(axis=1).cumsum(axis=2)
    smooth = np.clip(noise / noise.std(), -3, 3).astype(np.float32)
    bundled.reconstruct(smooth, 4, sampler=SAMPLER)
    assert "the model was trained on spins +-1, which these fields are not" in caplog.text
    caplog.clear()
    # what a model of spins makes is nearly spins
    made = lattices[:2] + np.float32(0.1) * np.random.default_rng(0).normal(size=(2, 64, 64))
    bundled.enlarge(made.astype(np.float32), 2, sampler=SAMPLER)
    assert not caplog.text


def test_ratios_of_white_noise():
    """Of variance 4 at k < 8 pi and 1/4 beyond, where 1 is expected."""
    rng = np.random.default_rng(3)
    modes = rng.standard_normal((400, 2, 32, 32)) / 2
    k = np.hypot(*np.meshgrid(np.arange(32), np.arange(32)))
    modes[..., k < 8] *= 4
    ratios = variance_ratios(inverse(modes, "cosine"), np.ones((32, 32)), "cosine")
    np.testing.assert_allclose(ratios.R, [4, 4, 4, 0.25, 0.25, 0.25], rtol=0.15)
    assert ratios.differ
    assert str(ratios).startswith("its variance is 4 times theirs")
    white = inverse(rng.standard_normal((400, 1, 32, 32)), "cosine")
    same = variance_ratios(white, np.ones((32, 32)), "cosine")
    assert (np.abs(same.R - 1) < 5 * same.stderr).all()
    assert not same.differ
