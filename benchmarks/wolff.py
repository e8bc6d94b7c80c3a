"""Wolff cluster updates and ensemble files: ours against a plain kernel and peapods, in one run.

    python benchmarks/wolff.py [--fields 100000] [--sides 32,64,128,256,512]

Competitors take turns, so that a change of the machine's clock hits all alike; medians over the
rounds are compared. peapods offers cluster updates only together with Metropolis sweeps, so its
time is the difference between sampling with and without them, per spin of the mean cluster that
our chains measure at the same size.

What counts in the end is the time of an effectively independent field, 2 tau_int of the slower of
energy and m^2, from both after every update: of ours some Metropolis sweeps and a cluster, or a
cluster alone, of peapods what it does, a Metropolis sweep and a cluster or a Swendsen-Wang update.
`pip install -e '.[benchmarks]'` installs it.
"""

import argparse
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numba import njit
from peapods import Ising

import skild_physics as sk
from skild_physics.data_gen.parameters import SWEEPS
from skild_physics.data_gen.wolff import wolff_advance, wolff_samples
from skild_physics.files import json_text
from skild_physics.observables.autocorrelation import integrated_autocorrelation_time
from skild_physics.observables.energy import energy_per_spin, magnetization_per_spin
from skild_physics.observables.exact import BETA_CRITICAL
from skild_physics.xoshiro import seed_state

FLIPS = 6e6


@njit(nogil=True)
def plain_wolff(spins, p, n_updates):
    """The usual careful kernel: a stack of site numbers, and a branch on every neighbour."""
    L = spins.shape[0]
    flat = spins.ravel()
    stack = np.empty(L * L, np.int64)
    flipped = 0
    for _ in range(n_updates):
        site = np.random.randint(L * L)
        up = flat[site]
        flat[site] = -up
        stack[0] = site
        top = 1
        while top > 0:
            top -= 1
            site = stack[top]
            x = site % L
            row = site - x
            flipped += 1
            for neighbour in (
                site - L if row > 0 else site + L * (L - 1),
                site + L if row < L * (L - 1) else x,
                site - 1 if x > 0 else row + L - 1,
                site + 1 if x < L - 1 else row,
            ):
                if flat[neighbour] == up and np.random.random() < p:
                    flat[neighbour] = -up
                    stack[top] = neighbour
                    top += 1
    return flipped


Timed = Callable[[], tuple[float, float]]
"""Runs some cluster updates; seconds, and spins flipped."""


def ours(L: int, chain: int = 0) -> Timed:
    spins, rng = np.ones((L, L), np.int8), seed_state(0, chain)
    wolff_advance(spins, rng, BETA_CRITICAL, 300)
    updates = max(20, int(FLIPS / (0.4 * L * L)))

    def run() -> tuple[float, float]:
        began = time.perf_counter()
        flips = wolff_advance(spins, rng, BETA_CRITICAL, updates)
        return time.perf_counter() - began, flips

    return run


def plain(L: int) -> Timed:
    spins, p = np.ones((L, L), np.int8), 1 - np.exp(-2 * BETA_CRITICAL)
    plain_wolff(spins, p, 300)
    updates = max(20, int(FLIPS / (0.4 * L * L)))

    def run() -> tuple[float, float]:
        began = time.perf_counter()
        flips = plain_wolff(spins, p, updates)
        return time.perf_counter() - began, flips

    return run


def peapods(L: int, mean_cluster: float) -> Timed:
    model = Ising((L, L), temperatures=np.array([1 / BETA_CRITICAL]))
    options = {"cluster_mode": "wolff", "sequential": True, "warmup_ratio": 0.0}
    model.sample(1000, cluster_update_interval=1, **options)
    updates = max(20, int(FLIPS / mean_cluster))

    def run() -> tuple[float, float]:
        began = time.perf_counter()
        model.sample(updates, cluster_update_interval=1, **options)
        middle = time.perf_counter()
        model.sample(updates, **options)
        return 2 * middle - began - time.perf_counter(), updates * mean_cluster

    return run


