"""Files of pictures: their order, their names through every step, links, and single pictures."""

import json
import os

import numpy as np
import pytest
from command_line import run
from field_files import close, everything, noise, one_line, unit, usable
from PIL import Image

import skild_physics as sk
from skild_physics.fields import pictures_of
from skild_physics.fields.writing import check_fields_output
from skild_physics.files import InputError


def picture(path, *shape, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(*(shape or (8, 8, 3)), seed=seed)).save(path)
    return path


def names(fields):
    return fields["name"].values.tolist()


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "photos"
    path.mkdir()
    return path


# order and names


def test_numbers_are_in_the_order_of_numbers(folder):
    order = ["1", "2", "10", "a", "a1", "a2b3", "a2b10", "a10", "b/2", "b/11", "b2/1", "b10/1"]
    for i in np.random.default_rng(0).permutation(len(order)).tolist():
        picture(folder / f"{order[i]}.png", seed=i)
    fields = sk.open(folder)
    assert names(fields) == order
    for i, field in enumerate(everything(fields)):
        close(field, unit(noise(8, 8, 3, seed=i)).transpose(2, 0, 1))
    assert names(fields[[3, 1]]) == ["a", "2"]


def test_padded_numbers_are_in_the_same_order(folder):
    for name in ("001", "002", "010", "100"):
        picture(folder / f"{name}.png")
    assert names(sk.open(folder)) == ["001", "002", "010", "100"]


def test_suffixes_tell_apart_what_nothing_else_does(folder):
    for name in ("a.png", "a.bmp", "b.PNG"):
        picture(folder / name)
    assert names(sk.open(folder)) == ["a.bmp", "a.png", "b"]


def test_tiles_share_the_name_of_their_picture(folder):
    picture(folder / "wide.png", 8, 25, 3)
    picture(folder / "small.png", 8, 8, 3)
    fields = sk.open(folder, size=8, tile=True)
    assert names(fields) == ["small", "wide", "wide", "wide"]
    assert pictures_of(fields).tolist() == [0, 1, 1, 1]


def test_a_name_that_is_no_unicode(folder):
    path = os.path.join(os.fsencode(folder), b"caf\xe9.png")
    with open(path, "wb") as file:
        Image.fromarray(noise(8, 8, 3)).save(file, "PNG")
    assert names(sk.coarse_grain(folder, factor=2, out=folder.parent / "x.h5")) == ["caf\ufffd"]


# links


def test_links_to_folders_are_followed_once(tmp_path, folder, caplog):
    picture(tmp_path / "elsewhere" / "in" / "x.png")
    picture(folder / "own.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "file.png").symlink_to(tmp_path / "elsewhere" / "in" / "x.png")
    assert names(sk.open(folder)) == ["file", "linked/in/x", "own"]
    assert not caplog.records
    # circles, and the same folder under another name
    (tmp_path / "elsewhere" / "in" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "self").symlink_to(folder, target_is_directory=True)
    (folder / "twice").symlink_to(tmp_path / "elsewhere" / "in", target_is_directory=True)
    assert names(sk.open(folder)) == ["file", "own", "twice/x"]
    assert f"{folder / 'self'}: is the same folder as {folder}, and not read twice" in caplog.text


def test_broken_links_are_said(folder, caplog):
    picture(folder / "a.png")
    (folder / "more").symlink_to(folder / "nowhere")
    assert names(sk.open(folder)) == ["a"]
    assert f"{folder / 'more'}: is a broken link, and left out" in caplog.text
    (folder / "b.png").symlink_to(folder / "nowhere.png")
    fields = sk.open(folder)
    assert usable(fields)[1] == {"b.png": "a broken link"}
    with pytest.raises(InputError, match="a broken link") as error:
        everything(fields)
    one_line(error, folder / "b.png")


# single pictures


def test_one_picture_is_one_field(folder):
    path = picture(folder / "one.PNG", 16, 16, 3)
    fields = sk.open(path)
    assert (fields.shape, fields.source, names(fields)) == ((1, 3, 16, 16), "one.PNG", ["one"])
    close(fields.values[0], unit(noise(16, 16, 3)).transpose(2, 0, 1))
    assert sk.open(path, size=4, tile=True, grey=True).shape == (16, 4, 4)
    coarse = sk.coarse_grain(str(path), factor=4, out=folder / "small")
    assert coarse.shape == (1, 3, 4, 4)
    assert sorted(os.listdir(folder / "small")) == ["one.png", "provenance.json"]
    with pytest.raises(InputError, match="needs at least 2 fields or pictures, got 1"):
        sk.fit_spectrum(path)


def test_one_picture_that_cannot_be_used(folder):
    wide = picture(folder / "wide.png", 8, 10, 3)
    with pytest.raises(InputError, match=r"10 x 8 pixels are no square; pass `size=N`") as error:
        sk.open(wide)
    one_line(error, wide)
    assert sk.open(wide, size=8).shape == (1, 3, 8, 8)
    (folder / "junk.png").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"junk\.png: not a readable picture"):
        sk.open(folder / "junk.png")


