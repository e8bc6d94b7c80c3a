"""Folders of pictures of every kind."""

import warnings

import numpy as np
import pytest
from field_files import close, everything, noise, one_line, unit, usable
from PIL import Image

from skild_physics.fields import batches, channels_of, open_fields, pictures_of
from skild_physics.fields.images import image_folder
from skild_physics.fields.lazy import BATCH_VALUES
from skild_physics.files import InputError
from skild_physics.spectrum import fit_spectrum


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "photos"
    path.mkdir()
    return path


def test_crop_is_the_centre_at_native_resolution(folder):
    first, second = noise(21, 35, 3), noise(16, 16, 3, seed=1)
    (folder / "sub").mkdir()
    Image.fromarray(second).save(folder / "sub" / "b.bmp")
    Image.fromarray(first).save(folder / "A.PNG")
    Image.fromarray(first).save(folder / ".hidden.png")
    (folder / "notes.txt").write_text("not a picture")
    fields = open_fields(folder, size=16)
    assert (fields.source, fields.shape, fields.basis) == ("photos", (2, 3, 16, 16), "cosine")
    assert channels_of(fields) == ("red", "green", "blue")
    expected = np.stack([first[2:18, 9:25], second]).transpose(0, 3, 1, 2)
    read, skipped = usable(fields)
    close(read, unit(expected))
    close(next(batches(fields, 1, 2)), unit(expected[1:]))
    assert skipped == {}


def test_tiles_are_all_patches_of_a_centred_grid(folder):
    picture = noise(21, 34, 3)
    Image.fromarray(picture).save(folder / "a.png")
    fields = open_fields(folder, size=8, tile=True)
    assert pictures_of(fields).tolist() == fields["picture"].values.tolist() == [0] * 8
    expected = [
        picture[2 + 8 * i : 10 + 8 * i, 1 + 8 * j : 9 + 8 * j].transpose(2, 0, 1)
        for i in range(2)
        for j in range(4)
    ]
    close(everything(fields), unit(expected))
    close(fields[[5, 2]].values, unit(np.stack([expected[5], expected[2]])))


def test_tiles_that_fit_cover_every_pixel_once(folder):
    picture = np.arange(6 * 9, dtype=np.uint8).reshape(6, 9)
    Image.fromarray(picture).save(folder / "a.png")
    tiles = everything(open_fields(folder, size=3, tile=True, grey=True))
    assert tiles.shape == (6, 1, 3, 3)
    close(np.sort(tiles, axis=None), unit(np.arange(54)))


def test_tiles_know_their_picture(folder):
    for i, width in enumerate((8, 25, 17)):
        Image.fromarray(noise(16, width, 3, seed=i)).save(folder / f"{i}.png")
    fields = open_fields(folder, size=8, tile=True)
    assert pictures_of(fields).tolist() == [0] * 2 + [1] * 6 + [2] * 4
    # of a part of the source they are counted from 0
    assert pictures_of(fields[3:]).tolist() == [0] * 5 + [1] * 4
    assert fields[3:]["picture"].values.tolist() == [1] * 5 + [2] * 4


def test_pictures_of_one_size_are_taken_whole(folder):
    for i in range(3):
        Image.fromarray(noise(20, 20, 3, seed=i)).save(folder / f"{i}.png")
    (folder / "3.png").write_bytes((folder / "1.png").read_bytes()[:100])
    fields = open_fields(folder)
    assert fields.shape == (4, 3, 20, 20)
    read, skipped = usable(fields)
    np.testing.assert_array_equal(read[2], unit(noise(20, 20, 3, seed=2).transpose(2, 0, 1)))
    assert list(skipped) == ["3.png"]


@pytest.mark.parametrize("shape", [(20, 24), (24, 24)])
def test_pictures_of_several_sizes_want_a_size(folder, shape):
    Image.fromarray(noise(20, 20, 3)).save(folder / "a.png")
    Image.fromarray(noise(*shape, 3)).save(folder / "b.png")
    other = rf"a.png: 20 x 20, b.png: {shape[1]} x {shape[0]}.*`size=N`"
    with pytest.raises(InputError, match=other):
        open_fields(folder)
    assert everything(open_fields(folder, size=16)).shape == (2, 3, 16, 16)


