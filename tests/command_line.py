"""Commands as a person gives them, and a finished small run of reproduce to give them in."""

import contextlib
import io
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from filelock import FileLock

from skild_physics.cli.main import main

ROOT = Path(__file__).parents[1]
SKILD = str(Path(sys.executable).with_name("skild-physics"))
SMALL = "--retrain --L 16 --samples 400 --heldout 64 --steps 5 --factor 4"
SHORT = (
    "--set training.steps=20 --set training.compile=false --set training.checkpoint_every=10 "
    "--set network.channels=[16] --set network.blocks=[1] "
    f"--set training.optimizer={'muon' if hasattr(torch.optim, 'Muon') else 'adamw'}"
)


def attempt(arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in this process, which imports torch once, however it ends."""
    output, error = io.StringIO(), io.StringIO()
    where, argv, found = Path.cwd(), sys.argv, 0
    os.chdir(folder)
    sys.argv = ["skild-physics", *shlex.split(arguments)]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
            main()
    except SystemExit as stopped:
        found = int(stopped.code or 0)
    finally:
        os.chdir(where)
        sys.argv = argv
    return subprocess.CompletedProcess(arguments, found, output.getvalue(), error.getvalue())


def run(arguments: str, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A command in this process, which ends with this code."""
    done = attempt(arguments, folder)
    assert done.returncode == code, done.stderr
    return done


def run_script(arguments: str, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The installed script in a process of its own, which ends with this code and no traceback."""
    done = subprocess.run(
        [SKILD, *shlex.split(arguments)], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def reproduced(tmp_path_factory) -> Path:
    """A folder with a finished small run of reproduce in ``run``, made once for all processes."""
    shared = tmp_path_factory.getbasetemp()
    # processes of pytest-xdist have folders of their own beside each other
    shared = shared.parent if shared.name.startswith("popen-") else shared
    with FileLock(shared / "reproduced.lock"):
        made = shared / "reproduced"
        if not made.exists():
            building = shared / "reproducing"
            building.mkdir()
            done = run(f"reproduce ising {SMALL} {SHORT} --out run", building)
            assert done.stdout.splitlines()[-1] == "run/correlators.png"
            building.rename(made)
    folder = tmp_path_factory.mktemp("commands")
    shutil.copytree(made, folder, dirs_exist_ok=True)
    return folder
