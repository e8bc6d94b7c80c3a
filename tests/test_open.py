"""One way in for every kind of source, and what comes of it."""

import os
import pickle

import numpy as np
import pytest
import torch
import xarray as xr
from field_files import close, everything, noise, one_line, some_spins, unit, write_ensemble
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import skild_physics as sk
from skild_physics.fields import WORDS, basis_of, batches, channels_of, open_fields, pictures_of
from skild_physics.fields.hdf5 import write_pictures
from skild_physics.fields.lattice import field_file, open_dataset
from skild_physics.files import InputError

RGB = ("red", "green", "blue")
OPTIONS = [{"size": 5}, {"tile": True}, {"resize": True}, {"grey": True}]


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "photos"
    path.mkdir()
    for i in range(12):
        Image.fromarray(noise(8, 8, 3, seed=i)).save(path / f"{i:02}.png")
    return path


@pytest.fixture
def ensemble(tmp_path):
    return write_ensemble(tmp_path / "ising.h5", some_spins(50, 16))


def test_an_ensemble_is_spins(ensemble):
    with open_dataset(ensemble) as data:
        expected = data["spins"].values
    with open_fields(ensemble) as fields:
        assert (fields.dims, fields.shape) == (("sample", "y", "x"), (50, 16, 16))
        assert (fields.source, fields.basis, fields.dtype) == ("ising.h5", "periodic", np.int8)
        assert channels_of(fields) == ("spin",)
        np.testing.assert_array_equal(fields.values, expected)
        read = everything(fields)
        np.testing.assert_array_equal(read[:, 0], expected)
        np.testing.assert_array_equal(next(batches(fields, 7, 9))[:, 0], expected[7:9])
    assert (read.dtype, read.flags.c_contiguous) == (np.float32, True)


def test_the_output_of_a_model_is_fields(tmp_path):
    path = tmp_path / "generated.h5"
    fields = np.random.default_rng(0).normal(size=(5, 8, 8)).astype(np.float32)
    sk.save(fields, path).close()
    with open_fields(str(path)) as opened:
        assert channels_of(opened) == ("field",)
        np.testing.assert_array_equal(opened, fields)
        np.testing.assert_array_equal(everything(opened)[:, 0], fields)
    with xr.open_dataset(path, engine="h5netcdf") as data:
        flat = data.load().isel(y=slice(4))
    flat.to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ValueError, match="4 x 8") as error:
        open_fields(path)
    one_line(error, path)


def test_prepared_pictures_are_read_back(tmp_path):
    pixels = noise(7, 3, 8, 8)
    count = write_pictures(
        tmp_path / "p.h5", [pixels[:3], pixels[:0], pixels[3:]], RGB, 8, {"source": "photos"}, {}
    )
    assert count == 7
    with field_file(tmp_path / "p.h5") as fields:
        assert (basis_of(fields), channels_of(fields), fields.source) == ("cosine", RGB, "p.h5")
        assert fields.dtype == np.float32
        assert fields["channel"].values.tolist() == list(RGB)
        np.testing.assert_array_equal(everything(fields), unit(pixels))
        np.testing.assert_array_equal(
            np.concatenate(list(batches(fields, 4, 6))), unit(pixels[4:6])
        )
        np.testing.assert_array_equal(fields[[5, 0, 5]], unit(pixels[[5, 0, 5]]))
        np.testing.assert_array_equal(fields[3:, 1, ::2, 4], unit(pixels[3:, 1, ::2, 4]))
    write_pictures(tmp_path / "grey.h5", [pixels[:, :1]], ("grey",), 8, {}, {})
    with field_file(tmp_path / "grey.h5") as fields:
        assert (fields.dims, channels_of(fields)) == (("sample", "y", "x"), ("grey",))
        np.testing.assert_array_equal(fields[2:4], unit(pixels[2:4, 0]))
    with pytest.raises(ValueError, match="no picture can be used, of 2"):
        write_pictures(tmp_path / "q.h5", [pixels[:0]], ("grey",), 8, {}, {"a": "x", "b": "x"})
    assert not (tmp_path / "q.h5").exists()


# options


