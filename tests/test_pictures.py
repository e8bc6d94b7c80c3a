"""Photographs, files of pictures, and results that are made in parts."""

import contextlib
import io
import json
import sys
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from skild_physics.baselines.interpolation import interpolate
from skild_physics.fields import field_file, open_pictures, open_source, photographs
from skild_physics.fields.images import picture_size
from skild_physics.fields.lattice import save_pictures
from skild_physics.fields.photographs import photograph_files
from skild_physics.fields.writing import (
    check_fields_output,
    pixels,
    write_fields,
    write_npy,
    write_npz,
    write_png,
)
from skild_physics.parts import discard_parts, make_parts, parts_folder, read_parts
from skild_physics.training.distributed import World


def everything(stream):
    return np.concatenate(list(stream.read(0, stream.count)))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def unit(values):
    return values.astype(np.float32) / np.float32(127.5) - np.float32(1)


# photographs


def test_photographs_to_test_on_are_tiled():
    cat = np.asarray(Image.open(photograph_files("test")[0]))
    stream = open_source("photographs-test")
    assert (stream.size, stream.count, stream.channels) == (64, 2, ("red", "green", "blue"))
    tiles = np.concatenate(list(stream.read(0, 1)))
    assert tiles.shape == (28, 3, 64, 64)
    # a centred grid of 4 x 7 tiles in 300 x 451 pixels
    expected = cat[22 + 64 : 22 + 128, 1 + 64 : 1 + 128].transpose(2, 0, 1)
    np.testing.assert_array_equal(tiles[8], unit(expected))


def test_photographs_to_train_on_overlap_at_two_scales():
    stream = photographs(48)
    astronaut = np.concatenate(list(stream.read(0, 1)))
    full, half = ((512 - 48) // 12 + 1) ** 2, ((256 - 48) // 12 + 1) ** 2
    assert len(astronaut) == full + half
    np.testing.assert_array_equal(astronaut[1][..., :36], astronaut[0][..., 12:])
    # of 512 pixels, offsets 4 and 2: the first half-size patch shows the same corner
    shown = ((astronaut[0] + 1) * 127.5).reshape(3, 24, 2, 24, 2).mean((2, 4))
    np.testing.assert_allclose((astronaut[full, :, :24, :24] + 1) * 127.5, shown, atol=1.01)


def test_photographs_share_no_picture():
    assert not set(photograph_files("train")) & set(photograph_files("test"))


def test_photographs_that_are_not_installed_are_named(monkeypatch):
    module = sys.modules["skild_physics.fields.photographs"]
    monkeypatch.setattr(module, "find_spec", lambda package: None)
    with pytest.raises(ValueError, match=r"pip install 'skild_physics\[photographs\]'"):
        photographs()


@pytest.mark.parametrize(("size", "message"), [(3, "at least 4"), (301, "at most 300")])
def test_sizes_of_patches(size, message):
    with pytest.raises(ValueError, match=message):
        photographs(size, "test")


# folders of pictures of one size


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder


def test_pictures_of_one_size_are_taken_whole(folder):
    for i in range(3):
        Image.fromarray(noise(20, 20, 3, seed=i)).save(folder / f"{i}.png")
    (folder / "3.png").write_bytes((folder / "1.png").read_bytes()[:100])
    stream = open_pictures(folder)
    assert stream.size == 20
    expected = noise(20, 20, 3, seed=2).transpose(2, 0, 1)
    np.testing.assert_array_equal(everything(stream)[2], unit(expected))
    assert list(stream.skipped) == ["3.png"]


@pytest.mark.parametrize("shape", [(20, 24), (24, 24)])
def test_pictures_of_several_sizes_want_a_size(folder, shape):
    Image.fromarray(noise(20, 20, 3)).save(folder / "a.png")
    Image.fromarray(noise(*shape, 3)).save(folder / "b.png")
    other = rf"a.png: 20 x 20, b.png: {shape[1]} x {shape[0]}.*size=N"
    with pytest.raises(ValueError, match=other):
        open_pictures(folder)
    assert everything(open_pictures(folder, 16)).shape == (2, 3, 16, 16)


def test_a_folder_without_a_readable_picture(folder):
    (folder / "a.png").write_bytes(b"junk")
    with pytest.raises(ValueError, match="no readable pictures"):
        picture_size(folder)


def test_grey_cmyk_palette_and_transparent_pictures_become_colours(folder):
    picture = Image.fromarray(noise(16, 16, 3))
    for mode in ("L", "CMYK", "P", "RGBA", "LA", "1", "I;16"):
        image = picture.convert(mode.replace("I;16", "I"))
        if mode == "I;16":
            image = Image.fromarray(noise(16, 16).astype(np.uint16) * 257)
        image.save(folder / f"{mode.replace(';', '')}.{'tif' if mode == 'CMYK' else 'png'}")
    stream = open_pictures(folder)
    fields = everything(stream)
    assert not stream.skipped
    assert fields.shape == (7, 3, 16, 16)
    grey = everything(open_pictures(folder, grey=True))
    assert grey.shape == (7, 1, 16, 16)
    np.testing.assert_array_equal(fields[2], np.repeat(fields[2][:1], 3, axis=0))


# files


def test_png_and_npz_and_npy_hold_the_same(tmp_path):
    made = {"protocol": "test"}
    for channels in (1, 3):
        fields = np.random.default_rng(0).uniform(-1.2, 1.2, (5, channels, 8, 8)).astype(np.float32)
        bytes_ = pixels(fields)
        np.testing.assert_array_equal(bytes_, np.clip(np.round((fields + 1) / 2 * 255), 0, 255))
        write_png(tmp_path / "png", [bytes_[:2], bytes_[2:]], made)
        write_npz(tmp_path / "a.npz", [bytes_[:2], bytes_[2:]], bytes_.shape, made)
        write_npy(tmp_path / "a.npy", [fields[:4], fields[4:]], fields.shape)
        with np.load(tmp_path / "a.npz") as archive:
            assert archive.files == ["arr_0", "provenance"]
            np.testing.assert_array_equal(archive["arr_0"], bytes_.transpose(0, 2, 3, 1))
            assert json.loads(str(archive["provenance"])) == made
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), fields)
        assert json.loads((tmp_path / "png" / "provenance.json").read_text()) == made
        read = [
            everything(open_pictures(tmp_path / "png", grey=channels == 1)),
            everything(open_source(tmp_path / "a.npz")),
        ]
        for found in read:
            np.testing.assert_array_equal(found, unit(bytes_))


