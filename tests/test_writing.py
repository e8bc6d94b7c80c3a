"""Fields out: HDF5, folders of pictures, archives."""

import json

import numpy as np
import pytest
from field_files import everything, noise, some_spins, unit, write_ensemble

import skild_physics as sk
from skild_physics.fields import basis_of, channels_of, open_fields
from skild_physics.fields.clipping import pixels
from skild_physics.fields.writing import (
    check_fields_output,
    write_fields,
    write_npy,
    write_npz,
    write_png,
)
from skild_physics.files import InputError


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder


def test_png_and_npz_and_npy_hold_the_same(tmp_path):
    made = {"protocol": "test"}
    for channels in (1, 3):
        fields = np.random.default_rng(0).uniform(-1.2, 1.2, (5, channels, 8, 8)).astype(np.float32)
        bytes_ = pixels(fields)
        np.testing.assert_array_equal(bytes_, np.clip(np.round((fields + 1) / 2 * 255), 0, 255))
        write_png(tmp_path / "png", [bytes_[:2], bytes_[2:]], 5, made)
        write_npz(tmp_path / "a.npz", [bytes_[:2], bytes_[2:]], 5, made)
        write_npy(tmp_path / "a.npy", [fields[:4], fields[4:]], 5)
        with np.load(tmp_path / "a.npz") as archive:
            assert archive.files == ["arr_0", "provenance"]
            np.testing.assert_array_equal(archive["arr_0"], bytes_.transpose(0, 2, 3, 1))
            assert json.loads(str(archive["provenance"])) == made
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), fields)
        assert json.loads((tmp_path / "png" / "provenance.json").read_text()) == made
        read = [
            everything(open_fields(tmp_path / "png", grey=channels == 1)),
            everything(open_fields(tmp_path / "a.npz")),
        ]
        for found in read:
            np.testing.assert_array_equal(found, unit(bytes_))


@pytest.mark.parametrize("name", ["f.h5", "f.npz", "f"])
def test_fields_are_written_as_their_suffix_says(tmp_path, name):
    fields = np.random.default_rng(0).uniform(-1, 1, (4, 3, 8, 8)).astype(np.float32)
    made = {"basis": "cosine", "channels": "red,green,blue"}
    parts = [{"field": fields[:3]}, {"field": fields[3:]}]
    written = write_fields(tmp_path / name, parts, 4, made)
    exact = name == "f.h5"
    for opened in (written, open_fields(tmp_path / name)):
        assert (basis_of(opened), opened.shape) == ("cosine", (4, 3, 8, 8))
        np.testing.assert_allclose(everything(opened), fields, atol=0 if exact else 1 / 255 + 1e-6)
        if exact:
            assert channels_of(opened) == ("red", "green", "blue")


def test_a_folder_of_other_files_is_never_replaced(folder):
    (folder / "thesis.tex").touch()
    for overwrite in (False, True):
        with pytest.raises(InputError, match="holds other files"):
            sk.save(noise(1, 8, 8), folder, overwrite=overwrite)
    (folder / "thesis.tex").unlink()
    assert check_fields_output(folder) == "png"
    sk.save(np.zeros((2, 8, 8)), folder)
    with pytest.raises(InputError, match="pass `overwrite=True`"):
        sk.save(np.zeros((1, 8, 8)), folder)
    sk.save(np.zeros((1, 8, 8)), folder, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["000000.png", "provenance.json"]


@pytest.mark.parametrize("name", ["f.h5", "f.npz", "f"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_saved_is_read_back(tmp_path, name, channels):
    values = np.random.default_rng(0).uniform(-1, 1, (6, channels, 8, 8)).astype(np.float32)
    saved = sk.save(values, tmp_path / name)
    again = open_fields(tmp_path / name, grey=name == "f" and channels == 1)
    for fields in (saved, again):
        assert fields.dims == ("sample", *(["channel"] if channels > 1 else []), "y", "x")
        assert (fields.dtype, fields.source, len(fields)) == (np.float32, name, 6)
        expected = values if name == "f.h5" else unit(pixels(values))
        np.testing.assert_array_equal(everything(fields), expected)
    np.testing.assert_array_equal(sk.save(values, tmp_path / name), saved)
    with pytest.raises(InputError, match="`overwrite=True`"):
        sk.save(values[:3], tmp_path / name)
    assert len(sk.save(saved[:2].load(), tmp_path / name, overwrite=True)) == 2
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["f.h5", "f.npz", "f"])
def test_saved_fields_are_still_known(tmp_path, name):
    """Attributes of files are NumPy's numbers, and samples keep their own."""
    write_ensemble(tmp_path / "e.h5", some_spins(20, 8))
    fields = open_fields(tmp_path / "e.h5").assign_attrs(
        L=np.int64(8), beta=np.float64(0.44), seeds=np.arange(3), model="ising"
    )
    part = fields.assign_coords(chain=("sample", np.arange(20) % 4))[5:11:2]
    saved = sk.save(part, tmp_path / name)
    np.testing.assert_array_equal(saved, part)
    assert saved["sample"].values.tolist() == [5, 7, 9]
    assert saved["chain"].values.tolist() == [1, 3, 1]
    known = {"basis": "periodic", "L": 8, "beta": 0.44, "model": "ising"}
    assert {key: saved.attrs[key] for key in known} == known
    assert saved.source == name
    if name == "f":
        said = json.loads((tmp_path / name / "provenance.json").read_text())
        assert (said["L"], said["seeds"]) == (8, [0, 1, 2])


def test_pictures_have_one_or_three_channels(tmp_path):
    fields = np.zeros((3, 2, 8, 8), np.float32)
    with pytest.raises(InputError, match="one or three channels, not 2"):
        sk.save(fields, tmp_path / "two")
    assert not list(tmp_path.iterdir())
    for name in ("two.h5", "two.npz"):
        np.testing.assert_allclose(everything(sk.save(fields, tmp_path / name)), 0, atol=0.004)


def test_a_failure_leaves_the_old_result(tmp_path):
    def broken():
        yield {"field": np.zeros((2, 1, 8, 8), np.float32)}
        raise OSError("disk")

    for name in ("f.h5", "f.npz", "f"):
        sk.save(np.ones((3, 8, 8)), tmp_path / name).close()
        with pytest.raises(OSError, match="disk"):
            write_fields(tmp_path / name, broken(), 4, {})
        kept = open_fields(tmp_path / name, grey=name == "f")
        np.testing.assert_array_equal(kept, np.ones((3, 8, 8)))
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("name", ["f.h5", "f.npz", "f"])
def test_fields_of_a_file_are_saved_over_it(tmp_path, name):
    """The old file is whole until the new one is."""
    values = unit(noise(9, 3, 8, 8))
    fields = sk.save(values, tmp_path / name)
    saved = sk.save(fields[2:5], tmp_path / name, overwrite=True)
    np.testing.assert_array_equal(saved, values[2:5])
