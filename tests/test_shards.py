"""Results that are made a shard at a time, and go on after interruptions."""

import contextlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skild_physics.claims import claimed, discard, work_folder
from skild_physics.machine import World
from skild_physics.shards import make_shards, read_shards

ALONE = World(0, 1, torch.device("cpu"))
SETTINGS = {"seed": 1}


def squares(first, last):
    return {"a": np.arange(first, last) ** 2, "b": np.ones((last - first, 2))}


def fits(arrays, number):
    return arrays["a"].shape == (number,) and arrays["b"].shape == (number, 2)


def make(out, count, length, function=squares, settings=SETTINGS, **how):
    with claimed(out):
        progress = how.pop("progress", id)
        make_shards(out, settings, count, length, function, fits, ALONE, progress, **how)


def found(out, count, length):
    return np.concatenate([each["a"] for each in read_shards(out, count, length)])


class StoppedError(Exception):
    pass


@given(
    st.integers(1, 40),
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 6)), max_size=3),
    st.integers(1, 9),
)
def test_interrupted_shards_go_on_with_any_batch(
    tmp_path_factory, count, length, attempts, last_batch
):
    out = tmp_path_factory.mktemp("shards") / "made.h5"
    made, left = [], [0]

    def some(first, last):
        if left[0] == 0:
            raise StoppedError
        left[0] -= 1
        made.extend(range(first, last))
        return squares(first, last)

    for at_once, calls in [*attempts, (last_batch, count)]:
        left[0] = calls
        with contextlib.suppress(StoppedError):
            make(out, count, length, some, at_once=at_once)
    np.testing.assert_array_equal(found(out, count, length), np.arange(count) ** 2)
    # nothing is made twice
    assert sorted(made) == list(range(count))
    with claimed(out):
        discard(out)
    assert not work_folder(out).exists()


def test_shards_of_other_settings_are_refused(tmp_path):
    out = tmp_path / "made.h5"
    make(out, 4, 2)
    with pytest.raises(ValueError, match="interrupted run with other settings"):
        make(out, 4, 2, settings={"seed": 2})
    make(out, 4, 2)
    make(out, 6, 4, settings={"seed": 2}, overwrite=True)
    assert len(found(out, 6, 4)) == 6
    assert json.loads((work_folder(out) / "settings.json").read_text()) == {"seed": 2}
    assert len(list(work_folder(out).iterdir())) == 4


def test_progress_of_shards_counts_what_was_there(tmp_path):
    out, seen = tmp_path / "made.h5", []
    make(out, 4, 2, progress=seen.append)
    assert seen == [2, 4]
    for path in sorted(work_folder(out).glob("*.npz"))[1:]:
        path.unlink()
    seen.clear()
    make(out, 4, 2, progress=seen.append)
    assert seen == [4]


def test_an_interruption_before_the_first_shard_leaves_nothing(tmp_path):
    def stop(first, last):
        raise StoppedError

    with pytest.raises(StoppedError):
        make(tmp_path / "a" / "b" / "made.h5", 4, 2, stop)
    assert not list(tmp_path.iterdir())


def test_damaged_shards_are_made_again(tmp_path):
    """Bits of a shard are turned over, and it is cut anywhere."""
    out = tmp_path / "made.h5"
    make(out, 5, 2)
    shard = sorted(work_folder(out).glob("*.npz"))[1]
    whole = shard.read_bytes()
    broken = [whole[:i] for i in range(0, len(whole), 20)]
    for i in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[i] ^= 1 << (i % 8)
        broken.append(bytes(changed))
    again = 0

    def some(first, last):
        nonlocal again
        again += 1
        return squares(first, last)

    for each in broken:
        shard.write_bytes(each)
        make(out, 5, 2, some)
        for each, (first, last) in zip(
            read_shards(out, 5, 2), [(0, 2), (2, 4), (4, 5)], strict=True
        ):
            np.testing.assert_equal(each, squares(first, last))
    # on some bits, such as those of the date, nothing depends
    assert again > 0.6 * len(broken)


def test_shards_of_other_shapes_or_names_are_made_again(tmp_path):
    out = tmp_path / "made.h5"
    make(out, 4, 2)
    shard = sorted(work_folder(out).glob("*.npz"))[0]
    for arrays in (squares(0, 3), {"a": np.arange(2)}, {"a": np.ones((2, 2)), "b": np.ones(2)}):
        np.savez(shard, **arrays)
        make(out, 4, 2)
        np.testing.assert_array_equal(found(out, 4, 2), np.arange(4) ** 2)
    (work_folder(out) / "000000000-000000003.npz").write_bytes(shard.read_bytes())
    make(out, 4, 2)
    assert len(list(work_folder(out).glob("*.npz"))) == 2


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_the_shards(tmp_path, size):
    """One after another, as if the others waited: each makes its own, none twice."""
    out, made = tmp_path / "made.h5", []

    class Apart(World):
        def barrier(self):
            pass

    def note(first, last):
        made.append((first, last))
        return squares(first, last)

    with claimed(out):
        for rank in range(size):
            # each looks before any of them adds to what is there
            aside = {path: path.rename(tmp_path / path.name) for path in shards_in(out)}
            world = Apart(rank, size, ALONE.device)
            make_shards(out, SETTINGS, 9, 2, note, fits, world, id)
            for path, kept in aside.items():
                kept.rename(path)
    assert sorted(made) == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 9)]
    np.testing.assert_array_equal(found(out, 9, 2), np.arange(9) ** 2)


def shards_in(out):
    return list(work_folder(out).glob("*.npz"))