def test_pictures_that_are_no_squares_want_a_size(folder):
    Image.fromarray(noise(130, 140, 3)).save(folder / "a.png")
    with pytest.raises(InputError, match=r"\(a.png: 140 x 130\).*`size=N`") as error:
        open_fields(folder)
    one_line(error, folder)


def test_a_folder_without_a_readable_picture(folder):
    (folder / "a.png").write_bytes(b"junk")
    with pytest.raises(ValueError, match="no readable pictures"):
        open_fields(folder)


def test_resize_keeps_a_smooth_picture(folder):
    """A wave with a half period per shorter side still has one, to the rounding of each step."""
    y = (np.arange(120)[:, None] + 0.5) / 120
    x = (np.arange(160) + 0.5 - 20) / 120
    wave = 127.5 + 100 * np.cos(np.pi * y) * np.cos(np.pi * x)
    Image.fromarray(np.round(wave).astype(np.uint8)).save(folder / "a.png")
    (field,) = everything(open_fields(folder, size=24, resize=True, grey=True))[:, 0]
    u = (np.arange(24) + 0.5) / 24
    expected = 100 / 127.5 * np.cos(np.pi * u)[:, None] * np.cos(np.pi * u)
    assert np.abs(field - expected).max() < 3.5 / 127.5


def test_resize_halves_with_boxes_while_it_can(folder):
    picture = noise(64, 64)
    Image.fromarray(picture).save(folder / "a.png")
    (field,) = everything(open_fields(folder, size=16, resize=True, grey=True))[:, 0]
    boxes = picture.reshape(16, 4, 16, 4).mean((1, 3))
    assert np.abs(field - unit(boxes)).max() <= 2 / 127.5


def test_a_picture_of_the_right_size_is_not_resampled(folder):
    picture = noise(16, 16, 3)
    Image.fromarray(picture).save(folder / "a.png")
    close(
        everything(open_fields(folder, size=16, resize=True))[0], unit(picture.transpose(2, 0, 1))
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
    fields = open_fields(damaged, size=32, **mode)
    assert len(fields) == 9
    for _ in range(2):
        read, skipped = usable(fields)
        close(read, unit(noise(32, 32, 3)).transpose(2, 0, 1)[None])
        assert list(skipped) == list(SKIPPED)
    for file, reason in SKIPPED.items():
        assert reason in skipped[file]


def test_the_first_unusable_picture_stops_who_takes_no_others(damaged):
    fields = open_fields(damaged, size=32)
    for read in (everything, lambda fields: fields.values, lambda fields: fields[[5, 0]].values):
        with pytest.raises(InputError, match="truncated") as error:
            read(fields)
        one_line(error, damaged / "cut.png")
    # whoever looks at another does not see them
    close(fields[3].values, unit(noise(32, 32, 3)).transpose(2, 0, 1))


def test_all_pictures_unusable(damaged):
    (damaged / "good.png").unlink()
    fields, skipped = open_fields(damaged, size=32), {}
    assert list(batches(fields, skipped=skipped)) == []
    assert list(skipped) == list(SKIPPED)
    with pytest.raises(InputError, match="all 8 pictures") as error:
        fit_spectrum(damaged, size=32)
    one_line(error, damaged.name, "cut.png", "truncated")


def test_bombs_are_skipped_without_a_warning(folder, monkeypatch):
    Image.fromarray(noise(8, 8)).save(folder / "a.png")
    Image.new("1", (40, 30)).save(folder / "larger.png")
    Image.new("1", (60, 50)).save(folder / "largest.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in ({}, {"tile": True}):
            read, skipped = usable(image_folder(folder, 8, **options))
            assert len(read) == 1
            assert list(skipped) == ["larger.png", "largest.png"]
            assert all("1000" in reason or "2000" in reason for reason in skipped.values())


def test_folders_that_cannot_be_used(tmp_path, folder):
    (folder / "notes.txt").write_text("x")
    (folder / "data.h5").write_bytes(b"x")
    with pytest.raises(ValueError, match="no pictures") as error:
        open_fields(folder)
    one_line(error, folder)
    with pytest.raises(ValueError, match="exclude each other"):
        open_fields(folder, tile=True, resize=True)
    for size in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            open_fields(folder, size=size)


@pytest.mark.parametrize("mode", [{}, {"tile": True}])
def test_order_does_not_depend_on_threads(folder, mode):
    rng = np.random.default_rng(3)
    for i in range(60):
        height, width = rng.integers(7, 90, 2)
        Image.fromarray(noise(height, width, 3, seed=i)).save(folder / f"{i:02}.png")
    opened = [image_folder(folder, 8, threads=threads, **mode) for threads in (1, 2, 7, None)]
    (first, skipped), *others = [usable(fields) for fields in opened]
    assert skipped
    for fields, reasons in others:
        np.testing.assert_array_equal(fields, first)
        assert list(reasons.items()) == list(skipped.items())
    parts = [
        batch
        for i in range(0, len(opened[0]), 13)
        for batch in batches(opened[0], i, i + 13, skipped)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), first)


def test_batches_are_bounded(folder, monkeypatch):
    for i in range(40):
        Image.fromarray(noise(16, 20, 3, seed=i)).save(folder / f"{i:02}.png")
    monkeypatch.setattr("skild_physics.fields.lazy.BATCH_VALUES", 5000)
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **k: opened.append(a) or original(*a, **k))
    fields = image_folder(folder, 16, threads=1)
    read = batches(fields)
    assert next(read).shape == (6, 3, 16, 16)
    assert len(opened) == 6
    assert [len(rest) for rest in read] == [6, 6, 6, 6, 6, 4]
    assert [len(batch) for batch in batches(fields, 3, 30, length=20)] == [20, 7]
    assert BATCH_VALUES == 2**20


