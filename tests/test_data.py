import hashlib
import io
import tarfile
import warnings

import numpy as np
import pytest
import torch
from field_files import noise, some_spins, usable, write_ensemble
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import skild_physics as sk
from skild_physics.fields import basis_of, channels_of, open_fields
from skild_physics.fields import cifar10 as published
from skild_physics.fields.hdf5 import write_pictures
from skild_physics.fields.lazy import scaled
from skild_physics.training.data import (
    TrainingFields,
    _compact,
    open_training_fields,
    random_symmetry,
    training_batch,
)

N = 8


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def everything(fields):
    return fields.take(torch.arange(fields.count)).numpy()


def streamed(source, **options):
    with open_fields(source, **options) as fields:
        return usable(fields)[0]


def write_archive(path, monkeypatch):
    with tarfile.open(path, "w:gz") as archive:
        for i in range(1, 6):
            content = noise(7, 3073, seed=i).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/data_batch_{i}.bin")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(published, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def folder(tmp_path):
    """Pictures of one red each, 0 to 22: two cannot be used, the values of 9 fit in no byte."""
    path = tmp_path / "photos"
    path.mkdir()
    for i in range(23):
        Image.new("RGB", (2 * N + 3, 3 * N), (i, 255 - i, 7)).save(path / f"{i:02}.png")
    Image.new("RGB", (N - 1, 40)).save(path / "04.png")
    (path / "22.png").write_text("hello")
    Image.fromarray(np.full((2 * N, 2 * N), 9 * 257 + 20, np.uint16)).save(path / "09.png")
    return path


def reds(fields):
    return set(np.rint((fields[:, 0, 0, 0] + 1) * 127.5).astype(int).tolist())


SOURCES = [
    *("spins", "field", "cifar10", "pictures", "tiles", "resized", "grey", "prepared"),
    *("u1", "f4", "f8", "array", "labelled"),
]
STACKS = ("u1", "f4", "f8", "array")


@pytest.fixture
def make_source(tmp_path, monkeypatch, request):
    """Kinds of sources, read in several batches, and the options they are opened with."""
    monkeypatch.setattr("skild_physics.fields.lazy.BATCH_VALUES", 1000)

    def make(kind):
        path, options = tmp_path / kind, {}
        if kind == "spins":
            write_ensemble(path, some_spins(50, N))
        elif kind == "field":
            values = np.random.default_rng(0).normal(size=(50, N, N))
            path = path.with_suffix(".h5")
            labelled = open_fields(values.astype(np.float32)).assign_attrs(basis="periodic")
            sk.save(labelled, path).close()
        elif kind == "prepared":
            rgb = ("red", "green", "blue")
            write_pictures(path, [noise(50, 3, N, N)], rgb, N, {}, {})
        elif kind == "array":
            path = noise(50, N, N, 3)
        elif kind == "labelled":
            write_ensemble(tmp_path / "spins", some_spins(70, N))
            path = open_fields(tmp_path / "spins")[10:60]
        elif kind == "cifar10":
            write_archive(tmp_path / published.ARCHIVE, monkeypatch)
            path, options = "cifar10", {"data_dir": tmp_path}
        elif kind in ("u1", "f4", "f8"):
            path = path.with_suffix(".npy")
            values = noise(50, 2, N, N)
            np.save(path, values if kind == "u1" else values.astype(kind) / 17 - 3)
        else:
            path = request.getfixturevalue("folder")
            option = {"tiles": "tile", "resized": "resize", "grey": "grey"}.get(kind)
            options = {"size": N} | ({option: True} if option else {})
        return path, options

    return make