@pytest.mark.parametrize("name", ["f.h5", "f.npz", "f"])
def test_fields_are_written_as_their_suffix_says(tmp_path, name):
    fields = np.random.default_rng(0).uniform(-1, 1, (4, 3, 8, 8)).astype(np.float32)
    made = {"basis": "cosine", "channels": "red,green,blue"}
    write_fields(tmp_path / name, fields, made)
    stream = open_pictures(tmp_path / name)
    assert (stream.basis, stream.count, stream.size) == ("cosine", 4, 8)
    exact = name == "f.h5"
    np.testing.assert_allclose(everything(stream), fields, atol=0 if exact else 1 / 255 + 1e-6)
    if exact:
        assert stream.channels == ("red", "green", "blue")


def test_a_folder_of_other_files_is_never_replaced(folder):
    (folder / "thesis.tex").touch()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="holds other files"):
            check_fields_output(folder, overwrite)
    (folder / "thesis.tex").unlink()
    assert check_fields_output(folder, False) == "png"
    write_png(folder, [noise(2, 1, 8, 8)], {})
    with pytest.raises(ValueError, match="pass `overwrite=True`"):
        check_fields_output(folder, False)
    assert check_fields_output(folder, True) == "png"
    write_png(folder, [noise(1, 1, 8, 8)], {})
    assert sorted(path.name for path in folder.iterdir()) == ["000000.png", "provenance.json"]


def test_a_damaged_npz_is_named(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, [noise(4, 3, 8, 8)], (4, 3, 8, 8), {})
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match=r"a.npz: not a readable .npz file"):
        open_source(path)


