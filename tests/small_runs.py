"""Small training runs, and commands in processes of their own that need not import torch first."""

import multiprocessing
import os
import resource
import sys
import time
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import skild_physics as sk
from skild_physics.config import parse_config
from skild_physics.training.run import run

SERVER = multiprocessing.get_context("forkserver")
# not the module that asks the environment which process it is in
SERVER.set_forkserver_preload(
    [
        *("skild_physics.training.run", "skild_physics.cli.main", "rich.progress", "h5netcdf"),
        *(
            "skild_physics.pipeline.reproduce",
            "skild_physics.plots.correlators",
            "skild_physics.plots.spectra",
            "skild_physics.quality.results",
        ),
    ]
)

SCALE_SPACE = {
    "process": {"kind": "scale-space", "size": 8, "basis": "periodic", "factors": [2]},
    "network": {"kind": "flexi", "channels": [8, 8], "blocks": [1, 1], "patch": 1},
    "training": {"level_changes": 0.5, "accumulate": 2},
}

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="needs torch 2.9")


class Close(NamedTuple):
    """How far runs may be apart that sum in another order; a step moves weights by about 2e-3."""

    loss: float
    norm: float
    weight: float


CLOSE = {"float32": Close(1e-5, 1e-4, 2e-5), "bfloat16": Close(5e-3, 5e-2, 4e-3)}


def assert_equal(a, b, where=""):
    """Nested plain values and tensors, bit for bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}.{i}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def interrupted_and_resumed(values):
    """A run that dies after its tenth step, and goes on when it is given again."""

    def interrupt(step, loss):
        if step == 10:
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        run(parse_config(values), progress=interrupt)
    run(parse_config(values))


def warm_up():
    """Let the process from which commands are forked import torch while other things happen."""
    forkserver.ensure_running()


def make_inputs(folder, L=8, samples=200):
    """An ensemble and its spectrum."""
    sk.generate_ising(L, samples=samples, seed=1, out=folder / "train.h5").close()
    sk.fit_spectrum(folder / "train.h5").save(folder / "spectrum.nc")
    return folder


def run_values(inputs, out, **training):
    """Plain values of the configuration of a run of 20 steps, the same on every processor."""
    return {
        "out": str(out),
        "data": {"source": str(inputs / "train.h5"), "heldout": 16},
        "process": {
            "spectrum": str(inputs / "spectrum.nc"),
            "schedule": {"kind": "linear", "resolution": 2.0},
        },
        "network": {"channels": [8], "blocks": [1], "patch": 1},
        "training": {
            "steps": 20,
            "batch_size": 16,
            "checkpoint_every": 5,
            "compile": False,
            "precision": "float32",
            "threads": 1,
            "warmup_steps": 5,
            **training,
        },
    }


def to_toml(values, name=""):
    """The text of a configuration file."""
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    lines = [f"[{name}]"] if name else []
    for key, value in plain.items():
        text = str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')
        lines.append(f"{key} = {text}")
    for key, value in values.items():
        if isinstance(value, dict):
            lines.append(to_toml(value, f"{name}.{key}" if name else key))
    return "\n".join(lines)


def one_thread():
    """Threads cost more than they save on fields this small; a fixture for whole modules."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _main(arguments, texts, environment, file_limit):
    os.environ.update(environment)
    for number, path in enumerate(texts, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    torch.set_num_threads(1)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    sys.argv = ["skild-physics", *arguments]
    from skild_physics.cli.main import main

    main()


@dataclass
class Command:
    """A command line in a process of its own."""

    process: BaseProcess
    texts: tuple[Path, Path]

    def send(self, number):
        """A signal, if it still runs."""
        if self.process.is_alive():
            os.kill(self.process.pid, number)

    def end(self):
        """Wait for it, and return its exit code and what it wrote to output and error."""
        self.process.join(120)
        assert not self.process.is_alive()
        return self.process.exitcode, *(path.read_text() for path in self.texts)


def start(folder, *arguments, file_limit=None, **environment):
    """Start ``skild-physics`` with these arguments; what it writes goes to files in a folder."""
    number = sum(path.name.startswith("output") for path in folder.iterdir())
    texts = folder / f"output{number}", folder / f"error{number}"
    for path in texts:
        path.touch()
    process = SERVER.Process(
        target=_main,
        args=([str(a) for a in arguments], texts, environment, file_limit),
        daemon=True,
    )
    process.start()
    return Command(process, texts)


def wait_until(condition, seconds=60):
    """Whether a condition came true in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()