@pytest.mark.parametrize("kind", SOURCES)
def test_fields_are_those_of_the_stream(make_source, kind):
    source, options = make_source(kind)
    expected = streamed(source, **options).astype(np.float32)
    fields, heldout = open_training_fields(source, **options)
    assert heldout is None
    assert fields.count == len(expected)
    opened = open_fields(source, **options)
    assert (fields.name, fields.channels) == (opened.source, channels_of(opened))
    assert (fields.size, fields.basis) == (opened.shape[-1], basis_of(opened))
    others = "none" if kind in STACKS else "mirror"
    named = {"spins": "torus", "labelled": "torus", "field": "none"}
    assert fields.symmetry == named.get(kind, others)
    np.testing.assert_array_equal(everything(fields), expected)
    shuffled = torch.randperm(fields.count, generator=seeded())
    shuffled = torch.cat([shuffled, shuffled[:5]])
    taken = fields.take(shuffled)
    assert taken.dtype == torch.float32
    np.testing.assert_array_equal(taken.numpy(), expected[shuffled])
    for empty in (fields.take(shuffled[:0]), training_batch(fields, 4, seeded(), slice(4, 9))):
        assert empty.shape == (0, *expected.shape[1:])
    for outside in (fields.count, -1):
        with pytest.raises(IndexError):
            fields.take(torch.tensor([outside]))


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("symmetry", [None, "mirror", "torus", "none"])
def test_parts_of_a_batch_are_the_batch(make_source, kind, symmetry):
    source, options = make_source(kind)
    if symmetry == "torus" and kind not in ("spins", "field", "labelled"):
        with pytest.raises(ValueError, match=r"'torus' is for periodic fields.*cosine") as error:
            open_training_fields(source, symmetry=symmetry, **options)
        assert open_fields(source, **options).source in str(error.value)
        return
    fields, heldout = open_training_fields(source, heldout=3, symmetry=symmetry, **options)
    assert symmetry in (None, fields.symmetry, heldout.symmetry)
    whole = training_batch(fields, 13, seeded(5))
    assert whole.shape == (13, len(fields.channels), fields.size, fields.size)
    assert whole.dtype == torch.float32
    generators = [seeded(5) for _ in range(4)]
    parts = [slice(0, 4), slice(4, 5), slice(5, 13), slice(None)]
    made = [
        training_batch(fields, 13, generator, part)
        for generator, part in zip(generators, parts, strict=True)
    ]
    assert torch.equal(torch.cat(made[:3]), whole)
    assert torch.equal(made[3], whole)
    assert torch.equal(training_batch(fields, 13, seeded(5), slice(1, None, 3)), whole[1::3])
    after = {float(torch.rand((), generator=generator)) for generator in generators}
    assert len(after) == 1
    assert not torch.equal(training_batch(fields, 13, generators[0]), whole)


