"""Spectrum measurement against the bare transform it needs, in one run.

    python benchmarks/spectrum.py [--rounds 9]

The reference is the batched transform alone: two matrix products per field, on float64 copies of
the same data in memory, nothing stored, nothing summed. Ours is what fit-spectrum does between the
file and the moments: conversion, transform, mean and squared deviations of every mode, merging.
Competitors take turns, so that a change of the machine's clock hits all alike; medians are
compared. Reading (HDF5 chunks, image decoding) is timed by itself.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from PIL import Image

import skild_physics as sk
from skild_physics.fields import batches
from skild_physics.kspace import basis_matrix
from skild_physics.spectrum import measure_blocks

MEGABYTES_AT_A_TIME = 1


def bare_transform(fields: np.ndarray, basis: str) -> None:
    """B x B^T of every field, in batches that stay in the processor's cache."""
    N = fields.shape[-1]
    B = basis_matrix(N, basis)
    step = max(1, MEGABYTES_AT_A_TIME * 2**17 // fields[0].size)
    for first in range(0, len(fields), step):
        B @ fields[first : first + step] @ B.T


def seconds(job: Callable[[], object]) -> float:
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def compare(title: str, values: np.ndarray, basis: str, rounds: int) -> None:
    as_float64 = values.astype(np.float64)
    fields = xr.DataArray(values, dims=("sample", "channel", "y", "x"), attrs={"basis": basis})
    jobs = {
        "bare": lambda: bare_transform(as_float64, basis),
        "ours": lambda: measure_blocks(fields),
    }
    for job in jobs.values():
        job()
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            times[name].append(seconds(job) / len(fields) * 1e6)
    bare, ours = (float(np.median(times[name])) for name in ("bare", "ours"))
    print(
        f"{title}: bare transform {bare:.1f} us/field, measured spectrum {ours:.1f} us/field, "
        f"ratio {ours / bare:.2f}"
    )


def reading(title: str, fields: xr.DataArray) -> None:
    count = 0

    def read_all() -> None:
        nonlocal count
        count = sum(len(batch) for batch in batches(fields))

    each = seconds(read_all) / count * 1e6
    both = seconds(lambda: measure_blocks(fields)) / count * 1e6
    print(f"{title}: reading {each:.0f} us/field, reading and measuring {both:.0f} us/field")
    fields.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (20_000, 3, 32, 32), dtype=np.uint8)
    compare("32 x 32 x 3, cosine", pictures, "cosine", rounds)
    spins = (2 * rng.integers(0, 2, (4000, 1, 128, 128)) - 1).astype(np.int8)
    compare("128 x 128, periodic", spins, "periodic", rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ensemble = sk.generate_ising(128, samples=2000, workers=2, out=folder / "L128.h5")
        reading("HDF5 ensemble, 128 x 128", ensemble)
        photographs = folder / "photographs"
        photographs.mkdir()
        for i in range(32):
            # smoothed noise compresses about as a photograph does
            coarse = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((1024, 768), Image.Resampling.BICUBIC)
            picture.save(photographs / f"{i}.jpg", quality=92)
        tiles = sk.open(photographs, size=128, tile=True)
        reading("JPEG, 1024 x 768, tiles of 128 x 128 x 3", tiles)


if __name__ == "__main__":
    main()
