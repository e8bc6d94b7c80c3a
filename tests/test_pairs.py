"""Pairs of pictures: by name, of their own sizes, on the luminance, in the right range."""

import numpy as np
import pytest
import xarray as xr
from command_line import run
from field_files import noise, one_line, unit
from PIL import Image
from skimage import data
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import skild_physics as sk
from skild_physics.files import InputError
from skild_physics.quality import evaluate


def picture(path, *shape, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(*(shape or (16, 16, 3)), seed=seed)).save(path)


def compared(root, metrics="psnr", **options):
    """Folders a and b of a root compared."""
    sources = {"a": root / "a", "b": root / "b"}
    return sk.eval_images(sources, metrics=metrics.split(","), **options).dataset


def folders(root, ours, theirs, seeds=None):
    """Folders a and b; pictures of b are those of a with one value more everywhere."""
    for i, name in enumerate(ours):
        picture(root / "a" / f"{name}.png", seed=i)
    for i, name in enumerate(theirs):
        seed = i if seeds is None else seeds[i]
        path = root / "b" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(16, 16, 3, seed=seed) // 2).save(path)


def psnr(x, y):
    return 10 * np.log10(255**2 / np.mean((x.astype(float) - y) ** 2))


def halves(*seeds):
    """PSNR of pictures of these seeds and their halves."""
    return [psnr(noise(16, 16, 3, seed=i), noise(16, 16, 3, seed=i) // 2) for i in seeds]


# by name


@pytest.mark.parametrize(
    "theirs",
    [
        ["1", "2", "10"],
        ["0001", "0002", "0010"],
        ["01", "2", "010"],
    ],
)
def test_names_are_partners_whatever_zeros_fill_them(tmp_path, theirs):
    folders(tmp_path, ["1", "2", "10"], theirs)
    found = compared(tmp_path)
    np.testing.assert_allclose(found["psnr"].sel(source="b"), halves(0, 1, 2))
    assert found["name"].values.tolist() == ["1", "2", "10"]


def test_partners_in_another_order_and_format(tmp_path):
    """As text 0007_b is before 7_a; its partner 7_b is after it."""
    folders(tmp_path, ["sub/7_a", "sub/7_b"], ["sub/7_a", "sub/0007_b"])
    (tmp_path / "b" / "sub" / "7_a.png").rename(tmp_path / "b" / "sub" / "7_a.bmp")
    np.testing.assert_allclose(compared(tmp_path)["psnr"].sel(source="b"), halves(0, 1))


def test_zeros_that_tell_pictures_apart_do(tmp_path):
    folders(tmp_path, ["1", "01"], ["01", "1", "001"], seeds=[1, 0, 5])
    found = compared(tmp_path)
    assert found["name"].values.tolist() == ["01", "1"]
    np.testing.assert_allclose(found["psnr"].sel(source="b"), halves(1, 0))
    picture(tmp_path / "c" / "1.05.png")
    picture(tmp_path / "d" / "1.5.png")
    with pytest.raises(InputError, match=r"1\.5 of d has no partner in c \(1\.05\)"):
        sk.eval_images(c=tmp_path / "c", d=tmp_path / "d")


@pytest.mark.parametrize(
    "theirs", [["baboonx4", "zebrax4"], ["img_baboon", "zebra"], ["Baboon", "zebra"], ["x/baboon"]]
)
def test_other_names_are_no_partners(tmp_path, theirs):
    folders(tmp_path, ["baboon", "zebra"], theirs)
    with pytest.raises(InputError, match="no partner in a") as error:
        compared(tmp_path)
    one_line(error, "psnr compare pairs, by the names of pictures", "(baboon, zebra)", theirs[0])
    one_line(error, "arrays or .npz files, which pair by position")
    said = run("eval-images a=a b=b", tmp_path, code=2).stderr
    assert str(error.value).replace("psnr", "psnr, ssim, ms-ssim", 1) in said


def test_pictures_of_a_larger_folder_are_found(tmp_path, caplog):
    caplog.set_level("INFO", "skild_physics")
    folders(tmp_path, [f"{i}" for i in range(12)], ["011", "3"], seeds=[11, 3])
    found = compared(tmp_path)
    np.testing.assert_allclose(found["psnr"].sel(source="b"), halves(3, 11))
    assert (found["n_samples"].values.tolist(), found["name"].values.tolist()) == (
        [2, 2],
        ["3", "11"],
    )
    assert "a has 12 pictures and b 2: the 2 of the same name are compared" in caplog.text
    turned = sk.eval_images(b=tmp_path / "b", a=tmp_path / "a", metrics=["psnr"]).dataset
    np.testing.assert_allclose(turned["psnr"].sel(source="a"), halves(3, 11))
    assert compared(tmp_path, samples=1)["name"].values.tolist() == ["3"]


def test_arrays_pair_with_names_by_position(tmp_path):
    folders(tmp_path, [f"{i}" for i in range(12)], ["2", "10"], seeds=[2, 10])
    stack = np.stack([noise(16, 16, 3, seed=i) // 2 for i in range(12)])
    np.savez(tmp_path / "c.npz", stack)
    sources = {"a": tmp_path / "a", "c": tmp_path / "c.npz"}
    found = sk.eval_images(sources, metrics=["psnr"]).dataset
    np.testing.assert_allclose(found["psnr"].sel(source="c"), halves(*range(12)))
    # beside a folder of fewer they are taken at the places of these
    found = sk.eval_images(sources, b=tmp_path / "b", metrics=["psnr"]).dataset
    np.testing.assert_allclose(found["psnr"].sel(source="c"), halves(2, 10))
    np.testing.assert_allclose(found["psnr"].sel(source="b"), halves(2, 10))
    with pytest.raises(InputError, match="a has 12 pictures, c 5; `samples=N` takes the first N"):
        sk.eval_images(a=tmp_path / "a", c=stack[:5], metrics=["psnr"])
    found = sk.eval_images(a=tmp_path / "a", c=stack[:5], metrics=["psnr"], samples=4).dataset
    np.testing.assert_allclose(found["psnr"].sel(source="c"), halves(0, 1, 2, 3))
    # each has partners, but not the same ones
    x = sk.open(tmp_path / "a")[:5]
    parts = {"a": x, "b": x[:3], "c": x[2:]}
    assert sk.eval_images(parts, metrics=["psnr"]).dataset["name"].values.tolist() == ["2"]
    with pytest.raises(InputError, match="only 1 pictures are in every source, fewer than `samp"):
        sk.eval_images(parts, metrics=["psnr"], samples=2)


def test_fields_pair_by_their_samples(caplog):
    x = sk.open(np.stack([noise(16, 16, 3, seed=i) for i in range(8)]))
    y = sk.open(np.stack([noise(16, 16, 3, seed=i) // 2 for i in range(8)]))

    def found(a, b, **options):
        return sk.eval_images(a=a, b=b, metrics=["psnr"], **options).dataset["psnr"].sel(source="b")

    np.testing.assert_allclose(found(x, y[3:6]), halves(3, 4, 5))
    assert "a has 8 pictures and b 3: the 3 of the same number `sample` are compared" in caplog.text
    np.testing.assert_allclose(found(x, y[[5, 2]], samples=1), halves(2))
    np.testing.assert_allclose(found(x[::-1], y[[5, 2]]), halves(5, 2))
    with pytest.raises(InputError, match="3 samples are in a and in b, but each has others"):
        found(x[:5], y[2:])
    # of none in common nothing is known but their places
    np.testing.assert_allclose(
        found(x[:4], y[:4].assign_coords(sample=np.arange(90, 94))), halves(0, 1, 2, 3)
    )


def test_names_in_hdf5_pair_too(tmp_path):
    folders(tmp_path, ["1", "2", "10"], ["1", "2", "10"])
    sk.save(sk.open(tmp_path / "b")[[2, 0]], tmp_path / "b.h5")
    sk.prepare_images(tmp_path / "b", out=tmp_path / "p.h5").close()
    # by position these would be 10 and 1
    for source, kept in (("b.h5", [0, 2]), ("p.h5", [0, 1, 2])):
        found = sk.eval_images(a=tmp_path / "a", b=tmp_path / source, metrics=["psnr"]).dataset
        np.testing.assert_allclose(found["psnr"].sel(source="b"), halves(*kept), rtol=1e-12)


def test_tiles_pair_in_their_order(tmp_path):
    picture(tmp_path / "a" / "02.png", 32, 16, 3)
    picture(tmp_path / "b" / "2.png", 32, 16, 3)
    tiles = {name: sk.open(tmp_path / name, size=16, tile=True) for name in ("a", "b")}
    assert (sk.eval_images(tiles, metrics=["psnr"]).dataset["psnr"][1] == np.inf).all()


def test_single_pictures_pair_whatever_they_are_called(tmp_path):
    folders(tmp_path, ["baboon"], ["baboon_SRF_4_SKILD"])
    a, b = tmp_path / "a" / "baboon.png", tmp_path / "b" / "baboon_SRF_4_SKILD.png"
    found = sk.eval_images(a=a, b=str(b), metrics=["psnr"]).dataset
    np.testing.assert_allclose(found["psnr"].sel(source="b"), halves(0))
    # one that a folder holds is found there
    picture(tmp_path / "a" / "another.png", seed=9)
    b.rename(tmp_path / "baboon.png")
    found = sk.eval_images(a=tmp_path / "a", b=tmp_path / "baboon.png", metrics=["psnr"]).dataset
    np.testing.assert_allclose(found["psnr"].sel(source="b"), halves(0))


# of their own sizes


@pytest.fixture(scope="module")
def rectangles(tmp_path_factory):
    """Photographs of four sizes and orientations, and noisy ones."""
    root = tmp_path_factory.mktemp("rectangles")
    whole = {
        "cat": data.chelsea()[:180, :251],
        "coffee": data.coffee()[40:240, 100:331],
        "rocket": data.rocket()[:240, :170],
        "astronaut": data.astronaut()[:161, :161],
    }
    rng = np.random.default_rng(0)
    for name, pixels in whole.items():
        noisy = np.clip(np.rint(pixels + rng.normal(0, 20, pixels.shape)), 0, 255)
        for folder, values in (("a", pixels), ("b", noisy.astype(np.uint8))):
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(values).save(root / folder / f"{name}.png")
    return root


@pytest.mark.parametrize("shave", [0, 3])
@pytest.mark.parametrize("luminance", [False, True])
def test_rectangles_are_compared_as_scikit_image_does(rectangles, luminance, shave):
    found = compared(rectangles, "psnr,ssim", luminance=luminance, shave=shave)
    assert found["name"].values.tolist() == ["astronaut", "cat", "coffee", "rocket"]
    for name in found["name"].values:
        x, y = (
            np.asarray(Image.open(rectangles / folder / f"{name}.png")).astype(float)
            for folder in "ab"
        )
        inner = slice(shave, -shave or None)
        if luminance:
            x, y = (rgb2ycbcr(each / 255)[..., :1] for each in (x, y))
        x, y = x[inner, inner], y[inner, inner]
        here = found.sel(source="b").isel(image=found["name"].values == name)
        expected = peak_signal_noise_ratio(x, y, data_range=255)
        assert here["psnr"].item() == pytest.approx(expected, abs=1e-9)
        expected = structural_similarity(
            x,
            y,
            data_range=255,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert here["ssim"].item() == pytest.approx(expected, abs=1e-6)
    titles = {
        row.title
        for row in sk.eval_images(
            a=rectangles / "a",
            b=rectangles / "b",
            metrics=["psnr"],
            luminance=luminance,
            shave=shave,
        ).rows
    }
    said = ", of the luminance" * luminance + f", less a border of {shave}" * bool(shave)
    assert titles == {f"PSNR / dB{said}"}


def test_one_set_has_one_number_of_scales(rectangles):
    """The smallest picture has 161 pixels per side: five scales, four without a border of 1."""
    assert compared(rectangles, "ms-ssim")["ms_ssim"].attrs["scales"] == 5
    less = compared(rectangles, "ms-ssim", shave=1)["ms_ssim"]
    assert (less.attrs["scales"], less.attrs["shave"]) == (4, 1)
    largest = {f: rectangles / f / "coffee.png" for f in "ab"}
    alone = sk.eval_images(largest, metrics=["ms-ssim"], shave=1).dataset["ms_ssim"]
    assert alone.attrs["scales"] == 5
    assert abs(alone[1, 0] - less[1, 2]) > 1e-3


def test_rectangles_do_not_depend_on_batches(tmp_path, monkeypatch):
    shapes = [(20, 30, 3)] * 4 + [(30, 20, 3), (20, 30, 3)] * 2 + [(25, 25, 3)]
    for i, shape in enumerate(shapes):
        picture(tmp_path / "a" / f"{i}.png", *shape, seed=i)
        picture(tmp_path / "b" / f"{i}.png", *shape, seed=50 + i)
    whole = compared(tmp_path, "psnr,ssim,ms-ssim")
    xr.testing.assert_allclose(compared(tmp_path, "psnr,ssim,ms-ssim", batch_size=3), whole, 1e-12)
    monkeypatch.setattr(evaluate, "BATCH_PIXELS", 4000)
    xr.testing.assert_allclose(compared(tmp_path, "psnr,ssim,ms-ssim"), whole, 1e-12)
    for i, shape in enumerate(shapes):
        expected = psnr(noise(*shape, seed=i), noise(*shape, seed=50 + i))
        assert whole["psnr"][1, i].item() == pytest.approx(expected, abs=1e-9)


def test_pairs_of_other_sizes_are_named(tmp_path):
    for name, shape in {"a/x": (20, 30, 3), "a/y": (21, 31, 3), "b/y": (20, 30, 3)}.items():
        picture(tmp_path / f"{name}.png", *shape)
    picture(tmp_path / "b" / "x.png", 20, 30, 3)
    with pytest.raises(InputError, match="y has 31 x 21 pixels in a, 30 x 20 in b; where a") as e:
        compared(tmp_path)
    one_line(e, "crop both to the same pixels")
    # nor are the centres of pictures that differ by a pixel
    with pytest.raises(InputError, match="central 16 x 16 of one are not those of the other"):
        compared(tmp_path, size=16)
    # but a centre may be what was taken of a picture before
    picture(tmp_path / "c" / "y.png", 21, 31, 3)
    sk.save(sk.open(tmp_path / "c", size=16), tmp_path / "d")
    with pytest.raises(InputError, match="or pass `size=16` if one is the centre of the other"):
        sk.eval_images(c=tmp_path / "c", d=tmp_path / "d", metrics=["psnr"])
    found = sk.eval_images(c=tmp_path / "c", d=tmp_path / "d", size=16, metrics=["psnr"]).dataset
    assert found["psnr"][1, 0] == np.inf


def test_turned_pictures_have_the_sides_that_are_seen(tmp_path):
    upright = Image.fromarray(noise(24, 16, 3))
    for folder in "ab":
        (tmp_path / folder).mkdir()
    upright.save(tmp_path / "a" / "x.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b" / "x.tif", exif=exif)
    assert compared(tmp_path)["psnr"][1, 0] == np.inf
    # as they are stored both have the same sides
    upright.save(tmp_path / "b" / "x.tif", exif=exif)
    with pytest.raises(InputError, match="x has 16 x 24 pixels in a, 24 x 16 in b"):
        compared(tmp_path)


def test_metrics_need_sizes(tmp_path):
    for folder in "ab":
        picture(tmp_path / folder / "large.png", 16, 20, 3)
        picture(tmp_path / folder / "flat.png", 12, 30, 3)
    compared(tmp_path, "ssim")
    with pytest.raises(InputError, match=r"lpips needs at least 31 pixels per side; a has 12 \(fl"):
        compared(tmp_path, "lpips")
    message = r"ssim needs at least 11 pixels per side; a has 12 \(flat\), less a border of 1"
    with pytest.raises(InputError, match=message):
        compared(tmp_path, "ssim", shave=1)
    compared(tmp_path, "psnr", shave=5)
    with pytest.raises(InputError, match="psnr needs at least 1 pixels per side"):
        compared(tmp_path, "psnr", shave=6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"luminance": True, "grey": True}, "`luminance` and `grey` exclude each other"),
        ({"shave": -1}, "`shave` must be at least 0, got -1"),
        ({"metrics": "lpips", "luminance": True}, "`luminance` is for psnr, ssim and ms-ssim"),
        ({"metrics": "lpips", "shave": 4}, "`shave` is for psnr, ssim and ms-ssim"),
        ({"data_range": 1}, "`data_range` is for arrays of which nothing is known, and none"),
    ],
)
def test_options_that_do_not_apply(tmp_path, options, message):
    folders(tmp_path, ["x"], ["x"])
    with pytest.raises(InputError, match=message):
        compared(tmp_path, **options)
    x = np.zeros((2, 16, 16))
    with pytest.raises(InputError, match="a is grey, and `luminance` is for pictures in colour"):
        sk.eval_images(a=x, b=x, luminance=True)


def test_the_command_gives_the_same(rectangles, tmp_path):
    options = "--luminance --shave 4 --metrics psnr,ssim"
    run(f"eval-images a={rectangles}/a b={rectangles}/b {options}", tmp_path)
    theirs = xr.load_dataset(tmp_path / "eval-images.nc", engine="h5netcdf")
    xr.testing.assert_equal(compared(rectangles, "psnr,ssim", luminance=True, shave=4), theirs)
    x = np.random.default_rng(0).uniform(0, 0.9, (9, 16, 16))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x + 0.1)
    words = "eval-images a=x.npy b=y.npy --metrics psnr --out q.nc"
    run(f"{words} --data-range 0,1", tmp_path)
    theirs = xr.load_dataset(tmp_path / "q.nc", engine="h5netcdf")["psnr"]
    ours = sk.eval_images(a=x, b=x + 0.1, data_range=(0, 1), metrics=["psnr"]).dataset["psnr"]
    xr.testing.assert_equal(ours, theirs)
    error = run(f"{words} --overwrite", tmp_path, code=2).stderr
    assert "--data-range" in error
    assert error.startswith("Error: x.npy: ")


# ranges


@pytest.mark.parametrize("step", [1, 12, 60])
def test_a_constant_has_its_closed_form(step):
    """In [0, 1] a constant c away PSNR is -20 log10 c, here of bytes, which hold it exactly."""
    x = noise(9, 3, 16, 16) // 2
    expected = -20 * np.log10(step / 255)
    for a, b in ((x, x + np.uint8(step)), (unit(x), unit(x) + 2 * step / 255)):
        found = sk.eval_images(a=a, b=b, metrics=["psnr"])
        np.testing.assert_allclose(found.dataset["psnr"].sel(source="b"), expected, rtol=1e-12)


@pytest.mark.parametrize(("white", "kind"), [(1, "f8"), (255, "f4"), (255, "i8"), (65535, "u2")])
def test_a_constant_in_any_range(white, kind):
    """Of whole bytes, so that 8 bits hold it: PSNR = -20 log10 c in units of white."""
    bytes_ = noise(9, 1, 16, 16).astype(float) // 2
    x, y = (((bytes_ + c) * white / 255).astype(kind) for c in (0, 51))
    found = sk.eval_images(a=x, b=y, data_range=white, metrics=["psnr"]).dataset["psnr"]
    np.testing.assert_allclose(found.sel(source="b"), -20 * np.log10(51 / 255), rtol=1e-12)
    # of what this package opened or made the range is known
    known = sk.open(unit(bytes_ + 51), data_range=(-1, 1))
    again = sk.eval_images(a=x, b=known, data_range=white, metrics=["psnr"]).dataset["psnr"]
    xr.testing.assert_equal(again, found)


def test_one_range_for_all_arrays():
    x = np.random.default_rng(0).uniform(0, 1, (9, 1, 16, 16))
    with pytest.raises(InputError, match=r"b: array: .* lie outside `data_range=0,1`"):
        sk.eval_images(a=x, b=2 * x - 1, data_range=1, metrics=["psnr"])


def test_fields_of_another_range_are_refused(caplog):
    """Of zero mean and unit variance, as networks see pictures, a third lies outside."""
    caplog.set_level("INFO", "skild_physics")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 1, 16, 16))
    message = (
        r"b: more than 1 % of the values lie outside \[-1, 1\], from -\d.* to \d.*`data_range`"
    )
    with pytest.raises(InputError, match=message) as error:
        sk.eval_images(a=np.clip(x, -1, 1), b=x, metrics=["psnr"])
    one_line(error, f"from {x.min():.4g} to {x.max():.4g}")
    # a few are said
    few = np.clip(x, -1, 1)
    few[:, 0, 0, :2] = 1.1
    sk.eval_images(a=few, b=few, metrics=["psnr"])
    assert "b: 0.78 % of the values lie outside [-1, 1] and are clipped" in caplog.text
    # in a range that was said they are clipped
    assert sk.eval_images(a=x, b=x, metrics=["psnr"], data_range=(-1, 1)).rows[0].value == np.inf
    assert f"b: {100 * (abs(x) > 1 + 1 / 255).mean():.2g} % of the values" in caplog.text
    with pytest.raises(InputError, match=r"a: more than 1 %.*clip them, if they are pictures"):
        sk.eval_images(a=sk.open(x), b=sk.open(x), metrics=["psnr"])
    # what this package made has a range that is known
    made = sk.interpolate(x, factor=2)
    sk.eval_images(a=made, b=made, metrics=["psnr"])
    share = 100 * float((abs(made) > 1 + 1 / 255).mean())
    assert f"b: {share:.2g} % of the values" in caplog.text


def test_the_range_is_passed_to_arrays_alone(tmp_path, monkeypatch):
    folders(tmp_path, ["x"], [])
    asked = []

    def opened(source, **options):
        asked.append(options)
        return sk.open(source)

    monkeypatch.setattr("skild_physics.quality.results.open_fields", opened)
    sk.eval_images(a=tmp_path / "a", b=np.zeros((1, 3, 16, 16)), data_range=255, metrics=["psnr"])
    assert asked == [{"data_range": 255, "basis": "cosine"}]