@pytest.mark.parametrize("option", OPTIONS)
def test_options_that_do_not_apply_are_refused(tmp_path, ensemble, option):
    stack = tmp_path / "stack.npy"
    np.save(stack, np.zeros((9, 8, 8)))
    # photographs are cut to any size
    others = () if "size" in option else ("photographs", "photographs-test")
    for source in ("cifar10", stack, ensemble, *others):
        with pytest.raises(InputError, match=f"^`{next(iter(option))}` is for folders") as error:
            open_fields(source, **option)
        one_line(error, source)
    for source in (np.zeros((9, 8, 8)), open_fields(ensemble)):
        with pytest.raises(InputError, match=f"^`{next(iter(option))}` is for pictures"):
            open_fields(source, **option)


def test_the_size_of_a_file_may_be_said_again(tmp_path, ensemble):
    assert open_fields(ensemble, size=16).shape == (50, 16, 16)
    write_pictures(tmp_path / "p.h5", [noise(7, 3, 8, 8)], RGB, 8, {}, {})
    assert open_fields(tmp_path / "p.h5", size=8, resize=True).shape == (7, 3, 8, 8)
    with pytest.raises(InputError, match="`size` is for folders"):
        open_fields(tmp_path / "p.h5", size=4, resize=True)
    with pytest.raises(InputError, match="`resize` is for folders"):
        open_fields(ensemble, size=16, resize=True)


@pytest.mark.parametrize("option", ["resize", "tile"])
def test_pictures_are_not_cut_to_the_size_they_have(folder, option):
    with pytest.raises(InputError, match=rf"`{option}` of .* goes with `size`") as error:
        open_fields(folder, **{option: True})
    one_line(error, folder)


def test_data_dir_is_for_cifar10(folder, ensemble):
    for source in (folder, ensemble):
        with pytest.raises(ValueError, match="`data_dir` is for cifar10") as error:
            open_fields(source, data_dir=folder)
        one_line(error, source)


def test_the_first_so_many(folder, ensemble):
    for source in (folder, ensemble, noise(9, 8, 8)):
        whole = open_fields(source)
        with open_fields(source, samples=5) as first:
            xr.testing.assert_identical(first.load(), whole[:5].load())
        assert len(open_fields(source, samples=1000)) == len(whole)
        with pytest.raises(InputError, match="`samples` must be at least 1, got 0"):
            open_fields(source, samples=0)


