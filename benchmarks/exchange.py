"""Exchanges of spins within blocks: ours, a plain compiled kernel and NumPy, side by side.

    python benchmarks/exchange.py [--fields 256]

All start from critical 64 x 64 fields whose spins are shuffled within blocks of 4 x 4. The plain
ones choose two sites of a random block, the textbook's move: more than half of the pairs are alike,
and a third of the blocks have nothing to exchange. NumPy does it for all fields at a time. What
counts is the time to come within 0.002 of the true energy.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from numba import njit

import skild_physics as sk
from skild_physics.data_gen.exchange import exchange_samples, exchange_thresholds, shuffled
from skild_physics.files import json_text
from skild_physics.observables.blocks import block_sums
from skild_physics.observables.energy import energy_per_spin
from skild_physics.observables.exact import BETA_CRITICAL
from skild_physics.xoshiro import seed_state

L, SIDE = 64, 4
SWEEPS = (0, 1, 2, 4, 8, 16, 32)
NEAR = 0.002


def ours(fields: np.ndarray, sweeps: int) -> None:
    for i, field in enumerate(fields):
        out = np.empty((1, L, L), np.int8)
        rng = seed_state(1, i, sweeps)
        exchange_samples(field, SIDE, rng, exchange_thresholds(BETA_CRITICAL), sweeps, out)


@njit
def _plain(spins, sweeps, beta):
    n, b = L // SIDE, SIDE
    for _ in range(sweeps * L * L):
        y0, x0 = np.random.randint(n) * b, np.random.randint(n) * b
        y, x = y0 + np.random.randint(b), x0 + np.random.randint(b)
        v, u = y0 + np.random.randint(b), x0 + np.random.randint(b)
        if spins[y, x] == spins[v, u]:
            continue
        change = 0.0
        for i, j in ((y, x), (v, u)):
            near = spins[(i + 1) % L, j] + spins[i - 1, j] + spins[i, (j + 1) % L] + spins[i, j - 1]
            change += 2 * spins[i, j] * near
            spins[i, j] = -spins[i, j]
        if np.random.random() >= np.exp(-beta * change):
            spins[y, x], spins[v, u] = -spins[y, x], -spins[v, u]


def plain(fields: np.ndarray, sweeps: int) -> None:
    for field in fields:
        _plain(field, sweeps, BETA_CRITICAL)


def with_numpy(fields: np.ndarray, sweeps: int) -> None:
    rng = np.random.default_rng(sweeps)
    sites = np.arange(L)
    for _ in range(sweeps * L * L):
        (y0, x0), places = rng.integers(L // SIDE, size=2) * SIDE, rng.integers(SIDE, size=(2, 2))
        change = np.zeros(len(fields))
        unlike = (
            fields[:, y0 + places[0, 0], x0 + places[0, 1]]
            != (fields[:, y0 + places[1, 0], x0 + places[1, 1]])
        )
        for dy, dx in places:
            y, x = y0 + dy, x0 + dx
            s = fields[:, y, x].astype(np.int64)
            near = (
                fields[:, sites[y - 1], x].astype(np.int64)
                + fields[:, (y + 1) % L, x]
                + fields[:, y, sites[x - 1]]
                + fields[:, y, (x + 1) % L]
            )
            change += 2 * s * near
            fields[unlike, y, x] *= -1
        rejected = unlike & (rng.random(len(fields)) >= np.exp(-BETA_CRITICAL * change))
        for dy, dx in places:
            fields[rejected, y0 + dy, x0 + dx] *= -1


def decay(
    run: Callable[[np.ndarray, int], None], truth: np.ndarray
) -> tuple[list[float], float, float]:
    """Energy less the truth's after SWEEPS, seconds of a sweep of a field, and to come near."""
    ups = (block_sums(truth, SIDE) + SIDE**2) // 2
    fields = np.empty_like(truth)
    for i, each in enumerate(ups):
        shuffled(each, seed_state(0, i), fields[i])
    run(fields[:1].copy(), 1)
    excess, seconds, done = [], 0.0, 0
    reached = float("nan")
    for sweeps in SWEEPS:
        began = time.perf_counter()
        run(fields, sweeps - done)
        seconds += time.perf_counter() - began
        done = sweeps
        excess.append(float((energy_per_spin(fields) - energy_per_spin(truth)).mean()))
        if np.isnan(reached) and excess[-1] < NEAR:
            reached = seconds / len(truth)
    assert np.array_equal(block_sums(fields, SIDE), block_sums(truth, SIDE))
    return excess, seconds / len(truth) / SWEEPS[-1], reached


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=int, default=256)
    truth = sk.generate_ising(L, samples=parser.parse_args().fields, seed=5, sweeps=0).values
    results: dict[str, float | list[float]] = {"sweeps": list(SWEEPS)}
    times = {}
    for name, run in {"ours": ours, "plain": plain, "NumPy": with_numpy}.items():
        excess, sweep, times[name] = decay(run, truth)
        results[f"{name}: energy - truth's"] = [round(each, 5) for each in excess]
        results[f"{name}: us per sweep of a field"] = round(sweep * 1e6, 2)
        results[f"{name}: ms per field to come within {NEAR}"] = round(times[name] * 1e3, 3)
    for name in ("plain", "NumPy"):
        results[f"{name} / ours"] = round(times[name] / times["ours"], 2)
    print(json_text(results, indent=2))


if __name__ == "__main__":
    main()
