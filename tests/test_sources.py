import hashlib
import io
import os
import pickle
import struct
import tarfile
import warnings
from itertools import chain
from typing import ClassVar

import numpy as np
import pytest
import requests
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skild_physics.fields import (
    array_stack,
    image_folder,
    is_variance_map,
    load_fields,
    load_variance_map,
    open_pictures,
    open_source,
    save_fields,
)
from skild_physics.fields import cifar10 as published
from skild_physics.fields.cifar10 import cifar10
from skild_physics.fields.lattice import ENSEMBLE_SCHEMA, SCHEMA_VERSION
from skild_physics.fields.stream import BATCH_VALUES
from skild_physics.files import InputError


def everything(stream):
    return np.concatenate(list(stream.read(0, stream.count)))


def unit(pixels):
    return (np.asarray(pixels) / 127.5 - 1).astype(np.float32)


def close(a, b):
    assert a.dtype == np.float32
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-7)


def one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


# CIFAR-10


class Python2Pickler(pickle._Pickler):
    """Strings and truth values as Python 2 wrote them, and NumPy under its name of that time."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, text):
        data = text if isinstance(text, bytes) else text.encode()
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(text)

    dispatch[bytes] = dispatch[str] = save_string
    dispatch[bool] = pickle._Pickler.save_long


def python2_pickle(value):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def pictures(seed, n=7):
    return np.random.default_rng(seed).integers(0, 256, (n, 3072), dtype=np.uint8)


# the order of the published archive is not that of the batches
TRAIN = {f"data_batch_{i}": pictures(i) for i in (4, 3, 2, 5, 1)}


@pytest.fixture
def write_archive(tmp_path, monkeypatch):
    def write(members):
        path = tmp_path / published.ARCHIVE
        with tarfile.open(path, "w:gz") as archive:
            for name, content in {"readme.html": b"<html>", **members}.items():
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(published, "SHA256", digest)
        return path

    return write


def batch(data):
    n = len(data)
    return python2_pickle(
        {b"batch_label": b"a batch", b"labels": [3] * n, b"data": data, b"filenames": [b"x"] * n}
    )


@pytest.fixture
def archive(write_archive):
    members = {name: batch(data) for name, data in TRAIN.items()}
    return write_archive({**members, "test_batch": batch(pictures(9))})


def test_python_2_pickles_look_like_the_published_ones():
    """The oracle itself: Python 2's opcodes, which plain unpickling of bytes understands."""
    data = batch(pictures(1))
    assert b"cnumpy.core.multiarray\n_reconstruct" in data
    assert b"_codecs" not in data
    assert b"U\x02u1" in data or b"T\x02\0\0\0u1" in data
    stored = pickle.loads(data, encoding="bytes")
    np.testing.assert_array_equal(stored[b"data"], pictures(1))


def test_cifar10_is_read_out_of_its_archive(archive, tmp_path):
    expected = np.concatenate([TRAIN[f"data_batch_{i}"] for i in range(1, 6)])
    with open_source("cifar10", data_dir=tmp_path) as stream:
        assert (stream.name, stream.size, stream.count) == ("cifar10", 32, 35)
        assert (stream.channels, stream.basis) == (("red", "green", "blue"), "cosine")
        close(everything(stream), unit(expected.reshape(-1, 3, 32, 32)))
        close(np.concatenate(list(stream.read(5, 20))), everything(stream)[5:20])
    close(everything(cifar10(tmp_path, "test")), unit(pictures(9).reshape(-1, 3, 32, 32)))
    assert sorted(os.listdir(tmp_path)) == [archive.name]


def test_cifar10_is_looked_for_in_the_cache(archive, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: archive.parent)
    assert open_source("cifar10").count == 35