def test_a_part_of_a_file_can_be_closed(ensemble):
    def is_open():
        files = [os.path.realpath(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")]
        return str(ensemble) in files

    for options in ({}, {"samples": 5}):
        with open_fields(ensemble, **options) as fields:
            fields.load()
            assert is_open()
        assert not is_open()
    with pytest.raises(InputError, match="`size` is for folders"):
        open_fields(ensemble, size=5)
    assert not is_open()


# words


def test_words_are_no_files_but_folders_of_their_name_can_be_told(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    folder.rename("photographs")
    assert "photographs" in WORDS
    assert open_fields("photographs").shape[1:] == (3, 64, 64)
    assert open_fields("photographs-test", size=32).source == "photographs-test"
    assert open_fields("./photographs").shape == (12, 3, 8, 8)


def test_sources_that_are_nothing(tmp_path):
    missing = tmp_path / "missing.h5"
    with pytest.raises(ValueError, match="no such file or folder") as error:
        open_fields(missing)
    one_line(error, missing)
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(ValueError, match="not a readable") as error:
        open_fields(text)
    one_line(error, text)


# arrays


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i8", "f2", "f4", "f8"])
def test_arrays_of_numpy_and_torch_are_the_same_fields(channels, dtype):
    values = noise(9, channels, 8, 8, seed=3).astype(np.int8).astype(dtype)
    tensor = torch.from_numpy(values)
    layouts = [values, np.moveaxis(values, 1, -1), tensor, tensor.movedim(1, -1)]
    if dtype.startswith("f"):
        layouts.append(tensor.clone().requires_grad_())
    if channels == 1:
        layouts += [values[:, 0], tensor[:, 0]]
    expected = unit(values) if dtype == "u1" else values
    for layout in layouts:
        fields = open_fields(layout)
        assert (fields.source, fields.basis, len(channels_of(fields))) == (
            *("array", "unknown"),
            channels,
        )
        np.testing.assert_array_equal(fields.values.reshape(expected.shape), expected)
        assert fields.dtype == expected.dtype
        np.testing.assert_array_equal(everything(fields), expected.astype("f8"))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((9, 8, 8), complex),
        np.zeros((9, 8, 8), np.uint16),
        np.array(["a", "b"]),
        np.zeros((9, 8, 7)),
        np.zeros((0, 8, 8)),
        [1, 2, 3],
        None,
    ],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(
        InputError, match=r"array: (shape|holds|values|no fields|. numbers)"
    ) as error:
        open_fields(array)
    one_line(error)


def test_a_labelled_array_stays_as_it_is(ensemble):
    fields = open_fields(ensemble)
    assert open_fields(fields) is fields
    part = fields[[7, 3]]
    assert open_fields(part) is part
    assert open_fields(part)["sample"].values.tolist() == [7, 3]
    bare = xr.DataArray(np.ones((4, 3, 8, 8)), dims=("sample", "channel", "y", "x"))
    opened = open_fields(bare)
    assert opened["sample"].values.tolist() == [0, 1, 2, 3]
    assert basis_of(opened) == "cosine"
    assert channels_of(opened) == ("channel 1", "channel 2", "channel 3")
    assert pictures_of(opened).tolist() == [0, 1, 2, 3]


def test_bytes_of_a_labelled_array_are_pixels():
    pixels = noise(9, 3, 8, 8)
    coords = {"sample": np.arange(9) + 5, "label": ("sample", list("abcdefghi"))}
    array = xr.DataArray(
        pixels, coords, ("sample", "channel", "y", "x"), attrs={"channels": "red,green,blue"}
    )
    fields = open_fields(array)
    assert (fields.dtype, channels_of(fields)) == (np.float32, RGB)
    assert fields[3:]["label"].values.tolist() == list("defghi")
    np.testing.assert_array_equal(fields[2:5].values, unit(pixels[2:5]))
    close(everything(fields), unit(pixels))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (xr.DataArray(np.zeros((9, 8, 8)), dims=("a", "b", "d")), r"dimensions \(a, b, d\)"),
        (xr.DataArray(np.zeros((9, 8, 8)), dims=("sample", "time", "y")), "mean the same|which"),
        (xr.DataArray(np.zeros((9, 8, 7)), dims=("sample", "y", "x")), "8 x 7 sites"),
        (xr.DataArray(np.zeros((0, 8, 8)), dims=("sample", "y", "x")), "no fields"),
        (xr.DataArray(np.zeros((9, 8, 8), complex), dims=("sample", "y", "x")), "holds complex"),
    ],
)
def test_other_labelled_arrays_are_refused(array, message):
    with pytest.raises(InputError, match=message) as error:
        open_fields(array)
    one_line(error)


# laziness


@pytest.fixture
def counted(folder, monkeypatch):
    """The folder, and the names of the pictures that were decoded."""
    opened = []
    fields = open_fields(folder)
    original = Image.open

    def note(path, **options):
        opened.append(path.name)
        return original(path, **options)

    monkeypatch.setattr(Image, "open", note)
    return fields, opened


def test_only_what_is_looked_at_is_read(counted):
    fields, opened = counted
    part = fields[5:9][::2]
    assert (len(fields), part["sample"].values.tolist()) == (12, [5, 7])
    repr(part)
    assert part.attrs == fields.attrs
    assert opened == []
    values = part.values
    assert sorted(opened) == ["05.png", "07.png"]
    expected = [noise(8, 8, 3, seed=i).transpose(2, 0, 1) for i in (5, 7)]
    np.testing.assert_array_equal(values, unit(np.stack(expected)))
    opened.clear()
    assert fields[3].values.shape == (3, 8, 8)
    assert (
        fields.sel(sample=4, channel="green")[2, 3].values == unit(noise(8, 8, 3, seed=4))[2, 3, 1]
    )
    assert opened == ["03.png", "04.png"]


