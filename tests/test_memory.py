"""What commands hold in memory does not grow with the number of fields."""

import tracemalloc

import numpy as np
import pytest

import skild_physics as sk
from skild_physics.spectrum import ModeMoments, spectrum_from_blocks

L = 32
FEW, MANY = 512, 1536
COMMANDS = {
    "generate-ising": lambda given, n, out: sk.generate_ising(
        L, samples=n, updates=1, workers=1, out=out
    ).close(),
    "fit-spectrum": lambda given, n, out: sk.fit_spectrum(given, k_min=6),
    "coarse-grain": lambda given, n, out: sk.coarse_grain(given, factor=2, out=out).close(),
    "eval-correlators": lambda given, n, out: sk.eval_correlators(given),
}


def peak(call):
    """Most bytes at a time that Python and NumPy allocate meanwhile."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def ensembles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    for n in (FEW, MANY):
        sk.generate_ising(L, samples=n, updates=1, workers=1, out=folder / f"{n}.h5").close()
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_memory_does_not_grow_with_the_number_of_fields(ensembles, tmp_path, monkeypatch, name):
    """By less than a quarter of a byte for each spin that there is more."""
    monkeypatch.setattr("skild_physics.fields.lazy.BATCH_VALUES", 16 * L**2)
    monkeypatch.setattr("skild_physics.observables.measure.BATCH_SITES", 16 * L**2)
    monkeypatch.setattr("skild_physics.data_gen.store.SHARD_BYTES", 256 * L**2)
    monkeypatch.setattr("skild_physics.observables.evaluate.FINE_BLOCKS", 64)
    monkeypatch.setattr("skild_physics.heaps._BLOCK", 2**16)
    # kernels and tables that are kept
    COMMANDS[name](ensembles / f"{FEW}.h5", FEW, tmp_path / "first.h5")
    few, many = (
        peak(lambda n=n: COMMANDS[name](ensembles / f"{n}.h5", n, tmp_path / f"{n}.h5"))
        for n in (FEW, MANY)
    )
    assert many - few < (MANY - FEW) * L**2 / 4


def test_error_bars_of_a_spectrum_need_little_more_than_its_blocks():
    rng, N, n_blocks = np.random.default_rng(0), 64, 32
    blocks = [ModeMoments.of(rng.normal(size=(4, 1, N, N)), "periodic") for _ in range(n_blocks)]
    spectrum_from_blocks(blocks, "periodic")
    assert peak(lambda: spectrum_from_blocks(blocks, "periodic")) < n_blocks * 16 * N**2 * 0.75