# names through files


@pytest.fixture
def named(folder):
    for i, name in enumerate(("baboon.jpg", "Set5/10.png", "Set5/9.png", "zebra.bmp")):
        picture(folder / name, 12, 12, 3, seed=i)
    return folder


NAMED = ["Set5/9", "Set5/10", "baboon", "zebra"]


@pytest.mark.parametrize("name", ["coarse-grain", "interpolate"])
def test_folders_keep_the_names_of_pictures(named, tmp_path, name):
    function = {"coarse-grain": sk.coarse_grain, "interpolate": sk.interpolate}[name]
    kept = function(named, factor=2)
    written = function(named, factor=2, out=tmp_path / "out")
    run(f"{name} photos --factor 2 --out command", tmp_path)
    for folder in ("out", "command"):
        files = [
            os.path.relpath(each, tmp_path / folder) for each in (tmp_path / folder).rglob("*.png")
        ]
        assert sorted(files) == sorted(f"{each}.png" for each in NAMED)
        said = json.loads((tmp_path / folder / "provenance.json").read_text())
        assert said["files"] == [f"{each}.png" for each in NAMED]
        assert names(sk.open(tmp_path / folder)) == names(kept) == names(written) == NAMED
    np.testing.assert_allclose(written, kept.clip(-1, 1), atol=1 / 255 + 1e-6)


def test_fields_in_another_order_stay_with_their_names(named, tmp_path):
    given = sk.open(named)[[3, 0, 2]]
    for out in ("x", "x.h5", "x.npz"):
        saved = sk.save(given, tmp_path / out)
        assert names(saved) == ["zebra", "Set5/9", "baboon"]
        assert saved["sample"].values.tolist() == [3, 0, 2]
        np.testing.assert_array_equal(saved, given)
    assert names(sk.open(tmp_path / "x.h5")) == ["zebra", "Set5/9", "baboon"]
    by_name = sk.open(tmp_path / "x").sortby("name")
    np.testing.assert_array_equal(by_name, given.sortby("name"))


@pytest.mark.parametrize(
    ("called", "reason"),
    [
        (["../a", "b"], "no names of files"),
        (["/tmp/a", "b"], "no names of files"),
        ([".hidden", "b"], "no names of files"),
        (["", "b"], "no names of files"),
        (["a", "a"], "those of several"),
        (["a", "a.png/b"], "those of folders"),
    ],
)
def test_names_that_cannot_be_those_of_files(tmp_path, caplog, called, reason):
    caplog.set_level("INFO", "skild_physics")
    (tmp_path / "in").mkdir()
    fields = sk.open(unit(noise(2, 3, 8, 8))).assign_coords(name=("sample", called))
    sk.save(fields, tmp_path / "in" / "out")
    assert sorted(os.listdir(tmp_path / "in" / "out")) == [
        "000000.png",
        "000001.png",
        "provenance.json",
    ]
    assert (os.listdir(tmp_path), os.listdir(tmp_path / "in")) == (["in"], ["out"])
    assert reason in caplog.text


def test_prepared_pictures_keep_their_names(named, tmp_path):
    (named / "Set5" / "9.png").write_bytes(b"junk")
    with sk.prepare_images(named, out=tmp_path / "p.h5", size=8) as fields:
        assert names(fields) == NAMED[1:]
    tiles = sk.prepare_images(named, out=tmp_path / "t.h5", size=6, tile=True)
    assert names(tiles) == [name for name in NAMED[1:] for _ in range(4)]
    one = sk.prepare_images(named / "baboon.jpg", out=tmp_path / "one.h5", size=4, tile=True)
    assert names(one) == ["baboon"] * 9


# what may be replaced


