"""Kernels of the observables against plain NumPy and SciPy, in one run.

    python benchmarks/observables.py [--rounds 5] [--json FILE]

Critical Ising spins, 128 x 128, int8. Every kernel takes turns with the plain way to the same
numbers, on one thread and on all, so that what else the machine does falls on all alike; medians
are compared. The plain ways get fewer fields and are never threaded.

corners, spins      15 moments for sides 1, 2 .. 64; plain: the products abcd, ab, ac, ad, bc that
                    the torus needs, from np.roll on float32
corners, float32    the same fields as float32; plain as above
two-point, spins    three directions, all distances up to 64; plain: Wiener-Khinchin by numpy.fft
two-point, float32  the same fields as float32; plain as above
structure factor    plain: numpy.fft.rfft2
clusters            on a torus; plain: scipy.ndimage.label and bincount, on an open patch
block spins         2 x 2; plain: a sum over blocks and np.where

GB/s counts the bytes of the fields that a kernel reads; for comparison, those that np.copyto
copies, on one thread.
"""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
import numba
import numpy as np
from scipy import ndimage

import skild_physics as sk
from skild_physics.files import json_text
from skild_physics.observables.blockspins import block_spins
from skild_physics.observables.clusters import cluster_sizes
from skild_physics.observables.corners import corner_moments, kappa4
from skild_physics.observables.twopoint import structure_factor, two_point

L = 128
SIDES = np.array([1, 2, 4, 8, 16, 32, 64])


class Race(NamedTuple):
    """A kernel and the plain way, with the fields that each gets in a turn."""

    ours: Callable[[np.ndarray], object]
    plain: Callable[[np.ndarray], object]
    fields: np.ndarray
    few: np.ndarray


def rolled_corners(fields: np.ndarray) -> np.ndarray:
    a = fields.astype(np.float32)
    means = []
    for r in SIDES:
        b, c = np.roll(a, -r, 2), np.roll(a, -r, 1)
        d = np.roll(b, -r, 1)
        ab = a * b
        products = (ab * c * d, ab, a * c, a * d, b * c)
        means.append(np.stack([p.mean((1, 2)) for p in products], axis=-1))
    return np.stack(means, axis=1)


def transformed_pairs(fields: np.ndarray) -> np.ndarray:
    power = np.abs(np.fft.rfft2(fields)) ** 2
    pairs = np.fft.irfft2(power, (L, L)) / L**2
    r = np.arange(L // 2 + 1)
    diagonals = (pairs[:, r, r] + pairs[:, r, -r]) / 2
    return np.stack([pairs[:, 0, r], pairs[:, r, 0], diagonals], axis=-1)


def transformed(fields: np.ndarray) -> np.ndarray:
    return np.abs(np.fft.rfft2(fields)) ** 2 / L**2


def labelled(fields: np.ndarray) -> list[np.ndarray]:
    return [np.bincount(ndimage.label(f == s)[0].ravel())[1:] for f in fields for s in (-1, 1)]


def summed_blocks(fields: np.ndarray) -> np.ndarray:
    blocks = fields.reshape(-1, L // 2, 2, L // 2, 2)
    total = blocks.sum((2, 4), dtype=np.int8)
    return np.where(total == 0, blocks[:, :, 0, :, 0], np.sign(total))


def check(spins: np.ndarray) -> None:
    """The two ways agree where they compute the same."""
    rolled = np.moveaxis(rolled_corners(spins), -1, 0)
    abcd, ab, ac, ad, bc = rolled
    plain = abcd - ab**2 - ac**2 - ad * bc
    np.testing.assert_allclose(kappa4(corner_moments(spins, SIDES, "periodic")), plain, atol=1e-5)
    np.testing.assert_allclose(two_point(spins, "periodic"), transformed_pairs(spins), atol=1e-10)
    np.testing.assert_allclose(structure_factor(spins), transformed(spins), rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(block_spins(spins), summed_blocks(spins))
    number = cluster_sizes(spins, "open")[0]
    assert number.sum() == sum(len(sizes) for sizes in labelled(spins))


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--fields", default=2000, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the numbers here.")
def main(rounds: int, fields: int, out: Path | None) -> None:
    spins = sk.generate_ising(L, samples=fields).values
    check(spins[::100])
    some, reals = spins[: fields // 4], spins[: fields // 4].astype(np.float32)
    few = spins[:40]

    def corners(f: np.ndarray) -> object:
        return corner_moments(f, SIDES, "periodic")

    def pairs(f: np.ndarray) -> object:
        return two_point(f, "periodic")

    def clusters(f: np.ndarray) -> object:
        return cluster_sizes(f, "periodic")

    races = {
        "corners, spins": Race(corners, rolled_corners, spins, few),
        "corners, float32": Race(corners, rolled_corners, reals, reals[:40]),
        "two-point, spins": Race(pairs, transformed_pairs, spins, few),
        "two-point, float32": Race(pairs, transformed_pairs, reals, reals[:40]),
        "structure factor": Race(structure_factor, transformed, some, few),
        "clusters": Race(clusters, labelled, some, few),
        "block spins": Race(block_spins, summed_blocks, spins, few),
    }
    threads = numba.config.NUMBA_NUM_THREADS
    big = np.ones(2**28, np.uint8)
    target = np.empty_like(big)
    times: dict[tuple[str, str], list[float]] = {}

    def turn(name: str, way: str, work: Callable[[], object], n: int) -> None:
        times.setdefault((name, way), []).append(seconds(work) / n)

    for number in range(rounds + 1):
        if number == 1:
            times.clear()  # the first round compiles and warms up
        turn("copy", "one", lambda: np.copyto(target, big), big.nbytes)
        for name, race in races.items():
            for way, k in (("one", 1), ("all", threads)):
                numba.set_num_threads(k)
                turn(name, way, lambda race=race: race.ours(race.fields), len(race.fields))
            turn(name, "plain", lambda race=race: race.plain(race.few), len(race.few))

    median = {key: float(np.median(values)) for key, values in times.items()}
    copied = 1e-9 / median["copy", "one"]
    print(f"us per field of {L} x {L}; np.copyto copies {copied:.1f} GB/s")
    print(
        f"{'':20}{'plain':>9}{'ours, 1':>9}{f'ours, {threads}':>9}{'speedup':>9}{'threads':>9}"
        f"{'GB/s, 1':>9}{f'GB/s, {threads}':>9}{'of copy':>9}"
    )
    results: dict[str, object] = {
        "machine": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "copy_gb_per_s": copied,
    }
    for name, race in races.items():
        plain, one, every = (median[name, way] * 1e6 for way in ("plain", "one", "all"))
        rate, rate_all = (race.fields[0].nbytes / t * 1e-3 for t in (one, every))
        print(
            f"{name:20}{plain:9.1f}{one:9.1f}{every:9.1f}{plain / one:8.1f}x{one / every:8.2f}x"
            f"{rate:9.2f}{rate_all:9.2f}{rate / copied:9.1%}"
        )
        results[name] = {
            "plain_us": plain,
            "ours_us": one,
            "ours_all_threads_us": every,
            "speedup": plain / one,
            "gain_of_threads": one / every,
            "gb_per_s": rate,
            "gb_per_s_all_threads": rate_all,
        }
    if out is not None:
        out.write_text(json_text(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
