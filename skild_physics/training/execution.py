"""How a run computes its steps: number format, compiler, threads, measured at its start.

What is fastest depends on the processor, its neighbours and the network, and no flag of the
processor tells it. So a few steps are done in each way that is not excluded, and the run records
the one it takes, which a resumed run takes again.
"""

import atexit
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs
import torch
from filelock import FileLock, Timeout

from skild_physics.config.training import TrainingConfig

Log = Callable[[str], None]

FORMATS = ("float32", "bfloat16", "float16")
AUTO: tuple[str, ...] = ("float32", "bfloat16")
"""The number formats that "auto" chooses from."""
WORTH = 1.1
"""How many times as fast a less exact, compiled or more parallel way must be to be taken."""
SLOWER = 1.5
"""Compiling makes no number format the best that is so many times slower without."""
COMPILING = 100.0
"""Steps that take fewer seconds than this for each lattice are done before they are compiled."""


@dataclass(frozen=True)
class Execution:
    """A way of computing steps.

    Attributes:
        precision: float32, bfloat16 or float16, what networks compute in.
        compile: whether the network is compiled, and what else can be.
        threads: of one process.
    """

    precision: str
    compile: bool
    threads: int

    @property
    def dtype(self) -> torch.dtype:
        """The type of the precision."""
        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype

    def __str__(self) -> str:
        compiler = "compiled" if self.compile else "eager"
        return f"{self.precision}, {compiler}, {self.threads} thread{'s' * (self.threads > 1)}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def recorded(values: Any, settings: TrainingConfig) -> Execution | None:
    """The way that a run recorded as plain values, with what the settings now say of it.

    Returns:
        None if the values are not those of :class:`Execution`.
    """
    match values:
        case {
            "precision": "float32" | "bfloat16" | "float16" as precision,
            "compile": bool(compiled),
            "threads": int(threads),
        } if threads >= 1:
            return Execution(
                precision if settings.precision == "auto" else settings.precision,
                compiled if settings.compile == "auto" else settings.compile,
                threads if settings.threads == "auto" else settings.threads,
            )
    return None


def choose(
    settings: TrainingConfig,
    seconds: Callable[[list[Execution]], list[float]],
    most: int,
    lattices: int,
    log: Log,
) -> Execution:
    """The fastest way that the settings leave open.

    Args:
        settings: whatever is not "auto" in them is obeyed.
        seconds: does a few steps in each of some ways, in turns, and says how long one takes;
            infinity if it fails.
        most: number of threads that may be used.
        lattices: number of sizes of fields, each of which is compiled on its own.
        log: is told what was found.
    """
    formats = AUTO if settings.precision == "auto" else (settings.precision,)
    counts = _doubled(most) if settings.threads == "auto" else [settings.threads]
    if len(formats) == len(counts) == 1 and settings.compile != "auto":
        return Execution(formats[0], settings.compile, counts[0])

    def measured(ways: list[Execution]) -> dict[Execution, float]:
        return dict(zip(ways, seconds(ways), strict=True))

    times = eager = measured([Execution(each, False, n) for each in formats for n in counts])
    taken = _simplest(eager)
    long = eager[taken] * settings.steps > COMPILING * lattices
    if settings.compile is True or (settings.compile == "auto" and long):
        ways = [taken] if settings.compile == "auto" else []
        for each in formats:
            best = _simplest({way: s for way, s in eager.items() if way.precision == each})
            if eager[best] <= SLOWER * eager[taken]:
                # what the compiler fuses leaves threads less to share
                near = [n for n in counts if n <= best.threads][-2:]
                ways += [Execution(each, True, n) for n in near]
        times = measured(ways)
        taken = _simplest(times)
    first = min(eager, key=_order)
    log(
        f"a step takes {times[taken]:.3g} s with {taken}"
        + (f"; {eager[first]:.3g} s with {first}" if taken != first else "")
    )
    return taken


def _doubled(most: int) -> list[int]:
    """1, 2, 4, .. and the most."""
    return [2**i for i in range(most.bit_length()) if 2**i < most] + [most]


def _order(way: Execution) -> tuple[int, bool, int]:
    """The exact, plain and serial goes first."""
    return FORMATS.index(way.precision), way.compile, way.threads


def _simplest(times: dict[Execution, float]) -> Execution:
    """The first way that is about as fast as the fastest."""
    limit = WORTH * min(times.values())
    return next(way for way in sorted(times, key=_order) if times[way] <= limit)


@contextmanager
def compiling(log: Log) -> Iterator[None]:
    """Compile one process at a time, into a folder of the user's own.

    Two processes that write the same kernel at once can load each other's unfinished files.

    Args:
        log: is told if another process has to be waited for.
    """
    folder = _compiler_cache()
    lock = FileLock(folder / "compiling.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log("another process is compiling: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_private(folder: Path) -> bool:
    """Whether only this user can put code that is run into a folder."""
    about, others = folder.lstat(), stat.S_IWGRP | stat.S_IWOTH
    is_own = stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid()
    return is_own and not about.st_mode & others


def _compiler_cache() -> Path:
    """Where the compiler keeps what it made, unless the environment says it."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    if name not in os.environ:
        folder = platformdirs.user_cache_path("skild_physics") / "torchinductor"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            usable = os.access(folder, os.W_OK) and _is_private(folder)
        except OSError:
            usable = False
        if not usable:
            folder = Path(tempfile.mkdtemp(prefix="skild-physics-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ[name] = str(folder)
    folder = Path(os.environ[name])
    folder.mkdir(parents=True, exist_ok=True)
    return folder