def test_only_what_was_written_here_is_replaced(named, tmp_path):
    out = tmp_path / "out"
    sk.coarse_grain(named, factor=2, out=out)
    with pytest.raises(InputError, match="`overwrite=True`"):
        sk.coarse_grain(named, factor=3, out=out)
    assert check_fields_output(out) == "png"
    intruders = {
        "a file": lambda: picture(out / "Set5" / "11.png"),
        "an empty folder": lambda: (out / "Set6").mkdir(),
        "a hidden file": lambda: (out / ".x").touch(),
        "a number": lambda: picture(out / "000000.png"),
        "a link": lambda: (out / "Set6").symlink_to(named),
    }
    for add in intruders.values():
        before = set(out.rglob("*"))
        add()
        with pytest.raises(InputError, match="holds other files"):
            sk.coarse_grain(named, factor=2, out=out, overwrite=True)
        for new in set(out.rglob("*")) - before:
            new.rmdir() if new.is_dir() and not new.is_symlink() else new.unlink()
    # one in place of which there is a link to a file of somebody
    (out / "zebra.png").unlink()
    (out / "zebra.png").symlink_to(named / "zebra.bmp")
    with pytest.raises(InputError, match="holds other files"):
        check_fields_output(out)
    (out / "zebra.png").unlink()
    assert names(sk.coarse_grain(named, factor=3, out=out, overwrite=True)) == NAMED
    # a note that lists nothing, or is none
    for note in ("{}", "[]", "{", '{"files": 3}', '{"files": ["baboon.png"]}'):
        (out / "provenance.json").write_text(note)
        with pytest.raises(InputError, match="holds other files"):
            check_fields_output(out)
    assert len(list(named.rglob("*.*"))) == 4


def test_suffixes_in_capitals(named, tmp_path):
    fields = sk.save(named, tmp_path / "a.NPZ")
    with np.load(tmp_path / "a.NPZ") as archive:
        assert archive["arr_0"].shape == (4, 12, 12, 3)
    np.testing.assert_array_equal(sk.open(tmp_path / "a.NPZ"), fields)
    assert sk.save(named, tmp_path / "a.H5").shape == (4, 3, 12, 12)
    for name in ("a.png", "a.JPEG"):
        with pytest.raises(InputError, match="is the name of one picture; pictures go into") as e:
            sk.save(named, tmp_path / name)
        one_line(e, name)


# the range of 8 bits


@pytest.mark.parametrize("name", ["x", "x.npz"])
def test_what_8_bits_cannot_hold_is_counted(tmp_path, caplog, name):
    caplog.set_level("INFO", "skild_physics")
    values = np.random.default_rng(0).uniform(-1, 1, (10, 1, 10, 10))
    values[:, 0, 0, 0] = 1 + 0.9 / 255
    sk.save(values, tmp_path / name)
    assert "%" not in caplog.text
    values[:5, 0, 0, 0] = -1.5
    sk.save(values, tmp_path / name, overwrite=True)
    assert (
        f"{tmp_path / name}: 0.5 % of the values lie outside [-1, 1] and are clipped" in caplog.text
    )
    values[:, 0, 1] = 7
    message = r"more than 1 % of the values lie outside \[-1, 1\], from -1.5 to 7; write HDF5"
    with pytest.raises(InputError, match=message) as error:
        sk.save(values, tmp_path / name, overwrite=True)
    one_line(error, tmp_path / name)
    # the old file is still there
    kept = sk.open(tmp_path / name, **({"grey": True} if name == "x" else {}))
    assert float(kept.max()) == 1
    # what was made here has a range that is known
    made = sk.interpolate(values, factor=2, out=tmp_path / name, overwrite=True)
    assert (len(made), float(made.max())) == (10, 1)
    share = float((abs(sk.interpolate(values, factor=2)) > 1 + 1 / 255).mean())
    assert f"{tmp_path / name}: {100 * share:.2g} % of the values lie outside" in caplog.text
    np.testing.assert_allclose(sk.save(values, tmp_path / "x.h5")[:, 1], 7)


def test_models_say_what_their_pictures_lose(tmp_path, caplog):
    caplog.set_level("INFO", "skild_physics")
    how = {"sampler": sk.Multistep(2), "batch_size": 1}
    model = sk.load("bundled")
    made = model.generate(2, **how)
    model.generate(2, out=tmp_path / "png", **how)
    share = float((abs(made) > 1 + 1 / 255).mean())
    assert f"png: {100 * share:.2g} % of the values" in caplog.text
