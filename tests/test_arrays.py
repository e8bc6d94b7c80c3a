"""Stacks of fields and variance maps in .npy and .npz files."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from field_files import everything, noise, one_line, unit
from hypothesis import given
from hypothesis import strategies as st

from skild_physics.fields import (
    batches,
    channels_of,
    load_variance_map,
    open_fields,
)
from skild_physics.fields.lazy import BATCH_VALUES
from skild_physics.fields.writing import write_npz


@given(
    n=st.integers(5, 9),
    channels=st.integers(1, 4),
    N=st.integers(5, 12),
    dtype=st.sampled_from(["u1", "i1", "<i4", ">i2", "<f2", ">f4", "<f8"]),
    fortran=st.booleans(),
)
def test_layouts_of_a_stack_give_the_same_fields(tmp_path_factory, n, channels, N, dtype, fortran):
    path = tmp_path_factory.mktemp("stack") / "stack.npy"
    lowest = 0 if dtype == "u1" else -60
    fields = np.random.default_rng(n).integers(lowest, 120, (n, channels, N, N)).astype(dtype)
    expected = unit(fields) if dtype == "u1" else fields
    layouts = [fields, np.moveaxis(fields, 1, -1)] + [fields[:, 0]] * (channels == 1)
    for layout in layouts:
        np.save(path, np.asfortranarray(layout) if fortran else layout)
        with open_fields(path) as opened:
            assert opened.dims == ("sample", *(["channel"] if channels > 1 else []), "y", "x")
            assert (opened.shape[-1], len(opened)) == (N, n)
            assert (opened.source, len(channels_of(opened))) == ("stack.npy", channels)
            read = everything(opened)
            np.testing.assert_array_equal(opened.values.reshape(read.shape), read)
            np.testing.assert_allclose(read, expected, rtol=0, atol=2e-7)
            assert read.dtype in (np.float32, np.float64)
            assert read.dtype.isnative
            np.testing.assert_array_equal(np.concatenate(list(batches(opened, 2, 4))), read[2:4])


def test_stack_is_read_in_bounded_batches(tmp_path):
    path = tmp_path / "large.npy"
    np.lib.format.open_memmap(path, "w+", np.uint8, (100_000, 3, 64, 64))[0, 0] = 255
    with open_fields(path) as fields:
        batch = next(batches(fields))
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
    with pytest.raises(
        ValueError, match=r"array\.npy: (shape|holds|not a readable|values|no fields|. numbers)"
    ) as error:
        open_fields(path)
    one_line(error)


def test_damaged_npy_files_are_named(tmp_path):
    path = tmp_path / "array.npy"
    np.save(path, np.zeros((9, 8, 8)))
    whole = path.read_bytes()
    pickled = pickle.dumps([1, 2])
    broken = whole.replace(b"{'descr'", b"{'descr(")
    for content in (whole[:-1], whole[:100], whole[:5], b"", b"text\n", pickled, broken):
        path.write_bytes(content)
        for read in (open_fields, load_variance_map):
            with pytest.raises(ValueError, match="not a readable") as error:
                read(path)
            one_line(error, path)
    with pytest.raises(ValueError, match="no such file"):
        load_variance_map(tmp_path / "missing.npy")


def test_variance_maps(tmp_path):
    path = tmp_path / "map.npy"
    for shape in [(8, 8), (1, 8, 8), (3, 8, 8), (4, 8, 8)]:
        variance = np.random.default_rng(0).random(shape).astype(np.float32)
        np.save(path, variance)
        loaded = load_variance_map(path)
        assert loaded.dtype == np.float64
        np.testing.assert_array_equal(loaded, variance.reshape(-1, 8, 8))
        np.testing.assert_array_equal(load_variance_map(variance), loaded)
        # as well a few fields: it depends on what they are opened for
        fields = open_fields(path, data_range=(-1, 1)).values
        np.testing.assert_array_equal(fields.reshape(loaded.shape), loaded)
    for bad, word in [(-1.0, "negative"), (np.nan, "nan"), (np.inf, "infinity")]:
        variance[0, 0] = bad
        np.save(path, variance)
        with pytest.raises(ValueError, match=word) as error:
            load_variance_map(path)
        one_line(error, path)
    for shape in [(8, 7), (3, 8, 7), (8,), (5, 3, 8, 8), (0, 0)]:
        np.save(path, np.zeros(shape))
        with pytest.raises(ValueError, match="shape"):
            load_variance_map(path)


def test_an_array_that_is_changed_is_seen(tmp_path):
    """Fields of a file are read where they lie, not before."""
    path = tmp_path / "stack.npy"
    np.save(path, np.zeros((9, 8, 8)))
    fields = open_fields(path)
    np.load(path, mmap_mode="r+")[3] = 7
    assert fields[3].values.max() == 7


def test_a_damaged_npz_is_named(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, [noise(4, 3, 8, 8)], 4, {})
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match=r"a.npz: not a readable .npz file"):
        open_fields(path)


def test_an_npz_of_objects_is_not_unpickled(tmp_path):
    stored = io.BytesIO()
    np.save(stored, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0.npy", stored.getvalue())
    with pytest.raises(ValueError, match="allow_pickle"):
        open_fields(tmp_path / "a.npz")