def test_an_npz_of_objects_is_not_unpickled(tmp_path):
    stored = io.BytesIO()
    np.save(stored, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0.npy", stored.getvalue())
    with pytest.raises(ValueError, match="allow_pickle"):
        open_source(tmp_path / "a.npz")


def test_prepared_pictures_are_read_back(tmp_path):
    bytes_ = noise(7, 3, 8, 8)
    count = save_pictures(
        tmp_path / "p.h5", [bytes_[:3], bytes_[:0], bytes_[3:]], ("red", "green", "blue"), 8, {}, {}
    )
    assert count == 7
    with field_file(tmp_path / "p.h5") as stream:
        assert (stream.basis, stream.channels) == ("cosine", ("red", "green", "blue"))
        np.testing.assert_array_equal(everything(stream), unit(bytes_))
        np.testing.assert_array_equal(np.concatenate(list(stream.read(4, 6))), unit(bytes_[4:6]))
    with pytest.raises(ValueError, match="no picture can be used, of 2"):
        save_pictures(tmp_path / "q.h5", [bytes_[:0]], ("grey",), 8, {}, {"a": "x", "b": "x"})
    assert not (tmp_path / "q.h5").exists()


# interpolation


@pytest.mark.parametrize("size", [12, 20, 37])
def test_bicubic_interpolation_is_that_of_torch(size):
    coarse = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    # with antialias torch takes Keys' a = -1/2, as Pillow does
    other = F.interpolate(torch.from_numpy(coarse), (size, size), mode="bicubic", antialias=True)
    np.testing.assert_allclose(interpolate(coarse, size, "bicubic"), other.numpy(), atol=1e-5)


@pytest.mark.parametrize("kernel", ["bicubic", "lanczos"])
def test_interpolation_keeps_constants_and_nearly_keeps_ramps(kernel):
    ramp = np.linspace(-1, 1, 24, dtype=np.float32)[None, None, None, :].repeat(24, axis=2)
    fine = interpolate(ramp, 96, kernel)
    expected = np.interp((np.arange(96) + 0.5) / 4 - 0.5, np.arange(24), ramp[0, 0, 0])
    np.testing.assert_allclose(fine[0, 0, 48, 16:-16], expected[16:-16], atol=0.01)
    np.testing.assert_allclose(interpolate(ramp * 0 + 0.3, 31, kernel), 0.3, atol=1e-6)
    with pytest.raises(ValueError, match="size must be at least 24"):
        interpolate(ramp, 23, kernel)


# parts

ALONE = World(0, 1, torch.device("cpu"))
SETTINGS = {"seed": 1}


def squares(first, last):
    return {"a": np.arange(first, last) ** 2, "b": np.ones((last - first, 2))}


class StoppedError(Exception):
    pass


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 6)), max_size=3),
    st.integers(1, 9),
)
def test_interrupted_parts_go_on_with_any_batch(tmp_path_factory, count, attempts, last_batch):
    out = tmp_path_factory.mktemp("parts") / "made.h5"
    made, left = [], [0]

    def make(first, last):
        if left[0] == 0:
            raise StoppedError
        left[0] -= 1
        made.extend(range(first, last))
        return squares(first, last)

    for batch, parts in [*attempts, (last_batch, count)]:
        left[0] = parts
        with contextlib.suppress(StoppedError):
            make_parts(out, SETTINGS, count, batch, make, ALONE, id)
    np.testing.assert_array_equal(np.concatenate(list(read_parts(out, "a"))), np.arange(count) ** 2)
    # nothing is made twice
    assert sorted(made) == list(range(count))
    discard_parts(out)
    assert not parts_folder(out).exists()


def test_parts_of_other_settings_are_refused(tmp_path):
    out = tmp_path / "made.h5"
    make_parts(out, SETTINGS, 4, 2, squares, ALONE, id)
    with pytest.raises(ValueError, match="interrupted run with other settings"):
        make_parts(out, {"seed": 2}, 4, 2, squares, ALONE, id)
    make_parts(out, SETTINGS, 4, 2, squares, ALONE, id)
    make_parts(out, {"seed": 2}, 6, 4, squares, ALONE, id, overwrite=True)
    assert sum(map(len, read_parts(out, "a"))) == 6
    assert json.loads((parts_folder(out) / "settings.json").read_text()) == {"seed": 2}


def test_progress_of_parts_counts_what_was_there(tmp_path):
    out, seen = tmp_path / "made.h5", []
    make_parts(out, SETTINGS, 4, 2, squares, ALONE, seen.append)
    assert seen == [2, 4]
    for path in sorted(parts_folder(out).glob("*.npz"))[1:]:
        path.unlink()
    seen.clear()
    make_parts(out, SETTINGS, 4, 1, squares, ALONE, seen.append)
    assert seen == [3, 4]