def kinds(tmp_path):
    """The same 12 fields in every kind of file."""
    pixels = np.stack([noise(8, 8, 3, seed=i).transpose(2, 0, 1) for i in range(12)])
    (tmp_path / "folder").mkdir()
    for i, picture in enumerate(pixels):
        Image.fromarray(picture.transpose(1, 2, 0)).save(tmp_path / "folder" / f"{i:02}.png")
    np.save(tmp_path / "a.npy", pixels)
    np.savez(tmp_path / "a.npz", pixels)
    sk.save(unit(pixels), tmp_path / "f.h5").close()
    write_pictures(tmp_path / "p.h5", [pixels], RGB, 8, {}, {})
    return [tmp_path / name for name in ("folder", "a.npy", "a.npz", "f.h5", "p.h5")], unit(pixels)


@pytest.fixture(scope="module")
def same(tmp_path_factory):
    sources, expected = kinds(tmp_path_factory.mktemp("kinds"))
    return [open_fields(source) for source in sources], expected


def slices(size):
    # xarray itself fails on empty ones that run backwards
    return st.slices(size).filter(lambda each: len(range(size)[each]) or (each.step or 1) > 0)


of_samples = st.one_of(
    st.integers(-12, 11),
    slices(12),
    st.lists(st.booleans(), min_size=12, max_size=12).map(np.array),
    st.lists(st.integers(-12, 11), max_size=9).map(lambda each: np.array(each, int)),
)
inside = st.one_of(st.integers(-3, 2), slices(3))


@given(of_samples, inside, slices(8))
def test_indices_are_those_of_numpy(same, which, channel, row):
    opened, expected = same
    numbers = np.arange(12)[which]
    for fields in opened:
        part = fields[which]
        np.testing.assert_array_equal(part["sample"], numbers)
        np.testing.assert_array_equal(part.values, expected[which])
        nested = part[..., row, 1].isel(channel=channel)
        of_them = expected[which][..., row, 1]
        axis = (slice(None),) * (of_them.ndim - 2)
        np.testing.assert_array_equal(nested.values, of_them[(*axis, channel)])


def test_indices_outside_are_refused(same):
    for fields in same[0]:
        for outside in (12, -13, [3, 12]):
            with pytest.raises(IndexError):
                fields[outside].values  # noqa: B018


def test_fields_of_files_can_be_sent_to_other_processes(ensemble):
    """By the names of their files, not by their values."""
    fields = open_fields(ensemble)[30:][::3]
    sent = pickle.dumps(fields)
    assert len(sent) < 6000
    received = pickle.loads(sent)
    xr.testing.assert_identical(received.load(), fields.load())


def test_the_coordinate_of_samples_survives(same, tmp_path):
    opened, expected = same
    for fields in opened:
        part = fields[4:][::3]
        coarse = sk.coarse_grain(part, factor=2)
        fine = sk.interpolate(coarse, factor=2)
        kept = sk.save(fine, tmp_path / "fine.h5", overwrite=True)
        for each in (coarse, fine, kept):
            assert each["sample"].values.tolist() == [4, 7, 10]
        truth, paired = xr.align(fields, kept, join="inner")
        assert paired.shape == (3, 3, 8, 8)
        np.testing.assert_array_equal(truth, expected[4::3])
        kept.close()


@pytest.mark.parametrize("length", [None, 1, 5, 50])
def test_batches_are_floats_in_order(same, length):
    opened, expected = same
    for fields in opened:
        for start, stop in ((0, None), (0, 12), (3, 9), (5, 99), (4, 4)):
            found = list(batches(fields, start, stop, length=length))
            assert all(len(batch) <= (length or 12) for batch in found)
            joined = np.concatenate([np.empty((0, 3, 8, 8), np.float32), *found])
            np.testing.assert_array_equal(joined, expected[start:stop])


def test_a_file_that_breaks_while_it_is_read_is_named(tmp_path):
    path = tmp_path / "fields.h5"
    values = np.random.default_rng(0).normal(size=(300, 16, 16))
    sk.save(values, path).close()
    size = path.stat().st_size
    with open_fields(path) as fields:
        with open(path, "r+b") as file:
            file.seek(size // 3)
            file.write(bytes(size // 3))
        with pytest.raises(InputError, match=r"fields\.h5: damaged; fields from \d+ on") as error:
            everything(fields)
        one_line(error)
