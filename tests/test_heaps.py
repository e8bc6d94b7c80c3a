"""Texts of damaged HDF5 files, of which the library walks some in a circle for ever."""

import os
import random

import h5py
import numpy as np
import pytest

import skild_physics as sk
from skild_physics.heaps import _BEGINS, _BLOCK, open_hdf5
from skild_physics.requests import recorded

AT = len(_BEGINS) + 8


def attributes_of(path, texts=40, before=0, block=0):
    """A file whose attributes are texts of variable length; the first bytes of its heap."""
    with h5py.File(path, "w", userblock_size=block) as file:
        if before:
            file["zeros"] = np.zeros(before, np.uint8)
            file.flush()
        file["spins"] = np.ones((9, 8, 8), np.int8)
        for i in range(texts):
            file["spins"].attrs[f"text{i}"] = "x" * i
        file.attrs["request"] = "a" * 64
    data = path.read_bytes()
    return data, data.index(_BEGINS)


def test_texts_of_sound_files_are_read(tmp_path):
    for block in (0, 512):
        path = tmp_path / f"{block}.h5"
        # more than one heap
        attributes_of(path, 400, block=block)
        with open_hdf5(path) as file:
            assert file["spins"].attrs["text399"] == "x" * 399


@pytest.mark.parametrize("before", [0, _BLOCK - 5000, _BLOCK])
def test_a_heap_that_is_walked_in_a_circle_is_refused(tmp_path, before):
    path = tmp_path / "circle.h5"
    data, heap = attributes_of(path, before=before)
    changed = bytearray(data)
    # the first object: free space of no size
    changed[heap + AT : heap + AT + 16] = bytes(16)
    path.write_bytes(changed)
    for read in (sk.open, sk.info, sk.Spectrum.load, sk.Correlators.load):
        with pytest.raises(sk.InputError, match=r"circle\.h5: not a readable .*texts are damaged"):
            read(path)
    assert recorded(path) is None


def test_a_heap_is_found_wherever_blocks_of_the_file_end(tmp_path):
    path = tmp_path / "shifted.h5"
    data, heap = attributes_of(path)
    found = set()
    for shift in range(-len(_BEGINS) - 2, 3):
        block = bytearray(data[heap : heap + 4096])
        block[AT : AT + 16] = bytes(16)
        place = _BLOCK + shift
        at = max(place, len(data))
        path.write_bytes(data + bytes(at - len(data)) + bytes(block))
        with pytest.raises(OSError, match="texts are damaged"):
            open_hdf5(path)
        found.add(at)
    assert len(found) == len(_BEGINS) + 5


def test_no_change_of_a_heap_hangs(tmp_path):
    path = tmp_path / "heap.h5"
    data, heap = attributes_of(path)
    rng = random.Random(0)
    with open_hdf5(path) as file:
        texts = dict(file["spins"].attrs)
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 8))):
            changed[heap + rng.randrange(2000)] = rng.choice((0, 0, rng.randrange(256)))
        path.write_bytes(changed)
        try:
            with open_hdf5(path) as file:
                found = dict(file["spins"].attrs)
        except (OSError, KeyError, RuntimeError, UnicodeDecodeError):
            continue
        assert found.keys() == texts.keys()


def test_a_file_that_changes_within_a_tick_of_its_clock_is_looked_at_again(tmp_path):
    path = tmp_path / "young.h5"
    data, heap = attributes_of(path)
    now = path.stat().st_mtime_ns
    with open_hdf5(path):
        pass
    circle = data[: heap + AT] + bytes(16) + data[heap + AT + 16 :]
    # in its place, of the same size and time
    with path.open("r+b") as file:
        file.write(circle)
    os.utime(path, ns=(now, now))
    with pytest.raises(OSError, match="texts are damaged"):
        open_hdf5(path)


def test_a_chunk_in_no_place_is_found_out(tmp_path):
    path = tmp_path / "index.h5"
    spins = np.where(np.random.default_rng(0).random((20, 8, 8)) < 0.5, -1, 1).astype("i1")
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("spins", data=spins, chunks=(4, 8, 8), fletcher32=True)
        second = stored.id.get_chunk_info(1)
    # an entry of the index: the place of its chunk, of 8 bytes along each axis, and the address
    data = path.read_bytes()
    address = data.index(second.byte_offset.to_bytes(8, "little"))
    # beyond the fields, or where another one is
    for axis, bit in ((0, 64), (1, 8), (2, 8), (0, 4)):
        changed = bytearray(data)
        changed[address - 8 * (4 - axis)] ^= bit
        path.write_bytes(changed)
        with pytest.raises(sk.InputError, match="index of its chunks is damaged"):
            sk.open(path)
    path.write_bytes(data)
    np.testing.assert_array_equal(np.squeeze(sk.open(path).values), spins)