def test_bytes_are_held_exactly_and_compactly():
    """Every pixel and both spins come back from one byte, other values from float32."""
    pixels = scaled(np.arange(256, dtype=np.uint8))
    assert _compact(pixels).dtype == np.uint8
    np.testing.assert_array_equal(_compact(pixels), np.arange(256))
    np.testing.assert_array_equal(_compact(pixels.astype(np.float64)), np.arange(256))
    np.testing.assert_array_equal(_compact(np.float32([-1, 1])), [0, 255])
    near = [np.nextafter(pixels, np.float32(side)) for side in (-2, 2)]
    strange = np.float32([[0, 0.5, 3, -1.01], [1e38, np.nan, np.inf, -np.inf]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for values in (*near, *strange, strange[0].astype(np.float64)):
            assert _compact(values).dtype == np.float32
            np.testing.assert_array_equal(_compact(values), values)
    numbers = np.random.default_rng(0).normal(size=99)
    np.testing.assert_array_equal(_compact(numbers), numbers.astype(np.float32))


@pytest.mark.parametrize("kind", SOURCES)
def test_what_does_not_fit_is_read_when_drawn(make_source, kind):
    source, options = make_source(kind)
    loaded, loaded_heldout = open_training_fields(source, heldout=4, **options)
    if kind == "tiles":
        with pytest.raises(ValueError, match=r"tiles of 23 pictures.*9\.31e-07 GiB") as error:
            open_training_fields(source, memory=1000, **options)
        assert "\n" not in str(error.value)
        return
    for memory in (0, loaded.count * len(loaded.channels) * loaded.size**2 - 1):
        fields, heldout = open_training_fields(source, heldout=4, memory=memory, **options)
        # pictures that are skipped are counted only when all are read
        if kind not in ("pictures", "resized", "grey"):
            assert (fields.count, heldout.count) == (loaded.count, loaded_heldout.count)
            np.testing.assert_array_equal(everything(fields), everything(loaded))
            np.testing.assert_array_equal(everything(heldout), everything(loaded_heldout))
            batches = [training_batch(f, 16, seeded(1)) for f in (fields, loaded)]
            assert torch.equal(*batches)


def test_large_sources_are_not_read_whole(tmp_path):
    path = tmp_path / "large.npy"
    np.lib.format.open_memmap(path, "w+", np.uint8, (200_000, 3, 128, 128))[150_000] = 255
    fields, heldout = open_training_fields(path, heldout=100_000)
    assert (fields.count, heldout.count) == (100_000, 100_000)
    taken = heldout.take(torch.tensor([3, 50_000]))
    assert taken[0].unique().tolist() == [-1]
    assert taken[1].unique().tolist() == [1]


@pytest.mark.parametrize("missing", [0, 1])
def test_memory_is_for_all_fields_together(tmp_path, missing):
    """Fields that are not loaded see the file change."""
    path = tmp_path / "stack.npy"
    np.save(path, noise(10, 1, N, N) / np.float32(3))
    parts = open_training_fields(path, heldout=5, memory=4 * 10 * N**2 - missing)
    np.load(path, mmap_mode="r+")[:] = -1
    assert [bool((everything(part) == -1).all()) for part in parts] == [missing == 1] * 2


@pytest.mark.parametrize("kind", ["spins", "field", "cifar10", "prepared", *STACKS, "labelled"])
@pytest.mark.parametrize("memory", [0, 2**30])
def test_the_last_items_are_held_out(make_source, kind, memory):
    source, options = make_source(kind)
    expected = streamed(source, **options).astype(np.float32)
    fields, heldout = open_training_fields(source, heldout=9, memory=memory, **options)
    assert (fields.count, heldout.count) == (len(expected) - 9, 9)
    np.testing.assert_array_equal(everything(fields), expected[:-9])
    np.testing.assert_array_equal(everything(heldout), expected[-9:])


@pytest.mark.parametrize(
    ("options", "memory"),
    [({}, 2**30), ({}, 0), ({"tile": True}, 2**30), ({"resize": True}, 0)],
)
def test_pictures_are_never_on_both_sides(folder, options, memory):
    """Drawn often enough that every picture, and every tile of it, comes up."""
    fields, heldout = open_training_fields(folder, heldout=15, size=N, memory=memory, **options)
    drawn = [training_batch(part, 400, seeded(2)).numpy() for part in (fields, heldout)]
    assert reds(drawn[0]) == {0, 1, 2, 3, 5, 6, 7}
    assert reds(drawn[1]) == set(range(8, 22))
    if options.get("tile"):
        assert fields.count == 7 * 2 * 3
        assert heldout.count == 13 * 2 * 3 + 2 * 2
    elif memory:
        assert (fields.count, heldout.count) == (7, 14)
    else:
        assert (fields.count, heldout.count) == (8, 15)


@pytest.mark.parametrize("memory", [0, 2**30])
def test_skipped_pictures_are_named_and_stop_nothing(folder, memory):
    fields, heldout = open_training_fields(folder, heldout=2, size=N, memory=memory)
    for _ in range(2):
        assert reds(everything(fields)) == set(range(21)) - {4}
        assert reds(everything(heldout)) == {21}
    assert sorted(fields.skipped) == ["04.png", "22.png"]
    assert "7 x 40 pixels" in fields.skipped["04.png"]
    assert heldout.skipped == fields.skipped
    if memory:
        assert (fields.count, heldout.count) == (20, 1)
    else:
        assert torch.equal(*fields.take(torch.tensor([5, 4])))
        assert torch.equal(*heldout.take(torch.tensor([0, 1])))
        fields, _ = open_training_fields(folder, heldout=18, size=N, memory=0)
        assert torch.equal(*fields.take(torch.tensor([0, 4])))


@pytest.mark.parametrize("memory", [0, 2**30])
def test_a_part_without_usable_pictures(folder, memory):
    with pytest.raises(ValueError, match=r"all pictures 23 \.\. 23 .*22\.png: not a pict") as error:
        everything(open_training_fields(folder, heldout=1, size=N, memory=memory)[1])
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"all pictures 1 \.\. 23 were skipped"):
        everything(open_training_fields(folder, size=99, memory=memory)[0])


def test_pictures_over_the_limit_are_skipped_by_every_thread(folder, monkeypatch):
    """The warning of them becomes an error by filters that belong to the whole process."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    over = set(range(10, 22, 2))
    for i in over:
        Image.new("RGB", (70, 60), (i, 0, 0)).save(folder / f"{i}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        before = list(warnings.filters)
        fields, _ = open_training_fields(folder, size=N, memory=0)
        drawn = reds(training_batch(fields, 200, seeded()).numpy())
        assert warnings.filters == before
    assert drawn == set(range(22)) - over - {4}
    assert "3000" in fields.skipped["12.png"]


@pytest.mark.parametrize("kind", ["spins", "cifar10", "pictures", "u1", "array"])
@pytest.mark.parametrize("heldout", ["all", "more", -1])
def test_heldout_must_leave_something(make_source, kind, heldout):
    source, options = make_source(kind)
    with open_fields(source, **options) as opened:
        count, name = len(opened), opened.source
    heldout = {"all": count, "more": 1234567}.get(heldout, heldout)
    with pytest.raises(ValueError, match="heldout") as error:
        open_training_fields(source, heldout=heldout, **options)
    for part in (name, f"less than the {count} items", f"got {heldout:,}"):
        assert str(part) in str(error.value)
    assert open_training_fields(source, heldout=count - 1, symmetry="none", **options)[0].count == 1


def test_errors_of_sources_come_through(tmp_path, folder):
    with pytest.raises(ValueError, match="no such file or folder"):
        open_training_fields(tmp_path / "missing.h5")
    with pytest.raises(ValueError, match="exclude each other"):
        open_training_fields(folder, tile=True, resize=True)
    np.save(tmp_path / "stack.npy", noise(9, N, N))
    with pytest.raises(ValueError, match="`size` is for folders"):
        open_training_fields(tmp_path / "stack.npy", size=N + 1)


# symmetries


def fixed(values, symmetry, basis="periodic"):
    """Training fields (count, C, N, N) that are given as they are."""
    values = torch.as_tensor(values, dtype=torch.float32)
    count, channels, size, _ = values.shape
    names = tuple(str(i) for i in range(channels))
    return TrainingFields("fixed", names, size, basis, count, symmetry, values.__getitem__)


def test_all_symmetries_of_the_torus_occur_in_equal_shares():
    """A field without symmetry of its own takes all 2 * 8 * L^2 forms, both channels the same."""
    L = 3
    field = np.random.default_rng(4).permutation(np.arange(1, 10)).reshape(L, L)
    fields = fixed(np.stack([field, 10 * field])[None], "torus")
    many = training_batch(fields, 20_000, seeded())
    assert torch.equal(many[:, 1], 10 * many[:, 0])
    forms, counts = torch.unique(many[:, 0].reshape(-1, L**2), dim=0, return_counts=True)
    expected = {
        tuple((sign * np.roll(turned, shift, (0, 1))).ravel().tolist())
        for mirrored in (field, field.T)
        for turned in (np.rot90(mirrored, k) for k in range(4))
        for shift in np.ndindex(L, L)
        for sign in (1, -1)
    }
    assert {tuple(form) for form in forms.int().tolist()} == expected
    assert len(expected) == 2 * 8 * L**2
    mean = 20_000 / len(expected)
    assert float((counts - mean).square().sum() / mean) < len(expected) + 4 * np.sqrt(
        2 * len(expected)
    )


@given(
    L=st.integers(2, 9),
    channels=st.integers(0, 3),
    dtype=st.sampled_from([torch.int8, torch.int64, torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
def test_symmetries_move_channels_of_any_type_together(L, channels, dtype, seed):
    """0 channels stand for fields without that axis."""
    fields = torch.randint(-9, 10, (5, max(channels, 1), L, L), generator=seeded(seed)).to(dtype)
    moved = random_symmetry(fields if channels else fields[:, 0], seeded(seed))
    assert moved.dtype == dtype
    assert moved.shape == (fields.shape if channels else fields[:, 0].shape)
    for c in range(channels):
        assert torch.equal(random_symmetry(fields[:, c], seeded(seed)), moved[:, c])
    assert torch.equal(moved.abs().flatten(1).sort().values, fields.abs().flatten(1).sort().values)
    assert random_symmetry(fields[:0], seeded(seed)).shape == (0, *fields.shape[1:])


def test_mirror_is_left_and_right_of_half_of_the_fields():
    values = torch.arange(2 * 3 * 16.0).reshape(2, 3, 4, 4)
    many = training_batch(fixed(values, "mirror", "cosine"), 4000, seeded(3))
    forms, counts = torch.unique(many.flatten(1), dim=0, return_counts=True)
    expected = torch.cat([values, values.flip(-1)]).flatten(1)
    assert {tuple(form) for form in forms.tolist()} == {tuple(f) for f in expected.tolist()}
    assert (counts - 1000).abs().max() < 4.5 * np.sqrt(4000 * 3 / 16)


def test_without_symmetry_fields_are_drawn_as_they_are():
    values = torch.randn(6, 1, 4, 4, generator=seeded())
    many = training_batch(fixed(values, "none"), 6000, seeded(3))
    forms, counts = torch.unique(many.flatten(1), dim=0, return_counts=True)
    assert sorted(forms.tolist()) == sorted(values.flatten(1).tolist())
    assert (counts - 1000).abs().max() < 4.5 * np.sqrt(6000 * 5 / 36)