def test_real_photographs(folder):
    data = pytest.importorskip("skimage.data")
    datasets = pytest.importorskip("sklearn.datasets")
    photographs = [data.astronaut(), *datasets.load_sample_images().images]
    for i, photograph in enumerate(photographs):
        Image.fromarray(photograph).save(folder / f"{i}.jpg", quality=95)
        Image.fromarray(photograph).save(folder / f"{i}.png")
    assert len(image_folder(folder, 128)) == 6
    crops = everything(image_folder(folder, 128))
    assert crops.shape == (6, 3, 128, 128)
    close(crops[3], unit(photographs[1][149:277, 256:384]).transpose(2, 0, 1))
    assert np.abs(crops[::2] - crops[1::2]).mean() < 0.03
    tiles = everything(image_folder(folder, 128, tile=True))
    assert len(tiles) == 2 * (4 * 4 + 3 * 5 + 3 * 5)
    resized = everything(image_folder(folder, 128, resize=True))
    for field, photograph in zip(resized[1::2], photographs, strict=True):
        h, w, _ = photograph.shape
        left = (w - min(h, w)) // 2
        square = unit(photograph[:, left : left + min(h, w)])
        assert np.abs(field.mean((1, 2)) - square.mean((0, 1))).max() < 0.01
        assert 0.7 * square.var() < field.var() < square.var()


def test_grey_cmyk_palette_and_transparent_pictures_become_colours(folder):
    picture = Image.fromarray(noise(16, 16, 3))
    for mode in ("L", "CMYK", "P", "RGBA", "LA", "1", "I;16"):
        image = picture.convert(mode.replace("I;16", "I"))
        if mode == "I;16":
            image = Image.fromarray(noise(16, 16).astype(np.uint16) * 257)
        image.save(folder / f"{mode.replace(';', '')}.{'tif' if mode == 'CMYK' else 'png'}")
    fields = everything(open_fields(folder))
    assert fields.shape == (7, 3, 16, 16)
    grey = everything(open_fields(folder, grey=True))
    assert grey.shape == (7, 1, 16, 16)
    np.testing.assert_array_equal(fields[2], np.repeat(fields[2][:1], 3, axis=0))