def kernels(rounds: int) -> dict[str, float]:
    results = {}
    for L in (32, 128, 1024):
        spins, rng = np.ones((L, L), np.int8), seed_state(1, 0)
        wolff_advance(spins, rng, BETA_CRITICAL, 500)
        mean_cluster = wolff_advance(spins, rng, BETA_CRITICAL, 2000) / 2000
        runs = {"ours": ours(L), "plain": plain(L), "peapods": peapods(L, mean_cluster)}
        if L == 1024:
            # a Metropolis sweep of 10^6 spins beside every cluster: too slow to be of interest
            del runs["peapods"]
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                seconds, flips = run()
                times[name].append(seconds / flips * 1e9)
        for name, values in times.items():
            results[f"{name} L={L} ns/flip median"] = float(np.median(values))
            results[f"{name} L={L} ns/flip best"] = float(np.min(values))
            if name != "ours":
                ratio = np.median(values) / np.median(times["ours"])
                results[f"{name} / ours, L={L}"] = float(ratio)
    results["ours L=1024 / L=128"] = (
        results["ours L=1024 ns/flip median"] / results["ours L=128 ns/flip median"]
    )
    return results


def independent_field(
    series: np.ndarray, advance: Callable[[int], object]
) -> tuple[float, float, float]:
    """Processor time of an effectively independent field, its standard error, and 2 tau_int.

    Args:
        series: energy and m^2 after every update, shape (updates, 2).
        advance: makes a number of updates; the best of three timings counts.
    """
    updates, times = max(1, len(series) // 8), []
    for _ in range(3):
        began = time.process_time()
        advance(updates)
        times.append((time.process_time() - began) / updates)
    slowest = max(integrated_autocorrelation_time(x[None]) for x in series.T)
    each = 2 * min(times)
    return each * slowest.tau_int, each * slowest.stderr, 2 * slowest.tau_int


def ours_independent(L: int, sweeps: int, steps: int) -> tuple[float, float, float]:
    """See :func:`independent_field`."""
    spins, rng = np.ones((L, L), np.int8), seed_state(0, 0)
    wolff_advance(spins, rng, BETA_CRITICAL, max(300, steps // 4), sweeps)
    series, batch = [], np.empty((min(steps, max(1, 2**24 // L**2)), L, L), np.int8)
    while len(series) < steps:
        wolff_samples(spins, rng, BETA_CRITICAL, 1, sweeps, batch)
        found = energy_per_spin(batch), magnetization_per_spin(batch) ** 2
        series += list(zip(*found, strict=True))
    return independent_field(
        np.array(series), lambda updates: wolff_advance(spins, rng, BETA_CRITICAL, updates, sweeps)
    )


def peapods_independent(L: int, mode: str, steps: int) -> tuple[float, float, float]:
    """See :func:`independent_field`."""
    model = Ising((L, L), temperatures=np.array([1 / BETA_CRITICAL]))
    options = {"cluster_mode": mode, "sequential": True, "warmup_ratio": 0.0}

    def advance(updates: int) -> dict[str, np.ndarray]:
        return model.sample(updates, cluster_update_interval=1, **options)

    advance(max(1, steps // 4))
    found = [advance(1) for _ in range(steps)]
    series = np.array([(step["energies"][0], step["mags2"][0]) for step in found])
    return independent_field(series, advance)


def independent(L: int, steps: int) -> dict[str, float]:
    """Processor time of an effectively independent field, and that of others over ours."""
    # updates of ours are cheaper than those of peapods: more of them make tau_int as exact
    own, error, tau = ours_independent(L, SWEEPS, 8 * steps)
    results = {
        f"ours, L={L}, ms/independent field": 1e3 * own,
        f"ours, L={L}, stderr": 1e3 * error,
        f"ours, L={L}, 2 tau_int": tau,
    }
    others = {
        "clusters alone": ours_independent(L, 0, 8 * steps),
        "peapods wolff": peapods_independent(L, "wolff", steps),
        "peapods sw": peapods_independent(L, "sw", steps),
    }
    for name, (seconds, stderr, tau) in others.items():
        of = f"{name}, L={L}"
        results[f"{of}, ms/independent field"] = 1e3 * seconds
        results[f"{of}, 2 tau_int"] = tau
        results[f"{of} / ours"] = seconds / own
        results[f"{of} / ours, stderr"] = seconds / own * np.hypot(stderr / seconds, error / own)
    return results


def scaling(rounds: int) -> dict[str, float]:
    """Flips per second of two threads over those of one."""
    pair = [ours(128, 0), ours(128, 1)]
    one, two = [], []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(rounds):
            seconds, flips = pair[0]()
            one.append(flips / seconds)
            began = time.perf_counter()
            flips = sum(f for _, f in pool.map(lambda run: run(), pair))
            two.append(flips / (time.perf_counter() - began))
    return {"two threads / one thread": float(np.median(two) / np.median(one))}


def kernel_rate(L: int, fields: int, updates: int) -> float:
    """Fields per second of the bare kernel in two threads."""

    def run(chain: int) -> None:
        spins, rng = np.ones((L, L), np.int8), seed_state(2, chain)
        out = np.empty((64, L, L), np.int8)
        for _ in range(fields // 128):
            wolff_samples(spins, rng, BETA_CRITICAL, updates, SWEEPS, out)

    with ThreadPoolExecutor(2) as pool:
        began = time.perf_counter()
        list(pool.map(run, range(2)))
    return fields // 128 * 128 / (time.perf_counter() - began)


def end_to_end(fields: int) -> dict[str, float]:
    """A whole file of 128 x 128 fields, against the bare kernel before and after it."""
    # a pilot run, which is not timed, finds the spacing
    updates = int(sk.generate_ising(128, samples=1, seed=1).updates_between_samples)
    kernel_rate(128, 256, updates)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ising.h5"
        before = kernel_rate(128, fields // 8, updates)
        began = time.perf_counter()
        spins = sk.generate_ising(128, samples=fields, seed=1, workers=2, out=path)
        rate = fields / (time.perf_counter() - began)
        after = kernel_rate(128, fields // 8, updates)
        results = {
            "fields": fields,
            "fields/s into the file": rate,
            "fields/s of the kernel, two threads": (before + after) / 2,
            "file / kernel": 2 * rate / (before + after),
            "bytes/field": path.stat().st_size / fields,
            "peak resident MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        n = min(fields, 20_000)
        began = time.perf_counter()
        for first in range(0, n, 1024):
            spins[first : first + 1024].values  # noqa: B018
        results["fields/s read in order"] = n / (time.perf_counter() - began)
        rng = np.random.default_rng(0)
        began = time.perf_counter()
        for _ in range(8):
            spins[np.sort(rng.choice(fields, 64, replace=False))].values  # noqa: B018
        results["fields/s read in random batches of 64"] = 512 / (time.perf_counter() - began)
        spins.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=int, default=100_000, help="0 leaves the file out")
    parser.add_argument("--rounds", type=int, default=11, help="0 leaves the kernels out")
    parser.add_argument("--sides", default="32,64,128,256,512", help="of independent fields")
    parser.add_argument(
        "--steps",
        type=int,
        default=4000,
        help="of peapods, for its tau_int; ours makes eight times as many",
    )
    arguments = parser.parse_args()
    results: dict[str, float | str] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
    }
    if arguments.fields:
        results |= end_to_end(arguments.fields)
    if arguments.rounds:
        results |= kernels(arguments.rounds)
        results |= scaling(arguments.rounds)
    for L in filter(None, arguments.sides.split(",")):
        results |= independent(int(L), arguments.steps)
    print(
        json_text(
            {k: round(v, 3) if isinstance(v, float) else v for k, v in results.items()}, indent=2
        )
    )


if __name__ == "__main__":
    main()
