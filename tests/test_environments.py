"""What surrounds a process: notebooks, folders that cannot be written, locales, pipes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SKILD = str(Path(sys.executable).with_name("skild-physics"))


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
    script = f"import skild_physics.plots; {show}"
    found = run([sys.executable, "-c", script], tmp_path, MPLBACKEND="svg").stdout
    assert found.split() == ["svg", "svg"]
    # imported and told before
    script = f"import matplotlib; matplotlib.use('pdf'); import skild_physics.plots; {show}"
    found = run([sys.executable, "-c", script], tmp_path, MPLBACKEND="svg").stdout
    assert found.split() == ["pdf", "svg"]


def test_training_starts_without_matplotlib(tmp_path):
    script = "import sys, skild_physics.cli.train; print('matplotlib' in sys.modules)"
    assert run([sys.executable, "-c", script], tmp_path).stdout == "False\n"


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
