"""A spectrum in one call and by its command, and how it shows itself."""

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from field_files import noise, some_spins, write_ensemble
from PIL import Image
from scipy.fft import dctn

import skild_physics as sk
from skild_physics.cli.main import cli
from skild_physics.files import InputError
from skild_physics.spectrum import measure_blocks, spectrum_from_blocks
from skild_physics.tables import with_error


@pytest.fixture
def lattices(tmp_path):
    sk.generate_ising(12, samples=60, seed=1, updates=3, out=tmp_path / "ising.h5").close()
    return tmp_path / "ising.h5"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(12):
        Image.fromarray(noise(20, 30, 3, seed=i)).save(folder / f"{i:02}.png")
    (folder / "05.png").write_bytes(b"junk")
    return folder


def command(*arguments):
    return CliRunner().invoke(cli, ["fit-spectrum", *[str(each) for each in arguments]])


OPTIONS = [
    {},
    {"k_min": 5.0, "k_max": 40.0, "momentum": "lattice", "k0_squared": 0.0},
    {"method": "paper", "basis": "cosine", "normalization": "isotropic"},
    {"method": "paper", "statistic": "magnitude"},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["lattices", "photos"])
def test_the_call_is_the_command(request, tmp_path, options, kind):
    source = request.getfixturevalue(kind)
    of_pictures = {"size": 8, "tile": True, "grey": True} if kind == "photos" else {}
    found = sk.fit_spectrum(source, **options, **of_pictures, out=tmp_path / "ours.nc")
    words = [f"--{k.replace('_', '-')}={v}" for k, v in options.items()]
    words += [f"--{k}" if v is True else f"--{k}={v}" for k, v in of_pictures.items()]
    done = command(source, *words, "--out", tmp_path / "theirs.nc")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == f"{tmp_path}/theirs.nc"
    ours, theirs = (
        xr.load_dataset(tmp_path / f"{name}.nc", engine="h5netcdf") for name in ("ours", "theirs")
    )
    xr.testing.assert_identical(ours, theirs)
    assert found.to_dataset().equals(ours)
    assert sk.Spectrum.load(tmp_path / "ours.nc").to_dataset().identical(found.to_dataset())


def test_what_is_in_memory_is_fitted_as_what_is_in_a_file(lattices):
    direct = sk.fit_spectrum(lattices)
    with sk.open(lattices) as lazy:
        loaded = lazy.load()
    for fields in (sk.open(lattices), loaded):
        assert sk.fit_spectrum(fields).to_dataset().identical(direct.to_dataset())
    assert (direct.basis, direct.channels, direct.source) == ("periodic", ("spin",), "ising.h5")
    # what is opened by who calls is not closed
    opened = sk.open(lattices)
    sk.fit_spectrum(opened[:40])
    assert opened[50].values.shape == (12, 12)
    # two values are spins, and these live on a torus
    bare = sk.fit_spectrum(loaded.values)
    assert (bare.basis, bare.fit.law) == ("periodic", direct.fit.law)
    assert sk.fit_spectrum(loaded.values, boundary="open").basis == "cosine"
    tensor = pytest.importorskip("torch").from_numpy(loaded.values)
    assert sk.fit_spectrum(tensor, basis="periodic").fit.law == direct.fit.law


def test_a_spectrum_shows_itself(lattices):
    spectrum = sk.fit_spectrum(lattices, k_min=6, k_max=40)
    shown = repr(spectrum)
    assert shown.split("\n")[0].strip() == "ising.h5"
    assert "S0(k) = C (k^2 + k0^2)^(-alpha)" in shown
    C, _, alpha = spectrum.law_stderr
    assert with_error(spectrum.fit.law.alpha, alpha) in shown
    assert with_error(spectrum.fit.law.C, C) in shown
    assert "likelihood fit of 60 fields, periodic basis" in shown
    assert "errors: delete-one jackknife over 32 blocks" in shown
    assert shown.endswith("the law is consistent with the spectrum in this range")
    assert "goodness of fit: chi-square" in shown
    assert all(len(line) < 300 for line in shown.splitlines())
    assert "<pre" in spectrum._repr_html_()
    few = repr(sk.fit_spectrum(sk.open(lattices)[:7]))
    assert "errors: none, from 7 blocks of fields: fewer than 8" in few
    (row,) = [line for line in few.splitlines() if "alpha" in line and "│" in line]
    assert "(" not in row
    held = sk.fit_spectrum(lattices, k0_squared=3.0, k_min=6)
    (row,) = [line for line in repr(held).splitlines() if "k0^2  " in line]
    assert "3 " in row
    assert "(" not in row.split("│")[2]


