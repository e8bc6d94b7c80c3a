"""A random subset of pictures is the same in every command, and of evaluated pairs."""

import numpy as np
import pytest
from command_line import run
from field_files import noise
from PIL import Image
from scipy.stats import hypergeom

import skild_physics as sk
from skild_physics.fields.choice import chosen
from skild_physics.fields.clipping import pixels
from skild_physics.files import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choice")
    (folder / "val").mkdir()
    for i in range(40):
        Image.fromarray(noise(16, 16, 3, seed=i)).save(folder / "val" / f"{i:02}.png")
    return folder


def test_a_choice_is_a_subset_in_order_and_hits_every_place_alike():
    times = np.zeros(50)
    for seed in range(2000):
        numbers = chosen(50, 10, seed)
        assert len(numbers) == 10
        assert (np.diff(numbers) > 0).all()
        times[numbers] += 1
    # each place is one of ten in fifty
    assert np.abs(times / 2000 - 0.2).max() < 4.5 * np.sqrt(0.2 * 0.8 / 2000)
    # as many of the first half as without replacement
    halves = [int((chosen(50, 10, seed) < 25).sum()) for seed in range(2000)]
    expected = hypergeom(50, 25, 10)
    assert abs(np.mean(halves) - expected.mean()) < 4 * expected.std() / np.sqrt(2000)
    assert np.var(halves) == pytest.approx(expected.var(), rel=4 * np.sqrt(2 / 2000))
    # of all versions and machines
    np.testing.assert_array_equal(chosen(50_000, 4, 0), [5245, 15600, 41513, 45870])
    np.testing.assert_array_equal(chosen(5, 9, 3), np.arange(5))
    np.testing.assert_array_equal(chosen(5, 3, None), np.arange(3))
    np.testing.assert_array_equal(chosen(5, None, None), np.arange(5))


def test_every_command_chooses_the_same(folder):
    with sk.open(folder / "val", samples=6, choose_seed=5) as fields:
        names = list(fields["name"].values)
        expected = fields.values
    assert names != [f"{i:02}.png" for i in range(6)]
    subset = "--samples 6 --choose-seed 5"
    run(f"prepare-images val {subset} --out p.h5", folder)
    run(f"coarse-grain val --factor 1 {subset} --out c.h5", folder)
    run(f"super-resolve bundled-photographs val --factor 1.5 --steps 2 {subset} --out s.h5", folder)
    for made in ("p", "c", "s"):
        with sk.open(folder / f"{made}.h5") as fields:
            assert list(fields["name"].values) == names
            if made != "s":
                np.testing.assert_allclose(fields.values, expected, atol=1e-6)
    # ones of those that a folder has, by their names, and as many of two folders
    psnr = sk.eval_images(truth=folder / "val", made=folder / "c.h5", metrics=["psnr"])
    assert list(psnr.dataset["name"].values) == names
    both = sk.eval_images(
        truth=folder / "val", made=folder / "val", metrics=["psnr"], samples=6, choose_seed=5
    )
    assert list(both.dataset["name"].values) == names
    done = run(f"eval-images truth=val made=val --metrics psnr {subset} --out e.nc", folder)
    assert "6 of truth, 6 of made" in done.stderr


def test_a_choice_without_names_is_of_as_many_or_none(folder, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "many.npy", rng.uniform(-1, 1, (20, 8, 8)))
    np.save(tmp_path / "few.npy", rng.uniform(-1, 1, (6, 8, 8)))
    how = {"metrics": ["psnr"], "samples": 6, "data_range": (-1, 1)}
    sources = {"truth": tmp_path / "many.npy", "made": tmp_path / "few.npy"}
    assert sk.eval_images(sources, **how).dataset.sizes["image"] == 6
    with pytest.raises(InputError, match="`choose_seed` chooses pairs without names of as many"):
        sk.eval_images(sources, **how, choose_seed=1)
    for wrong, message in (
        ({"choose_seed": 1}, "`choose_seed` goes with `samples`"),
        ({"samples": 2, "choose_seed": -1}, "`choose_seed` must be at least 0"),
        ({"samples": 0}, "`samples` must be at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            sk.open(tmp_path / "few.npy", **wrong)
        with pytest.raises(InputError, match=message):
            sk.eval_images(made=tmp_path / "few.npy", metrics=["is"], **wrong)


def test_bytes_are_what_they_were_however_fields_are_rounded(tmp_path):
    every = np.arange(256, dtype=np.uint8)
    fields = every.astype(np.float32) / np.float32(127.5) - 1
    for rounding, away in (("nearest", 0.4), ("floor", 0.9)):
        np.testing.assert_array_equal(pixels(fields, rounding), every)
        moved = (every[:-1] + away) / 127.5 - 1
        np.testing.assert_array_equal(pixels(moved, rounding), every[:-1])
    assert pixels(np.array([-1.2, 0.999, 1.5]), "floor").tolist() == [0, 254, 255]
    # half a byte lower on average, which a mean square error shows
    x = np.zeros((8, 16, 16))
    y = np.random.default_rng(0).uniform(-0.5, 0.5, (8, 16, 16))
    sources = {"truth": x, "made": y}
    for rounding in ("nearest", "floor"):
        found = sk.eval_images(
            sources, metrics=["psnr"], data_range=(-1, 1), rounding=rounding
        ).dataset
        error = pixels(y, rounding).astype(float) - pixels(x, rounding)
        by_hand = 10 * np.log10(255**2 / (error**2).mean(axis=(1, 2)))
        np.testing.assert_allclose(found["psnr"].sel(source="made"), by_hand, rtol=1e-9)
        assert rounding in found.attrs["pixels"]
    with pytest.raises(InputError, match="`rounding` must be one of nearest, floor"):
        sk.eval_images(sources, metrics=["psnr"], data_range=(-1, 1), rounding="up")
