"""What surrounds a process: notebooks, folders that cannot be written, locales, pipes."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from skild_physics.cli.main import COMMANDS as COMMAND_NAMES
from skild_physics.fields import open_fields

ROOT = Path(__file__).parents[1]
SKILD = str(Path(sys.executable).with_name("skild-physics"))

COMMANDS = """
import shlex, sys
from skild_physics.cli.main import cli
for command in sys.argv[1:]:
    cli.main(shlex.split(command), standalone_mode=False)
"""

WITHOUT_LOCATORS = "from numba.core.caching import CacheImpl; CacheImpl._locator_classes = []"


def run(command, folder, code=0, **variables):
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | variables,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def fields(path):
    with open_fields(path) as data:
        return data.values


@pytest.fixture(scope="module")
def lattices(tmp_path_factory):
    """A folder with fields of 12 x 12 spins."""
    folder = tmp_path_factory.mktemp("lattices")
    generate = ["generate-ising", "--L", "12", "--samples", "16", "--updates", "3"]
    run([SKILD, *generate, "--out", "lattices.h5"], folder)
    return folder


@pytest.mark.parametrize(
    "backend", ["module://matplotlib_inline.backend_inline", "no_such_backend"]
)
def test_figures_whatever_the_backend_of_a_notebook(lattices, tmp_path, backend):
    command = [SKILD, "fit-spectrum", str(lattices / "lattices.h5"), "--plot", "spectrum.png"]
    run(command, tmp_path, MPLBACKEND=backend)
    assert (tmp_path / "spectrum.png").read_bytes().startswith(b"\x89PNG")


def test_a_backend_that_is_there_stays_that_of_pyplot(tmp_path):
    show = "import matplotlib, os; print(matplotlib.rcParams['backend'], os.environ['MPLBACKEND'])"
    script = f"import skild_physics.plots.style; {show}"
    found = run([sys.executable, "-c", script], tmp_path, MPLBACKEND="svg").stdout
    assert found.split() == ["svg", "svg"]
    # imported and told before
    script = f"import matplotlib; matplotlib.use('pdf'); import skild_physics.plots.style; {show}"
    found = run([sys.executable, "-c", script], tmp_path, MPLBACKEND="svg").stdout
    assert found.split() == ["pdf", "svg"]


def test_commands_start_without_matplotlib(tmp_path):
    """Which takes a third of a second, and is for those that draw."""
    names = [name.replace("-", "_") for name in COMMAND_NAMES if name != "reproduce"]
    script = f"""
import sys
from importlib import import_module
for name in {names}:
    import_module(f"skild_physics.cli.{{name}}")
print("matplotlib.figure" in sys.modules)
"""
    assert run([sys.executable, "-c", script], tmp_path).stdout == "False\n"


def test_kernels_without_a_folder_for_their_cache(lattices, tmp_path):
    """As where neither the package nor the home of the user can be written."""
    generate = "generate-ising --L 12 --samples 16 --updates 3 --out lattices.h5"
    script = f"{WITHOUT_LOCATORS}\nimport skild_physics.observables.evaluate\n{COMMANDS}"
    run([sys.executable, "-c", script, generate], tmp_path)
    assert np.array_equal(fields(tmp_path / "lattices.h5"), fields(lattices / "lattices.h5"))


SWEPT = """
import sys
import numpy as np
from skild_physics.data_gen.wolff import wolff_samples
from skild_physics.xoshiro import seed_state
for L in (6, 66):
    rng, out = seed_state(1, L), np.empty((2, L, L), np.int8)
    wolff_samples(np.ones((L, L), np.int8), rng, 0.44, 1, 2, out)
    sys.stdout.write(f"{np.packbits(out < 0).tobytes().hex()} {rng}\\n")
"""


def test_sweeps_in_plain_python_make_the_same_fields(tmp_path):
    compiled, plain = (
        run([sys.executable, "-W", "error", "-c", SWEPT], tmp_path, NUMBA_DISABLE_JIT=plain)
        for plain in "01"
    )
    assert compiled.stdout == plain.stdout
    assert len(set(compiled.stdout)) > 10


def test_kernels_in_plain_python_give_the_same_numbers(lattices, tmp_path):
    data = lattices / "lattices.h5"
    commands = [
        "generate-ising --L 3 --samples 2 --updates 3 --out made.h5",
        f"eval-correlators truth={data} --clusters --block-spins 1 --out spins.nc",
        f"eval-correlators truth={data} --boundary open --out open.nc",
        f"coarse-grain {data} --factor 2 --out coarse.h5",
        "eval-correlators truth=coarse.h5 --binarize none --out coarse.nc",
        "eval-correlators truth=coarse.h5 --binarize none --boundary open --out coarse_open.nc",
    ]
    folders = {}
    for plain in ("0", "1"):
        folders[plain] = tmp_path / plain
        folders[plain].mkdir()
        done = run(
            [sys.executable, "-c", COMMANDS, *commands], folders[plain], NUMBA_DISABLE_JIT=plain
        )
        assert "overflow" not in done.stderr
    compiled, plain = (fields(folder / "made.h5") for folder in folders.values())
    assert np.array_equal(compiled, plain)
    for name in ("spins", "open", "coarse", "coarse_open"):
        one, other = (
            xr.load_dataset(folder / f"{name}.nc", engine="h5netcdf") for folder in folders.values()
        )
        xr.testing.assert_allclose(one, other, rtol=1e-4 if "coarse" in name else 1e-12, atol=1e-6)


def test_output_in_the_locale_c_without_colour(lattices, tmp_path):
    command = [SKILD, "eval-correlators", f"truth={lattices / 'lattices.h5'}"]
    done = run(command, tmp_path, LC_ALL="C", NO_COLOR="1", TERM="dumb")
    assert "kappa4" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("output", ["| head -1", ">&-"])
def test_output_that_nobody_reads(lattices, tmp_path, output):
    command = f"'{SKILD}' eval-correlators truth='{lattices / 'lattices.h5'}' {output}"
    done = run(["sh", "-c", command], tmp_path)
    assert "Error" not in done.stderr
    assert (tmp_path / "correlators.nc").exists()


def test_the_lowest_versions_tested_are_those_declared():
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    tested = {canonicalize_name(name): version for name, version in pairs}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [*map(Requirement, project["dependencies"] + extras["test"])]
    (others,) = (each for each in declared if each.name == project["name"])
    declared.remove(others)
    declared += [Requirement(line) for extra in others.extras for line in extras[extra]]
    assert len(declared) > 20
    for requirement in declared:
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        version = tested[canonicalize_name(requirement.name)]
        assert Requirement(f"x=={bound.version}").specifier.contains(version), requirement


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, "None"),
    ],
)
def test_waiting_threads_give_way_to_neighbours(tmp_path, given, expected):
    """Unless the environment says otherwise; torch must not have been imported before."""
    program = """
import os, sys
import skild_physics
assert "torch" not in sys.modules
print("spins", os.environ.get("GOMP_SPINCOUNT"))
"""
    own = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: each for name, each in os.environ.items() if name not in own} | given
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.splitlines()[-1] == f"spins {expected}"


def test_who_only_looks_at_a_model_does_not_wait_for_the_compiler():
    program = """
import sys
import skild_physics as sk
print(sk.load("bundled"))
print("numba" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"
