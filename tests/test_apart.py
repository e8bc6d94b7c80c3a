"""No command replaces what it reads, nor writes two results to one file."""

import os
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from command_line import run
from PIL import Image

import skild_physics as sk
from skild_physics.files import InputError
from skild_physics.models.checkpoint import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("apart")
    sk.generate_ising(L=64, samples=9, seed=1, out=path / "a.h5").close()
    np.savez(path / "b.npz", hr=np.random.default_rng(0).normal(size=(9, 64, 64)))
    (path / "photos").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / "photos" / f"{i}.png")
    sk.save(sk.open(path / "photos"), path / "held").close()
    os.symlink(path / "a.h5", path / "link.h5")
    (path / "run").mkdir()
    save_model(path / "run" / "model.safetensors", sk.load("bundled"))
    return path


@pytest.mark.parametrize(
    "command",
    [
        "coarse-grain a.h5 --factor 2 --out a.h5",
        "coarse-grain link.h5 --factor 2 --out a.h5",
        "coarse-grain held --factor 2 --out held",
        "sample-exact a.h5 --factor 2 --beta 0.4 --out a.h5",
        "relax link.h5 --sweeps 1 --out a.h5",
        "interpolate b.npz:hr --factor 2 --out b.npz",
        "import-fields b.npz:hr --out ./b.npz",
        "fit-spectrum a.h5 --out a.h5",
        "fit-spectrum b.npz:hr --out x.png --plot x.png",
        "eval-correlators a.h5 --out a.h5",
        "eval-correlators b.npz:hr a.h5 --out y.png --plot y.png",
        "eval-draws a.h5 b=a.h5 --out a.h5",
        "eval-images held b=held --out q.nc --csv q.nc",
        "eval-images held/000000.png b=held/000001.png --out held/000001.png",
        "super-resolve bundled a.h5 --factor 2 --out a.h5",
        "super-resolve bundled a.h5 --factor 2 --out z.h5 --start-out z.h5",
        "super-resolve bundled a.h5 --factor 2 --out z.npz --start-out ./z.npz",
        "super-resolve bundled a.h5 --factor 2 --out z.h5 --start b.npz --start-out b.npz",
        "generate bundled --samples 1 --start a.h5 --out a.h5",
        "generate bundled --samples 1 --out z.h5 --start-out z.h5",
        "generate-ising --L 8 --samples 8 --out i.png --plot i.png",
        "prepare-images photos --out photos/0.png",
        "prepare-images photos --out photos/new",
        "coarse-grain photos --factor 2 --out photos/new.h5",
        "super-resolve run a.h5 --factor 2 --out run/model.safetensors",
    ],
)
def test_inputs_and_results_are_apart(folder, command):
    def contents():
        return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    before = contents()
    done = run(f"{command} --overwrite", folder, code=2)
    assert done.stderr.count("\n") == 1
    assert "is an input, which nothing replaces" in done.stderr or "same file" in done.stderr
    assert contents() == before


def test_fields_know_the_file_they_come_from(folder):
    fields = sk.open(folder / "a.h5")
    for write in (sk.coarse_grain, sk.interpolate):
        with pytest.raises(InputError, match=r"`out`: .*a\.h5 is an input, which nothing replaces"):
            write(fields, factor=2, out=folder / "a.h5", overwrite=True)
    assert len(fields.values) == 9


def test_made_fields_may_lie_beside_their_model(folder):
    for _ in range(2):
        run("generate run --samples 1 --steps 1 --sampler multistep --out run/made.h5", folder)


def test_a_copied_or_touched_input_is_the_same(folder, tmp_path):
    """Interrupted, and the input made again: the same command goes on."""
    shutil.copy(folder / "a.h5", tmp_path / "a.h5")
    model, how = sk.load("bundled"), {"sampler": sk.Multistep(2), "batch_size": 1}
    made = []

    @contextmanager
    def twice(title, total):
        def show(done, note=""):
            made.append(done)
            if len(made) == 2:
                raise KeyboardInterrupt

        yield show

    with pytest.raises(KeyboardInterrupt):
        model.reconstruct(
            tmp_path / "a.h5", 4, samples=4, out=tmp_path / "x.h5", progress=twice, **how
        )
    fields = sk.open(tmp_path / "a.h5").load()
    shutil.copy(folder / "a.h5", tmp_path / "a.h5")
    os.utime(tmp_path / "a.h5", (1, 1))
    again = model.reconstruct(
        tmp_path / "a.h5", 4, samples=4, out=tmp_path / "x.h5", progress=twice, **how
    )
    assert made[2:] == [3, 4]
    whole = model.reconstruct(fields, 4, samples=4, **how)
    np.testing.assert_array_equal(again.values, whole.values)
