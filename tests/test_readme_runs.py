"""The README runs, as written: its Python, and every skild-physics command."""

import re
import subprocess
import sys

import pytest
from command_line import ROOT, reproduced, run
from small_runs import needs_muon

README = (ROOT / "README.md").read_text()
LINES = "".join(re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)).replace("\\\n", " ")
# but for the long training and the one that downloads
GIVEN = [
    line.removeprefix("skild-physics ")
    for line in LINES.splitlines()
    if line.startswith("skild-physics ") and not re.search("physics reproduce|cifar10", line)
]


@needs_muon
def test_readme_python_runs(tmp_path):
    """As written."""
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "alpha" in done.stdout
    assert "kappa4(r = 32)" in done.stdout
    assert {"held.h5", "made.npz", "kappa4.png", "run"} <= {p.name for p in tmp_path.iterdir()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where all of them run, one after the other."""
    folder = reproduced(tmp_path_factory)
    (folder / "runs").mkdir()
    (folder / "runs" / "ising").symlink_to(folder / "run")
    (folder / "paper_figures").symlink_to(ROOT / "paper_figures")
    return folder


@needs_muon
@pytest.mark.parametrize("arguments", GIVEN)
def test_a_command_runs(place, arguments):
    """In the order of the README."""
    run(arguments, place)


def test_there_are_commands_and_targets():
    assert len(GIVEN) >= 20
    for target in ("reproduce", "test", "test-lowest"):
        assert f"make {target}" in README
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()
