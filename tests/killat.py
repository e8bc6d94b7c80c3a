"""Commands that are killed before a change of the file system, and given again.

The changes are renames, removals, folders made, and files opened for writing, outside caches.
"""

import json
import multiprocessing
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from command_line import run as run_here
from safetensors.numpy import load_file
from small_runs import SERVER

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}
CACHES = ("numba", "matplotlib", "torchinductor", "__pycache__", "/dev/", "/.cache/")
# what differs from run to run
TIMES = ("fields_per_second", "peak_memory_gib", "execution")
FORK = multiprocessing.get_context("fork")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Ended(NamedTuple):
    """Exit code, output and error of a command, and how many changes there were."""

    code: int
    output: str
    error: str
    changes: int


def _command(folder, command, at, texts):
    os.chdir(folder)
    for number, path in enumerate(texts[:2], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    # those of who forked this process may lead elsewhere
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    counter = os.open(texts[2], os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    torch.set_num_threads(1)
    from skild_physics.cli.main import main

    changes = 0

    def hook(event, args):
        nonlocal changes
        opens = event == "open" and isinstance(args[2], int) and args[2] & WRITING
        if not opens and event not in CHANGES:
            return
        if not any(name in str(args[0]) for name in CACHES):
            changes += 1
            os.pwrite(counter, str(changes).encode(), 0)
            if changes == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    sys.argv = ["skild-physics", *shlex.split(command)]
    main()


def run(folder, command, at=0, context=SERVER):
    """A command in a folder, by a process that is killed before the change of this number."""
    texts = [folder.with_name(f"{folder.name}.{name}") for name in ("out", "err", "count")]
    process = context.Process(target=_command, args=(folder, command, at, texts), daemon=True)
    process.start()
    process.join(300)
    output, error, count = (path.read_text() for path in texts)
    return Ended(process.exitcode, output, error, int(count or 0))


def _content(path):
    """What is compared of a file: the order of what is in it may differ, and times do."""
    if path.suffix in (".nc", ".h5"):
        return xr.load_dataset(path, engine="h5netcdf")
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()}
    if path.suffix == ".safetensors":
        return {name: array.tobytes() for name, array in load_file(path).items()}
    if path.suffix == ".pt":
        return str(torch.load(path, weights_only=True))
    if path.suffix in (".json", ".jsonl"):
        text = path.read_text()
        lines = map(json.loads, text.splitlines() if path.suffix == ".jsonl" else [text])
        return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    return path.read_bytes()


def differences(one, two):
    """Names of files and folders that are in one of two folders, or not the same in both."""
    names = [{str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (one, two)]
    found = sorted(names[0] ^ names[1])
    for name in sorted(names[0] & names[1]):
        a, b = one / name, two / name
        if a.is_dir() or a.read_bytes() == b.read_bytes():
            continue
        a, b = _content(a), _content(b)
        if not (a.identical(b) if isinstance(a, xr.Dataset) else a == b):
            found.append(name)
    return found


def check(template: Path, command: str, tmp_path: Path, moments=None, say=None, fork=False) -> int:
    """Kill a command at each of its changes and give it again; the number of changes.

    Args:
        template: folder that it is given in, which is copied.
        command: its arguments.
        tmp_path: where the copies go.
        moments: at so many changes only, evenly among all.
        say: what it prints that differs, as times, made the same.
        fork: of this process, which has done it once and so has all that it needs: faster, for
            commands that use one thread.
    """
    context = FORK if fork else SERVER
    if fork:
        warm = tmp_path / "warm"
        shutil.copytree(template, warm)
        run_here(command, warm)
        shutil.rmtree(warm)
    whole = tmp_path / "whole"
    shutil.copytree(template, whole)
    want = run(whole, command, 0, context)
    assert want.code == 0, want.error
    assert want.changes > 0
    same = say or (lambda text: text)
    count = want.changes
    steps = range(1, count + 1)
    if moments is not None and moments < count:
        steps = sorted({1 + round(i * (count - 1) / (moments - 1)) for i in range(moments)})
    for at in steps:
        folder = tmp_path / f"killed{at}"
        shutil.copytree(template, folder)
        assert run(folder, command, at, context).code == -signal.SIGKILL, at
        again = run(folder, command, 0, context)
        assert again.code == 0, (at, again.error)
        assert not differences(folder, whole), at
        assert same(again.output) == same(want.output), at
        shutil.rmtree(folder)
    return count
