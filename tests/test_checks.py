"""Nan, infinity and codes of missing values stop every reader, at the field that holds them."""

import numpy as np
import pytest
from field_files import one_line

import skild_physics as sk
from skild_physics.fields import batches
from skild_physics.files import InputError

BAD = [
    (np.nan, "nan"),
    (np.inf, "infinity"),
    (-np.inf, "infinity"),
    (-9999, "-9999"),
    (-999, "-999"),
    (9999, "9999"),
    (1e20, "1e+20"),
    (9.969209968386869e36, "9.96921e+36"),
    (np.finfo(np.float32).min, "-3.402823e+38"),
]


def spoiled(value, n=40, at=17, dtype=np.float32):
    fields = np.random.default_rng(0).standard_normal((n, 8, 8)).astype(dtype)
    fields[at, 2:4, 3] = value
    return fields


def readers(path):
    yield lambda: sk.fit_spectrum(path)
    yield lambda: sk.coarse_grain(path, factor=2)
    yield lambda: sk.interpolate(path, factor=2)
    yield lambda: sk.eval_correlators(a=path)
    yield lambda: sk.eval_images(a=path, b=path, metrics=("psnr",))


@pytest.mark.parametrize(("value", "shown"), BAD)
def test_the_file_and_the_first_bad_field_are_named(tmp_path, value, shown):
    path = tmp_path / "data.npy"
    np.save(path, spoiled(value))
    for read in readers(path):
        with pytest.raises(InputError) as error:
            read()
        one_line(error, f"data.npy: field 17 holds {shown}")


def test_fields_keep_their_numbers(tmp_path):
    part = sk.open(spoiled(np.nan))[10:30]
    with pytest.raises(InputError, match="field 17 holds nan"):
        list(batches(part, length=3))
    with pytest.raises(InputError, match="field 17 holds nan"):
        list(batches(part, 5, length=3))
    assert len(list(batches(part, 8, length=3))) == 4


def test_training_and_super_resolution_stop_there_too(tmp_path):
    path = tmp_path / "data.npy"
    spins = np.sign(spoiled(0, n=40) + 1e-9)
    spins = np.tile(spins, (1, 8, 8)).astype(np.float32)
    spins[17, 5, 5] = np.nan
    np.save(path, spins)
    with pytest.raises(InputError, match=r"data.npy: field 17 holds nan"):
        sk.train("ising64", data=path, steps=1, out=tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()
    model = sk.load("bundled")
    sampler = sk.Multistep(1)
    for make in (model.reconstruct, model.enlarge):
        with pytest.raises(InputError, match=r"data.npy: field 17 holds nan"):
            make(path, 2, sampler=sampler, samples=20)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float64])
def test_codes_of_any_type(dtype):
    with pytest.raises(InputError, match="field 3 holds -999, far from all other values"):
        list(batches(sk.open(spoiled(-999, at=3, dtype=dtype))))


def test_large_values_are_no_codes():
    """What is far from the mean, but not from all else; counts that are 999 once; a constant."""
    rng = np.random.default_rng(1)
    wide = rng.uniform(-9999, 9999, (20, 1, 8, 8))
    wide[3, 0, 0, :2] = -9999
    counts = rng.integers(0, 400, (20, 1, 8, 8))
    counts[5, 0, 1, 1] = 999
    heavy = rng.standard_cauchy((500, 1, 8, 8)) * 1e6
    for fields in (wide, counts, heavy, np.full((9, 1, 8, 8), 7.0), np.zeros((9, 1, 8, 8))):
        found = np.concatenate(list(batches(sk.open(fields[:, 0]))))
        np.testing.assert_allclose(found, fields, rtol=1e-6)