def test_a_spectrum_of_magnitudes_is_theirs_and_says_so(lattices, tmp_path):
    """E[F^2] - E[|F|]^2 by plain SciPy, in the normalisation and basis of the paper."""
    found = sk.fit_spectrum(lattices, statistic="magnitude", basis="cosine", out=tmp_path / "m.nc")
    with sk.open(lattices) as fields:
        F = dctn(fields.values.astype(float), type=2, axes=(1, 2)) / 12**2
    theirs = (F**2).mean(axis=0) - np.abs(F).mean(axis=0) ** 2
    np.testing.assert_allclose(found.variance[0], theirs * 60 / 59, rtol=1e-9)
    assert sk.Spectrum.load(tmp_path / "m.nc").statistic == found.statistic == "magnitude"
    assert "variance of the magnitude of each mode" in repr(found)
    assert "magnitude" not in repr(sk.fit_spectrum(lattices))
    # another statistic is another result
    with pytest.raises(InputError, match=r"m\.nc: exists already"):
        sk.fit_spectrum(lattices, basis="cosine", out=tmp_path / "m.nc")
    sk.fit_spectrum(lattices, statistic="magnitude", basis="cosine", out=tmp_path / "m.nc")
    with pytest.raises(InputError, match="`statistic` is for fields"):
        sk.fit_spectrum(found.variance, variance_map=True, statistic="magnitude")


def test_unusable_pictures_are_named_or_stop_it(photos, caplog):
    caplog.set_level("INFO", "skild_physics")
    found = sk.fit_spectrum(photos, size=8)
    assert found.n_samples == 11
    assert "skipped 05.png: not a picture" in caplog.text
    assert "1 of 12 files skipped" in caplog.text
    with pytest.raises(InputError, match=r"05\.png: not a picture"):
        sk.fit_spectrum(photos, size=8, strict=True)
    done = command(photos, "--size", 8, "--strict", "--out", photos.parent / "x.nc")
    assert done.exit_code != 0
    assert not (photos.parent / "x.nc").exists()


def test_patches_of_a_picture_stay_in_one_block(photos):
    """As if each picture were one sample."""
    blocks = measure_blocks(sk.open(photos, size=4, tile=True), skipped={})
    assert [block.count for block in blocks] == [35] * 11
    assert spectrum_from_blocks(blocks, "cosine").n_blocks == 11


def test_variance_maps_are_declared(tmp_path, lattices):
    measured = sk.fit_spectrum(lattices)
    np.save(tmp_path / "map.npy", measured.variance)
    how = {"variance_map": True, "basis": "periodic"}
    for source, name in ((tmp_path / "map.npy", "map.npy"), (measured.variance[0], "variance map")):
        found = sk.fit_spectrum(source, n_samples=60, **how)
        assert found.fit.law == measured.fit.law
        assert (found.source, found.n_samples, found.n_blocks) == (name, 60, 0)
        assert "n_samples, the number of fields" in repr(sk.fit_spectrum(source, **how))
    for option in ({"size": 4}, {"strict": True}, {"normalization": "paper"}, {"grey": True}):
        with pytest.raises(InputError, match=f"`{next(iter(option))}` is for fields"):
            sk.fit_spectrum(tmp_path / "map.npy", variance_map=True, **option)
    with pytest.raises(InputError, match="`n_samples` goes with `variance_map`"):
        sk.fit_spectrum(lattices, n_samples=5)


def test_few_fields_are_no_variance_map(tmp_path, caplog):
    """Four fields of amplitude k^-alpha have the spectrum k^(-2 alpha)."""
    q = np.fft.fftfreq(32) * 32
    k = np.hypot(q[:, None], q)
    k[0, 0] = 1
    noise = np.random.default_rng(5).standard_normal((4, 32, 32))
    fields = np.fft.ifft2(np.fft.fft2(noise) * k**-1.5).real
    np.save(tmp_path / "four.npy", fields)
    for source in (fields, tmp_path / "four.npy"):
        found = sk.fit_spectrum(source, basis="periodic", k_min=6, k_max=60)
        assert found.n_samples == 4
        # of some 400 modes and 3 degrees of freedom each
        assert found.fit.law.alpha == pytest.approx(1.5, abs=0.25)
        assert "taken for 4 fields; a variance map is declared as one" in caplog.text
        caplog.clear()
    sk.fit_spectrum(np.concatenate([fields, fields]), basis="periodic")
    assert not caplog.text


def test_nothing_is_overwritten_unasked(lattices, tmp_path):
    out = tmp_path / "s.nc"
    sk.fit_spectrum(lattices, out=out)
    before = out.read_bytes()
    with pytest.raises(InputError, match="`overwrite=True`"):
        sk.fit_spectrum(lattices, out=out, k_max=60)
    assert out.read_bytes() == before
    assert sk.fit_spectrum(lattices, out=out, overwrite=True, k_min=6).fit_range[0] > 6


def test_progress_counts_fields(tmp_path):
    write_ensemble(tmp_path / "e.h5", some_spins(50, 8))
    seen = []

    class Progress:
        def __init__(self, title, total):
            seen.append((title, total))

        def __enter__(self):
            return lambda done, note="": seen.append(done)

        def __exit__(self, *error):
            pass

    sk.fit_spectrum(tmp_path / "e.h5", progress=Progress)
    assert seen[0] == ("measure e.h5", 50)
    assert seen[1:] == sorted(seen[1:])
    assert seen[-1] == 50
