"""Coarse-graining and interpolation in memory, in files and by their commands."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from field_files import everything, noise, some_spins, unit, write_ensemble
from PIL import Image

import skild_physics as sk
from skild_physics.cli.main import cli
from skild_physics.fields import channels_of
from skild_physics.fields.clipping import pixels
from skild_physics.files import InputError


def command(*arguments):
    """The last line of what a command answers."""
    done = CliRunner().invoke(cli, [str(each) for each in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()[-1]


@pytest.fixture
def lattices(tmp_path):
    path = write_ensemble(tmp_path / "ising.h5", some_spins(30, 12))
    with xr.open_dataset(path, engine="h5netcdf") as data:
        known = data.load()
    known["chain"] = "sample", np.arange(30) % 4
    known.to_netcdf(path, engine="h5netcdf")
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(10):
        Image.fromarray(noise(14, 17, 3, seed=i)).save(folder / f"{i}.png")
    return folder


MADE = {
    "coarse-grain": (sk.coarse_grain, {"factor": 2}, {"factor": 1.5, "kernel": "bicubic"}),
    "interpolate": (sk.interpolate, {"factor": 2.5}, {"factor": 2, "kernel": "lanczos"}),
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("how", [1, 2])
@pytest.mark.parametrize("kind", ["lattices", "photos"])
def test_in_memory_in_a_file_and_by_the_command(tmp_path, request, name, how, kind):
    source, function, options = request.getfixturevalue(kind), MADE[name][0], MADE[name][how]
    given = options | {"samples": 7} | ({"size": 12} if kind == "photos" else {})
    kept = function(source, **given)
    assert (kept.dtype, len(kept)) == (np.float32, 7)
    words = [f"--{key}={value}" for key, value in given.items()]
    for suffix in (".h5", ".npz", ""):
        out, by_command = tmp_path / f"out{suffix}", tmp_path / f"command{suffix}"
        written = function(source, **given, out=out)
        assert command(name, source, *words, "--out", by_command) == str(by_command)
        own = kept.values if suffix == ".h5" else unit(pixels(kept.values))
        np.testing.assert_array_equal(written, own)
        assert written.dims == kept.dims
        assert (written.source, written.dtype) == (out.name, np.float32)
        known = {key: written.attrs[key] for key in kept.attrs if key != "source"}
        assert known == {key: value for key, value in kept.attrs.items() if key != "source"}
        xr.testing.assert_equal(written.coords.to_dataset(), kept.coords.to_dataset())
        with (
            sk.open(out, grey=not suffix and kind == "lattices") as ours,
            sk.open(by_command, grey=not suffix and kind == "lattices") as theirs,
        ):
            np.testing.assert_array_equal(ours, theirs)
            plain = {key: value for key, value in ours.attrs.items() if key != "source"}
            assert plain == {key: theirs.attrs[key] for key in plain}


def test_coarse_fields_know_how_they_were_made(lattices):
    fields = sk.open(lattices)
    coarse = sk.coarse_grain(fields, factor=3)
    means = fields.values.reshape(30, 4, 3, 4, 3).mean((2, 4))
    np.testing.assert_allclose(coarse, means, rtol=1e-6)
    assert (coarse.downsampling, coarse.factor, coarse.basis) == ("box", 3, "periodic")
    assert (coarse.input, channels_of(coarse)) == ("ising.h5", ("spin",))
    np.testing.assert_array_equal(coarse["chain"], np.arange(30) % 4)
    # another basis on request: kernels that do not wrap around
    cut, wrapped = (
        sk.coarse_grain(fields, factor=2, kernel="bicubic", basis=basis)
        for basis in ("cosine", "periodic")
    )
    assert (cut.basis, wrapped.basis) == ("cosine", "periodic")
    assert not np.allclose(cut[:, 0], wrapped[:, 0])
    np.testing.assert_allclose(cut[:, 2:-2, 2:-2], wrapped[:, 2:-2, 2:-2], atol=1e-6)


def test_factors_that_do_not_fit(lattices, tmp_path):
    for factor in (5, 0.5, 13, 0, -2, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"`factor` must divide 12 x 12 fields"):
            sk.coarse_grain(lattices, factor=factor, out=tmp_path / "x.h5")
    for factor in (0.9, 0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="`factor` must be at least 1"):
            sk.interpolate(lattices, factor=factor, out=tmp_path / "x.h5")
    assert not (tmp_path / "x.h5").exists()


def test_results_do_not_depend_on_batches(lattices, monkeypatch):
    made = [sk.coarse_grain(lattices, factor=2, kernel="spectral")]
    monkeypatch.setattr("skild_physics.fields.lazy.BATCH_VALUES", 500)
    made.append(sk.coarse_grain(lattices, factor=2, kernel="spectral"))
    np.testing.assert_allclose(*made, atol=1e-6)


def test_one_unusable_picture_is_an_error(photos, tmp_path):
    """Left out, later fields would be taken for others."""
    (photos / "4.png").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"4\.png: not a picture"):
        sk.coarse_grain(photos, factor=2, size=12, out=tmp_path / "x.h5")
    assert not (tmp_path / "x.h5").exists()
    assert len(sk.coarse_grain(photos, factor=2, size=12, samples=4)) == 4


# not that of getrusage, which remembers the process from which this one was forked
MEASURED = """
import re, sys
import skild_physics as sk
from skild_physics.fields.resampling import coarse_grain
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
# everything is imported and used once
coarse_grain(sk.open(sys.argv[1])[:64], factor=2, out=sys.argv[2])
before = peak()
made = coarse_grain(sys.argv[1], factor=2, out=sys.argv[2], overwrite=True)
print(len(made), made.shape[-1], peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_fields(tmp_path):
    """A hundred thousand fields of 16 x 16, 205 MB, mapped pages included."""
    stack = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float64, (100_000, 16, 16))
    ends = stack[[0, -1]] = np.random.default_rng(0).normal(size=(2, 16, 16))
    del stack
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path / "a.npy", tmp_path / "a.h5"],
        capture_output=True,
        text=True,
        check=True,
    )
    n, side, kilobytes = map(int, done.stdout.split())
    assert (n, side) == (100_000, 8)
    assert kilobytes < 100_000
    with sk.open(tmp_path / "a.h5") as coarse:
        expected = ends.reshape(2, 8, 2, 8, 2).mean((2, 4))
        np.testing.assert_allclose(everything(coarse[[0, -1]])[:, 0], expected, atol=1e-6)
