"""Results that are made a shard at a time, and go on after interruptions."""

import contextlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skild_physics.machine import World
from skild_physics.shards import discard_shards, make_shards, read_shards, shards_folder

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
def test_interrupted_shards_go_on_with_any_batch(tmp_path_factory, count, attempts, last_batch):
    out = tmp_path_factory.mktemp("shards") / "made.h5"
    made, left = [], [0]

    def make(first, last):
        if left[0] == 0:
            raise StoppedError
        left[0] -= 1
        made.extend(range(first, last))
        return squares(first, last)

    for batch, shards in [*attempts, (last_batch, count)]:
        left[0] = shards
        with contextlib.suppress(StoppedError):
            make_shards(out, SETTINGS, count, batch, make, ALONE, id)
    shards = list(read_shards(out))
    np.testing.assert_array_equal(
        np.concatenate([each["a"] for each in shards]), np.arange(count) ** 2
    )
    assert all(each["b"].shape == (len(each["a"]), 2) for each in shards)
    # nothing is made twice
    assert sorted(made) == list(range(count))
    discard_shards(out)
    assert not shards_folder(out).exists()


def test_shards_of_other_settings_are_refused(tmp_path):
    out = tmp_path / "made.h5"
    make_shards(out, SETTINGS, 4, 2, squares, ALONE, id)
    with pytest.raises(ValueError, match="interrupted run with other settings"):
        make_shards(out, {"seed": 2}, 4, 2, squares, ALONE, id)
    make_shards(out, SETTINGS, 4, 2, squares, ALONE, id)
    make_shards(out, {"seed": 2}, 6, 4, squares, ALONE, id, overwrite=True)
    assert sum(len(each["a"]) for each in read_shards(out)) == 6
    assert json.loads((shards_folder(out) / "settings.json").read_text()) == {"seed": 2}


def test_progress_of_shards_counts_what_was_there(tmp_path):
    out, seen = tmp_path / "made.h5", []
    make_shards(out, SETTINGS, 4, 2, squares, ALONE, seen.append)
    assert seen == [2, 4]
    for path in sorted(shards_folder(out).glob("*.npz"))[1:]:
        path.unlink()
    seen.clear()
    make_shards(out, SETTINGS, 4, 1, squares, ALONE, seen.append)
    assert seen == [3, 4]


def test_an_interruption_before_the_first_shard_leaves_nothing(tmp_path):
    def stop(first, last):
        raise StoppedError

    with pytest.raises(StoppedError):
        make_shards(tmp_path / "made.h5", SETTINGS, 4, 2, stop, ALONE, id)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_the_shards(tmp_path, size):
    """One after another, as if the others waited: each makes its own, none twice."""
    out, made = tmp_path / "made.h5", []

    class Alone(World):
        def barrier(self):
            pass

    def make(first, last):
        made.append((first, last))
        return squares(first, last)

    for rank in range(size):
        # each looks before any of them adds to what is there
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("skild_physics.shards._ranges", lambda folder: [])
            make_shards(out, SETTINGS, 9, 2, make, Alone(rank, size, ALONE.device), id)
    assert sorted(made) == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 9)]
    found = np.concatenate([each["a"] for each in read_shards(out)])
    np.testing.assert_array_equal(found, np.arange(9) ** 2)