class Malicious:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def refuse_to_run(command):
    raise AssertionError("a pickle ran a command")


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({b"data": Malicious()}, protocol=2),
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n.",
        pickle.dumps({b"data": pictures(1).tolist()}, protocol=2),
        batch(pictures(1).astype(float)),
        batch(pictures(1)[:, 1:]),
        batch(pictures(1))[:-100],
        b"",
    ],
)
def test_other_pickles_are_refused(write_archive, monkeypatch, content):
    monkeypatch.setattr(os, "system", refuse_to_run)
    monkeypatch.setattr("posix.system", refuse_to_run, raising=False)
    path = write_archive({name: batch(data) for name, data in TRAIN.items()})
    assert cifar10(path.parent).count == 35
    path = write_archive({name: content for name in TRAIN})
    with pytest.raises(ValueError, match="damaged") as error:
        cifar10(path.parent)
    one_line(error, path)


def test_archive_without_a_batch_is_refused(write_archive):
    path = write_archive({"data_batch_1": batch(pictures(1))})
    with pytest.raises(ValueError, match="data_batch_2") as error:
        cifar10(path.parent)
    one_line(error, path)


def test_truncated_and_foreign_archives_are_refused_and_kept(archive, monkeypatch):
    whole = archive.read_bytes()
    monkeypatch.setattr("pooch.retrieve", refuse_to_run)
    for content in (whole[: len(whole) // 2], b"<html>not found</html>", b""):
        archive.write_bytes(content)
        with pytest.raises(ValueError, match="delete it") as error:
            cifar10(archive.parent)
        one_line(error, archive, f"{len(content):,} bytes", "expected 170,498,071 bytes")
        assert archive.read_bytes() == content


def test_damage_behind_a_right_hash_is_named(archive, monkeypatch):
    content = archive.read_bytes()[:3000]
    archive.write_bytes(content)
    monkeypatch.setattr(published, "SHA256", hashlib.sha256(content).hexdigest())
    with pytest.raises(ValueError, match="damaged") as error:
        cifar10(archive.parent)
    one_line(error, archive)


def test_no_network_says_where_to_put_the_archive(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "URL", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(ValueError, match="cannot download") as error:
        cifar10(tmp_path)
    one_line(
        error,
        "http://127.0.0.1:9",
        "ConnectionError",
        tmp_path / "cifar-10-python.tar.gz",
        "data_dir",
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (requests.exceptions.HTTPError("404\nnot found"), "HTTPError"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError("hash\nmismatch"), "checksum"),
    ],
)
def test_failed_downloads_are_one_line(tmp_path, monkeypatch, failure, reason):
    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr("pooch.retrieve", fail)
    with pytest.raises(ValueError, match="cannot download") as error:
        cifar10(tmp_path)
    one_line(error, reason, tmp_path)


# folders of pictures


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "photos"
    path.mkdir()
    return path


def noise(height, width, *channels, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, *channels), dtype=np.uint8)


def test_crop_is_the_centre_at_native_resolution(folder):
    first, second = noise(21, 35, 3), noise(16, 16, 3, seed=1)
    (folder / "sub").mkdir()
    Image.fromarray(second).save(folder / "sub" / "b.bmp")
    Image.fromarray(first).save(folder / "A.PNG")
    Image.fromarray(first).save(folder / ".hidden.png")
    (folder / "notes.txt").write_text("not a picture")
    stream = open_source(folder, size=16)
    assert (stream.name, stream.size, stream.count) == ("photos", 16, 2)
    assert (stream.channels, stream.basis) == (("red", "green", "blue"), "cosine")
    expected = np.stack([first[2:18, 9:25], second]).transpose(0, 3, 1, 2)
    close(everything(stream), unit(expected))
    close(next(stream.read(1, 2)), unit(expected[1:]))
    assert stream.skipped == {}


def test_tiles_are_all_patches_of_a_centred_grid(folder):
    picture = noise(21, 34, 3)
    Image.fromarray(picture).save(folder / "a.png")
    stream = open_source(folder, size=8, tile=True)
    assert stream.count == 1
    expected = [
        picture[2 + 8 * i : 10 + 8 * i, 1 + 8 * j : 9 + 8 * j].transpose(2, 0, 1)
        for i in range(2)
        for j in range(4)
    ]
    close(everything(stream), unit(expected))


def test_tiles_that_fit_cover_every_pixel_once(folder):
    picture = np.arange(6 * 9, dtype=np.uint8).reshape(6, 9)
    Image.fromarray(picture).save(folder / "a.png")
    tiles = everything(open_source(folder, size=3, tile=True, grey=True))
    assert tiles.shape == (6, 1, 3, 3)
    close(np.sort(tiles, axis=None), unit(np.arange(54)))


def test_default_size_is_128(folder):
    Image.fromarray(noise(130, 140, 3)).save(folder / "a.png")
    assert everything(open_source(folder)).shape == (1, 3, 128, 128)


def test_resize_keeps_a_smooth_picture(folder):
    """A wave with a half period per shorter side still has one, to the rounding of each step."""
    y = (np.arange(120)[:, None] + 0.5) / 120
    x = (np.arange(160) + 0.5 - 20) / 120
    wave = 127.5 + 100 * np.cos(np.pi * y) * np.cos(np.pi * x)
    Image.fromarray(np.round(wave).astype(np.uint8)).save(folder / "a.png")
    (field,) = everything(open_source(folder, size=24, resize=True, grey=True))[:, 0]
    u = (np.arange(24) + 0.5) / 24
    expected = 100 / 127.5 * np.cos(np.pi * u)[:, None] * np.cos(np.pi * u)
    assert np.abs(field - expected).max() < 3.5 / 127.5


def test_resize_halves_with_boxes_while_it_can(folder):
    picture = noise(64, 64)
    Image.fromarray(picture).save(folder / "a.png")
    (field,) = everything(open_source(folder, size=16, resize=True, grey=True))[:, 0]
    boxes = picture.reshape(16, 4, 16, 4).mean((1, 3))
    assert np.abs(field - unit(boxes)).max() <= 2 / 127.5


def test_a_picture_of_the_right_size_is_not_resampled(folder):
    picture = noise(16, 16, 3)
    Image.fromarray(picture).save(folder / "a.png")
    close(
        everything(open_source(folder, size=16, resize=True))[0], unit(picture.transpose(2, 0, 1))
    )


def test_kinds_of_pictures(folder):
    grey, colour, alpha = noise(8, 8), noise(8, 8, 3), noise(8, 8, seed=2)
    Image.fromarray(grey).save(folder / "L.png")
    Image.fromarray(colour).save(folder / "RGB.tif")
    Image.fromarray(np.dstack([colour, alpha])).save(folder / "RGBA.png")
    Image.fromarray(np.dstack([grey, alpha])).save(folder / "LA.png")
    Image.fromarray(grey > 99).save(folder / "1.png")
    palette = Image.fromarray(grey // 64)
    palette.putpalette(colour.reshape(-1)[:12].tolist())
    palette.save(folder / "P.png", transparency=bytes([0, 9, 200, 255]))
    palette.save(folder / "P.gif", save_all=True, append_images=[Image.new("P", (8, 8))])
    threes = np.repeat(grey[..., None], 3, axis=2)
    expected = {
        "1.png": np.where(threes > 99, 255, 0),
        "L.png": threes,
        "LA.png": threes,
        "P.gif": colour.reshape(-1, 3)[grey // 64],
        "P.png": colour.reshape(-1, 3)[grey // 64],
        "RGB.tif": colour,
        "RGBA.png": colour,
    }
    expected = np.stack([expected[name] for name in sorted(expected)]).transpose(0, 3, 1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close(everything(image_folder(folder, 8)), unit(expected))
        luminance = everything(image_folder(folder, 8, grey=True))
    weights = np.array([0.299, 0.587, 0.114]).reshape(3, 1, 1)
    assert luminance.shape == (7, 1, 8, 8)
    assert np.abs(luminance[:, 0] - unit((expected * weights).sum(1))).max() < 1 / 127.5
    close(luminance[1, 0], unit(grey))


def test_cmyk_jpeg_becomes_its_colours(folder):
    cmyk = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    cmyk.save(folder / "a.jpg", quality=95)
    red, green, blue = everything(image_folder(folder, 8))[0].mean((1, 2))
    assert red < -0.97
    assert min(green, blue) > 0.97


def test_16_bits_are_scaled_not_clipped(folder):
    deep = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    Image.fromarray(deep).save(folder / "a.png")
    Image.fromarray(deep).save(folder / "b.tif")
    Image.fromarray((deep // 257).astype(np.uint8)).save(folder / "c.png")
    grey = everything(image_folder(folder, 8, grey=True))
    close(grey[:2, 0], np.stack([deep, deep]) / 32767.5 - 1)
    assert np.abs(grey[2] - grey[0]).max() < 2 / 255
    close(everything(image_folder(folder, 8))[0], np.stack([deep] * 3) / 32767.5 - 1)
    shrunk = everything(image_folder(folder, 4, resize=True, grey=True))
    close(shrunk[0, 0], deep.reshape(4, 2, 4, 2).mean((1, 3)) / 32767.5 - 1)
    sharp = np.kron([[0, 1], [1, 0]], np.full((6, 6), 65535)).astype(np.uint16)
    Image.fromarray(sharp).save(folder / "a.png")
    assert np.abs(everything(image_folder(folder, 7, resize=True))).max() <= 1


def test_exif_orientation_is_applied(folder):
    picture = Image.fromarray(np.kron(noise(2, 3), np.ones((8, 8), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "a.jpg", exif=exif, quality=95)
    (field,) = everything(image_folder(folder, 8, tile=True, grey=True)).reshape(1, 3, 2, 8, 8)
    upright = unit(np.rot90(noise(2, 3), -1))
    assert np.abs(field.mean((2, 3)) - upright).max() < 0.02


@pytest.fixture
def damaged(folder):
    """One good picture and one of each that cannot be used."""
    good = Image.fromarray(noise(32, 32, 3))
    good.save(folder / "good.png")
    good.save(folder / "truncated.jpg")
    whole = (folder / "truncated.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:1000])
    (folder / "text.png").write_text("hello")
    (folder / "empty.png").write_bytes(b"")
    (folder / "postscript.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n")
    good.resize((31, 40)).save(folder / "small.png")
    Image.fromarray(noise(32, 32).astype(np.float32)).save(folder / "float.tif")
    Image.fromarray(noise(32, 32).astype(np.int32)).save(folder / "long.tif")
    return folder


SKIPPED = {
    "cut.png": "truncated",
    "empty.png": "not a picture",
    "float.tif": "32-bit",
    "long.tif": "32-bit",
    "postscript.png": "not a picture",
    "small.png": "31 x 40 pixels, smaller than 32 x 32",
    "text.png": "not a picture",
    "truncated.jpg": "truncated",
}


@pytest.mark.parametrize("mode", [{}, {"tile": True}, {"resize": True}])
def test_unusable_pictures_are_named(damaged, mode):
    stream = open_source(damaged, size=32, **mode)
    assert stream.count == 9
    for _ in range(2):
        close(everything(stream)[0], unit(noise(32, 32, 3)).transpose(2, 0, 1))
        assert list(stream.skipped) == list(SKIPPED)
    for file, reason in SKIPPED.items():
        assert reason in stream.skipped[file]


def test_strict_stops_at_the_first_unusable_picture(damaged):
    with pytest.raises(ValueError, match="truncated") as error:
        everything(open_source(damaged, size=32, strict=True))
    one_line(error, damaged / "cut.png")


def test_all_pictures_unusable(damaged):
    (damaged / "good.png").unlink()
    stream = open_source(damaged, size=32)
    assert list(stream.read(0, 4)) == []
    with pytest.raises(ValueError, match="all 8 pictures") as error:
        list(stream.read(4, 8))
    one_line(error, damaged, "cut.png", "truncated")


def test_bombs_are_skipped_without_a_warning(folder, monkeypatch):
    Image.fromarray(noise(8, 8)).save(folder / "a.png")
    Image.new("1", (40, 30)).save(folder / "larger.png")
    Image.new("1", (60, 50)).save(folder / "largest.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    stream = image_folder(folder, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(everything(stream)) == 1
    assert list(stream.skipped) == ["larger.png", "largest.png"]
    assert all("1000" in reason or "2000" in reason for reason in stream.skipped.values())


def test_folders_that_cannot_be_used(tmp_path, folder):
    (folder / "notes.txt").write_text("x")
    (folder / "data.h5").write_bytes(b"x")
    with pytest.raises(ValueError, match="no pictures") as error:
        open_source(folder)
    one_line(error, folder)
    with pytest.raises(ValueError, match="exclude each other"):
        open_source(folder, tile=True, resize=True)
    for size in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            open_source(folder, size=size)


@pytest.mark.parametrize("mode", [{}, {"tile": True}])
def test_order_does_not_depend_on_threads(folder, mode):
    rng = np.random.default_rng(3)
    for i in range(60):
        height, width = rng.integers(7, 90, 2)
        Image.fromarray(noise(height, width, 3, seed=i)).save(folder / f"{i:02}.png")
    streams = [image_folder(folder, 8, threads=threads, **mode) for threads in (1, 2, 7, None)]
    first, *others = [everything(stream) for stream in streams]
    for stream, fields in zip(streams[1:], others, strict=True):
        np.testing.assert_array_equal(fields, first)
        assert list(stream.skipped) == list(streams[0].skipped)
    parts = chain.from_iterable(streams[0].read(i, i + 13) for i in range(0, 60, 13))
    np.testing.assert_array_equal(np.concatenate(list(parts)), first)


def test_batches_are_bounded(folder, monkeypatch):
    for i in range(40):
        Image.fromarray(noise(16, 20, 3, seed=i)).save(folder / f"{i:02}.png")
    monkeypatch.setattr("skild_physics.fields.stream.BATCH_VALUES", 5000)
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **k: opened.append(a) or original(*a, **k))
    batches = image_folder(folder, 16, threads=1).read(0, 40)
    assert next(batches).shape == (6, 3, 16, 16)
    assert len(opened) == 8
    assert [len(rest) for rest in batches] == [6, 6, 6, 6, 6, 4]
    assert BATCH_VALUES == 2**20


def test_real_photographs(folder):
    data = pytest.importorskip("skimage.data")
    datasets = pytest.importorskip("sklearn.datasets")
    photographs = [data.astronaut(), *datasets.load_sample_images().images]
    for i, photograph in enumerate(photographs):
        Image.fromarray(photograph).save(folder / f"{i}.jpg", quality=95)
        Image.fromarray(photograph).save(folder / f"{i}.png")
    assert image_folder(folder).count == 6
    crops = everything(image_folder(folder))
    assert crops.shape == (6, 3, 128, 128)
    close(crops[3], unit(photographs[1][149:277, 256:384]).transpose(2, 0, 1))
    assert np.abs(crops[::2] - crops[1::2]).mean() < 0.03
    tiles = everything(image_folder(folder, tile=True))
    assert len(tiles) == 2 * (4 * 4 + 3 * 5 + 3 * 5)
    resized = everything(image_folder(folder, resize=True))
    for field, photograph in zip(resized[1::2], photographs, strict=True):
        h, w, _ = photograph.shape
        left = (w - min(h, w)) // 2
        square = unit(photograph[:, left : left + min(h, w)])
        assert np.abs(field.mean((1, 2)) - square.mean((0, 1))).max() < 0.01
        assert 0.7 * square.var() < field.var() < square.var()


# .npy files


@given(
    n=st.integers(5, 9),
    channels=st.integers(1, 4),
    N=st.integers(5, 12),
    dtype=st.sampled_from(["u1", "i1", "<i4", ">i2", "<f2", ">f4", "<f8"]),
    fortran=st.booleans(),
)
def test_layouts_of_a_stack_give_the_same_fields(tmp_path_factory, n, channels, N, dtype, fortran):
    path = tmp_path_factory.mktemp("stack") / "stack.npy"
    fields = np.random.default_rng(n).integers(0, 120, (n, channels, N, N)).astype(dtype)
    expected = unit(fields) if dtype == "u1" else fields
    layouts = [fields, np.moveaxis(fields, 1, -1)] + [fields[:, 0]] * (channels == 1)
    for layout in layouts:
        np.save(path, np.asfortranarray(layout) if fortran else layout)
        assert not is_variance_map(path)
        with open_source(path) as stream:
            assert (stream.size, stream.count, stream.basis) == (N, n, "cosine")
            assert len(stream.channels) == channels
            read = everything(stream)
            np.testing.assert_allclose(read, expected, rtol=0, atol=2e-7)
            assert read.dtype in (np.float32, np.float64)
            assert read.dtype.isnative
            np.testing.assert_array_equal(np.concatenate(list(stream.read(2, 4))), read[2:4])


def test_stack_is_read_in_bounded_batches(tmp_path):
    path = tmp_path / "large.npy"
    np.lib.format.open_memmap(path, "w+", np.uint8, (100_000, 3, 64, 64))[0, 0] = 255
    with open_source(path) as stream:
        batch = next(stream.read(0, stream.count))
    assert batch.size <= BATCH_VALUES < batch.size + 3 * 64 * 64
    assert batch[0, 0, 0, 0] == 1
    assert batch[0, 1, 0, 0] == -1


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(5),
        np.zeros((9, 4, 5)),
        np.zeros((9, 5, 4, 4)),
        np.zeros((9, 4, 4, 5)),
        np.zeros((9, 1, 1, 4, 4)),
        np.zeros((0, 4, 4)),
        np.zeros((9, 4, 4), bool),
        np.zeros((9, 4, 4), complex),
        np.zeros((9, 4, 4), np.uint16),
        np.zeros((9, 4, 4), "datetime64[s]"),
        np.array([None, {}], object),
        np.array(["a", "b"]),
    ],
)
def test_other_arrays_are_no_stack(tmp_path, array):
    path = tmp_path / "array.npy"
    np.save(path, array)
    with pytest.raises(ValueError, match=r"array\.npy: (shape|holds|not a readable)") as error:
        open_source(path)
    one_line(error)


def test_damaged_npy_files_are_named(tmp_path):
    path = tmp_path / "array.npy"
    np.save(path, np.zeros((9, 8, 8)))
    whole = path.read_bytes()
    pickled = pickle.dumps([1, 2])
    broken = whole.replace(b"{'descr'", b"{'descr(")
    for content in (whole[:-1], whole[:100], whole[:5], b"", b"text\n", pickled, broken):
        path.write_bytes(content)
        for function in (open_source, array_stack, is_variance_map, load_variance_map):
            with pytest.raises(ValueError, match="not a readable") as error:
                function(path)
            one_line(error, path)
    with pytest.raises(ValueError, match="no such file"):
        is_variance_map(tmp_path / "missing.npy")


def test_variance_maps(tmp_path):
    path = tmp_path / "map.npy"
    for shape in [(8, 8), (1, 8, 8), (3, 8, 8), (4, 8, 8)]:
        variance = np.random.default_rng(0).random(shape).astype(np.float32)
        np.save(path, variance)
        assert is_variance_map(path)
        loaded = load_variance_map(path)
        assert loaded.dtype == np.float64
        np.testing.assert_array_equal(loaded, variance.reshape(-1, 8, 8))
        with pytest.raises(ValueError, match="variance map") as error:
            open_source(path)
        one_line(error, path)
    for bad, word in [(-1.0, "negative"), (np.nan, "nan"), (np.inf, "infinity")]:
        variance[0, 0] = bad
        np.save(path, variance)
        with pytest.raises(ValueError, match=word) as error:
            load_variance_map(path)
        one_line(error, path)
    for shape in [(8, 7), (3, 8, 7), (8,), (5, 3, 8, 8), (0, 0)]:
        np.save(path, np.zeros(shape))
        assert not is_variance_map(path)
        with pytest.raises(ValueError, match="shape"):
            load_variance_map(path)


# lattice files and the dispatcher


@pytest.fixture
def ensemble(tmp_path):
    path = tmp_path / "ising.h5"
    spins = np.where(noise(50, 16, 16) > 127, 1, -1).astype(np.int8)
    data = xr.Dataset(
        {"spins": (("sample", "y", "x"), spins)},
        attrs={"schema": ENSEMBLE_SCHEMA, "schema_version": SCHEMA_VERSION},
    )
    data.to_netcdf(path, engine="h5netcdf")
    return path


def test_ensemble_is_a_stream_of_spins(ensemble):
    with load_fields(ensemble) as fields:
        expected = fields.values[:, None].astype(np.float32)
    with open_source(ensemble) as stream:
        assert (stream.name, stream.size, stream.count) == ("ising.h5", 16, 50)
        assert (stream.channels, stream.basis) == (("spin",), "periodic")
        np.testing.assert_array_equal(everything(stream), expected)
        np.testing.assert_array_equal(next(stream.read(7, 9)), expected[7:9])
    assert everything(stream).dtype == np.float32


def test_model_output_is_a_stream(tmp_path):
    path = tmp_path / "generated.h5"
    fields = np.random.default_rng(0).normal(size=(5, 8, 8)).astype(np.float32)
    save_fields(path, fields, {})
    with open_source(str(path)) as stream:
        assert stream.channels == ("field",)
        np.testing.assert_array_equal(everything(stream)[:, 0], fields)
    save_fields(path, fields[:, :4], {})
    with pytest.raises(ValueError, match="4 x 8") as error:
        open_source(path)
    one_line(error, path)


@pytest.mark.parametrize(
    "option", [{"size": 5}, {"tile": True}, {"resize": True}, {"grey": True}, {"strict": True}]
)
def test_options_that_do_not_apply_are_refused(tmp_path, ensemble, archive, option):
    stack = tmp_path / "stack.npy"
    np.save(stack, np.zeros((9, 8, 8)))
    # photographs are cut to any size
    others = () if "size" in option else ("photographs", "photographs-test")
    for source in ("cifar10", stack, ensemble, *others):
        with pytest.raises(InputError, match=f"^`{next(iter(option))}` is for folders") as error:
            open_source(source, **option)
        one_line(error, source)


def test_pictures_are_not_shrunk_to_the_size_they_have(folder):
    with pytest.raises(InputError, match=r"`resize` of .* goes with `size`") as error:
        open_pictures(folder, resize=True)
    one_line(error, folder)


def test_data_dir_is_for_cifar10(folder, ensemble):
    for source in (folder, ensemble):
        with pytest.raises(ValueError, match="`data_dir` is for cifar10") as error:
            open_source(source, data_dir=folder)
        one_line(error, source)


def test_sources_that_are_nothing(tmp_path):
    missing = tmp_path / "missing.h5"
    with pytest.raises(ValueError, match="no such file or folder") as error:
        open_source(missing)
    one_line(error, missing)
    picture = tmp_path / "photo.JPG"
    Image.fromarray(noise(8, 8)).save(picture)
    with pytest.raises(ValueError, match="folder") as error:
        open_source(picture)
    one_line(error, picture)
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(ValueError, match="not a readable") as error:
        open_source(text)
    one_line(error, text)
