"""Every shipped checkpoint makes the fields that it made when these were recorded.

golden.npz was written by ``python tests/test_golden.py`` (torch 2.13.0, one thread): the fields of
the bundled models on an Intel Xeon when they became others, all others on an AMD EPYC. On
such a machine they are the same bit for bit. Elsewhere sums are rounded differently, which a
trained network carries on.
"""

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from skild_physics.cli.main import cli

GOLDEN = Path(__file__).parent / "golden.npz"
FIGURES = Path(__file__).parents[1] / "paper_figures"
SR3 = str(FIGURES / "ising64_sr3")
AWAY = 2e-3


def _space(name: str) -> str:
    return str(FIGURES / "scale_space" / f"{name}.safetensors")


CASES: dict[str, tuple[str, ...]] = {
    "generate": ("generate", "bundled", "--steps=3"),
    "generate-ancestral": (
        *("generate", "bundled", "--steps=5", "--sampler=ancestral"),
        "--spacing=log-resolution",
    ),
    "generate-stochastic": (
        *("generate", "bundled", "--steps=5", "--sampler=stochastic"),
        *("--order=3", "--last-snr=8", "--spacing=resolution", "--seed=7"),
    ),
    "generate-all-modes": ("generate", "bundled", "--steps=2", "--live-threshold=0"),
    "generate-larger": ("generate", "bundled", "--steps=4", "--L=128"),
    "paired": ("super-resolve", "bundled", "64.npy", "--factor=4", "--steps=3"),
    "paired-any": (
        *("super-resolve", "bundled", "64.npy", "--factor=2.5", "--steps=3"),
        "--spacing=time",
    ),
    "paired-128": ("super-resolve", "bundled", "128.npy", "--factor=8", "--steps=2"),
    "observed-box": (
        *("super-resolve", "bundled", "16.npy", "--factor=4", "--steps=3"),
        *("--protocol=observed", "--downsampling=box"),
    ),
    "observed-spectral": (
        *("super-resolve", "bundled", "32.npy", "--factor=2", "--steps=3"),
        *("--protocol=observed", "--downsampling=spectral"),
    ),
    "rescaled": (
        *("super-resolve", "bundled", "64.npy", "--factor=2", "--steps=3"),
        *("--protocol=rescaled", "--keep=0.4"),
    ),
    "photographs-paired": (
        *("super-resolve", "bundled-photographs", "rgb64.npy", "--factor=3"),
        "--steps=3",
    ),
    "photographs-observed": (
        *("super-resolve", "bundled-photographs", "rgb20.npy", "--factor=3.2"),
        *("--steps=3", "--protocol=observed", "--downsampling=bicubic"),
    ),
    "sr3-paired": ("super-resolve", SR3, "64.npy", "--factor=4", "--steps=3"),
    "sr3-observed": (
        *("super-resolve", SR3, "16.npy", "--factor=4", "--steps=3"),
        "--protocol=observed",
    ),
    "ddpm": ("generate", _space("ddpm"), "--steps=4"),
    "skild": ("generate", _space("skild"), "--steps=4"),
    "ssd2-bilinear": ("generate", _space("ssd2-bilinear"), "--steps=6"),
    "ssd2-box": ("generate", _space("ssd2-box"), "--steps=6", "--sampler=multistep"),
    "ssd4-box": (
        *("generate", _space("ssd4-box"), "--steps=9", "--sampler=ancestral"),
        "--spacing=log-resolution",
    ),
    "ssd4-bilinear-paired": (
        *("super-resolve", _space("ssd4-bilinear"), "64.npy"),
        *("--factor=4", "--steps=9"),
    ),
    "ssd4-crop-observed": (
        *("super-resolve", _space("ssd4-crop"), "32.npy", "--factor=2"),
        *("--steps=7", "--protocol=observed"),
    ),
}


def _inputs(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for side in (16, 32, 64, 128):
        coarse = rng.normal(size=(1, 1, side // 8, side // 8)).repeat(8, axis=2).repeat(8, axis=3)
        spins = np.sign(coarse + 0.4 * rng.normal(size=(1, 1, side, side)))
        np.save(folder / f"{side}.npy", spins.astype(np.int8))
    for side in (20, 64):
        pixels = rng.integers(0, 256, (1, 3, side // 4, side // 4)).repeat(4, axis=2)
        np.save(folder / f"rgb{side}.npy", pixels.repeat(4, axis=3).astype(np.uint8))


def _made(arguments: tuple[str, ...], folder: Path) -> NDArray[np.float32]:
    out = folder / "made.h5"
    samples = ("--samples=1",) if arguments[0] == "generate" else ()
    given = [str(folder / each) if each.endswith(".npy") else each for each in arguments]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        cli.main([*given, *samples, f"--out={out}", "--overwrite"], standalone_mode=False)
    with xr.open_dataset(out, engine="h5netcdf") as data:
        return data["field"].to_numpy()


@pytest.mark.parametrize("name", CASES)
def test_a_shipped_checkpoint_makes_the_fields_recorded(name: str, tmp_path: Path) -> None:
    """To rounding."""
    _inputs(tmp_path)
    made = _made(CASES[name], tmp_path)
    with np.load(GOLDEN) as golden:
        wanted = golden[name]
    assert made.shape == wanted.shape
    np.testing.assert_allclose(made, wanted, rtol=0, atol=AWAY * np.abs(wanted).max())


def _each(use: Callable[[str, NDArray[np.float32]], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _inputs(Path(folder))
        for name, arguments in CASES.items():
            use(name, _made(arguments, Path(folder)))


if __name__ == "__main__":
    if GOLDEN.exists():
        # the bits, on one machine: python tests/test_golden.py [GOLDEN.npz]
        golden = np.load(sys.argv[1] if len(sys.argv) > 1 else GOLDEN)
        _each(lambda name, made: print(name, np.array_equal(made, golden[name])))
    else:
        found: dict[str, NDArray[np.float32]] = {}
        _each(found.__setitem__)
        np.savez_compressed(GOLDEN, **found)  # type: ignore[arg-type]
