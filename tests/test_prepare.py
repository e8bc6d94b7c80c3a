"""Pictures decoded once, into one file."""

import json

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from field_files import noise, some_spins, unit, usable, write_ensemble
from PIL import Image

import skild_physics as sk
from skild_physics.cli.main import cli
from skild_physics.fields import open_fields, pictures_of
from skild_physics.files import InputError


@pytest.fixture
def mixed(tmp_path):
    """Pictures of several sizes, one of which is damaged and one too small."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for i in range(9):
        Image.fromarray(noise(20 + i, 30, 3, seed=i)).save(folder / f"{i}.png")
    Image.fromarray(noise(7, 30, 3)).save(folder / "3.png")
    (folder / "5.png").write_bytes((folder / "4.png").read_bytes()[:300])
    return folder


@pytest.mark.parametrize(
    "options",
    [{}, {"resize": True}, {"tile": True}, {"grey": True}, {"resize": True, "grey": True}],
)
def test_what_is_prepared_is_what_a_folder_gives(mixed, tmp_path, options, monkeypatch, caplog):
    caplog.set_level("INFO", "skild_physics")
    monkeypatch.setattr("skild_physics.fields.prepare.SHARD", 2)
    out = tmp_path / "p.h5"
    expected, skipped = usable(open_fields(mixed, size=8, **options))
    with sk.prepare_images(mixed, out=out, size=8, **options) as fields:
        assert fields.source == "p.h5"
        found = fields.values.reshape(expected.shape)
        np.testing.assert_array_equal(found, expected)
        assert fields.attrs["items"] == 9
        assert json.loads(fields.attrs["skipped"]) == skipped
    assert sorted(skipped) == ["3.png", "5.png"]
    assert "skipped 3.png: 30 x 7 pixels, smaller than 8 x 8" in caplog.text
    assert "2 of 9 files skipped" in caplog.text
    words = [f"--{name}" for name in options]
    arguments = ["prepare-images", str(mixed), "--size", "8", *words, "--out", f"{tmp_path}/c.h5"]
    done = CliRunner().invoke(cli, arguments)
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path}/c.h5\n")
    ours, theirs = (xr.load_dataset(f, engine="h5netcdf") for f in (out, tmp_path / "c.h5"))
    xr.testing.assert_identical(ours, theirs)
    assert not list(tmp_path.glob(".*"))


def test_strict_stops_at_the_first_unusable_picture(mixed, tmp_path):
    with pytest.raises(InputError, match=r"3\.png: 30 x 7 pixels"):
        sk.prepare_images(mixed, out=tmp_path / "p.h5", size=8, strict=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mixed"]


def test_nothing_is_overwritten_unasked(mixed, tmp_path):
    out = tmp_path / "p.h5"
    sk.prepare_images(mixed, out=out, size=8).close()
    with pytest.raises(InputError, match="`overwrite=True`"):
        sk.prepare_images(mixed, out=out, size=6)
    with sk.prepare_images(mixed, out=out, size=6, overwrite=True) as fields:
        assert fields.shape == (8, 3, 6, 6)


def test_interrupted_it_goes_on(mixed, tmp_path, monkeypatch):
    monkeypatch.setattr("skild_physics.fields.prepare.SHARD", 2)
    out, decoded = tmp_path / "p.h5", []
    original = Image.open

    def note(path, **options):
        decoded.append(path.name)
        if decoded[0] == "0.png" and path.name == "6.png":
            raise KeyboardInterrupt
        return original(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", note)
        with pytest.raises(KeyboardInterrupt):
            sk.prepare_images(mixed, out=out, size=8)
    kept = sorted(path.name for path in (tmp_path / ".p.h5.skild-physics").glob("*.npz"))
    assert kept[0] == "000000000-000000002.npz"
    with pytest.raises(InputError, match="interrupted run with other settings"):
        sk.prepare_images(mixed, out=out, size=9)
    decoded.clear()
    monkeypatch.setattr(Image, "open", note)
    with sk.prepare_images(mixed, out=out, size=8) as fields:
        assert not {"0.png", "1.png"} & set(decoded)
        np.testing.assert_array_equal(fields, usable(open_fields(mixed, size=8))[0])
    assert not list(tmp_path.glob(".*"))


def test_pictures_of_one_size_need_none(tmp_path):
    (tmp_path / "squares").mkdir()
    for i in range(3):
        Image.fromarray(noise(8, 8, 3, seed=i)).save(tmp_path / "squares" / f"{i}.png")
    with sk.prepare_images(tmp_path / "squares", out=tmp_path / "p.h5") as fields:
        assert fields.shape == (3, 3, 8, 8)
        expected = noise(8, 8, 3, seed=1).transpose(2, 0, 1)
        np.testing.assert_array_equal(fields[1], unit(expected))


def test_no_usable_picture(mixed, tmp_path):
    message = r"no picture can be used, of 9; the first is 0\.png: 30 x 20 pixels, smaller than 64"
    with pytest.raises(InputError, match=message):
        sk.prepare_images(mixed, out=tmp_path / "p.h5", size=64)
    assert [path.name for path in tmp_path.iterdir()] == ["mixed"]
    # one is put right
    Image.fromarray(noise(64, 64, 3)).save(mixed / "4.png")
    assert len(sk.prepare_images(mixed, out=tmp_path / "p.h5", size=64)) == 1


def test_photographs_can_be_prepared(tmp_path):
    with sk.prepare_images("photographs-test", out=tmp_path / "p.h5", size=48) as fields:
        direct = open_fields("photographs-test", size=48)
        np.testing.assert_array_equal(fields, direct)
        assert fields.attrs["items"] == 2
    assert len(np.unique(pictures_of(direct))) == 2


def test_what_is_no_folder_is_refused(tmp_path):
    """Bytes would round fields, and forget that they are periodic."""
    write_ensemble(tmp_path / "e.h5", some_spins(4, 8))
    np.save(tmp_path / "a.npy", np.ones((4, 8, 8)))
    for name in ("e.h5", "a.npy"):
        with pytest.raises(InputError, match=f"{name}: holds fields.*folders of pictures"):
            sk.prepare_images(tmp_path / name, out=tmp_path / "p.h5")
    with pytest.raises(InputError, match="no such file or folder"):
        sk.prepare_images(tmp_path / "missing", out=tmp_path / "p.h5")
    assert not (tmp_path / "p.h5").exists()
