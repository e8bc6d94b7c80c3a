"""A training run: a folder that a step at a time fills, and that any interruption leaves whole.

run.json           the configuration, and the versions it was last run with
metrics.jsonl      a line per checkpoint, and one per evaluation
model.safetensors  the averaged network, for inference
state.pt           what resuming needs, and its predecessor state.previous.pt
samples/           pictures of samples as training goes on
kept/              averaged networks of earlier steps, if they are asked for
"""

import json
import math
import os
import platform
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from skild_physics.claims import filling, replacing
from skild_physics.config import Config, parse_config
from skild_physics.files import InputError, check_folder, json_text
from skild_physics.machine import World, joined_world, keep_freed_memory, kept_threads, peak_memory
from skild_physics.models.base import Model
from skild_physics.models.checkpoint import is_whole, save_model
from skild_physics.training.evaluation import FIELDS, PICTURES, heldout_loss
from skild_physics.training.execution import Execution, recorded
from skild_physics.training.folder import (
    KEPT,
    NOTE,
    SAMPLES,
    check_ours,
    discard_run,
    numbered,
)
from skild_physics.training.recording import Record, check_installed, flat, nowhere, recording
from skild_physics.training.state import load_state, previous, save_state
from skild_physics.training.trainer import Log, Trainer, learning_rate
from skild_physics.version import __version__

Progress = Callable[[int, float], None]

TIMED = 20
"""Steps after which a run says how long it will take."""


def dry_run(
    config: Config, log: Log = lambda line: None, steps: int = 5, **parts: Any
) -> dict[str, Any]:
    """Take a few steps of a run, write nothing, and say what the run would need.

    Raises:
        InputError: as :func:`run`.
        FloatingPointError: the loss is not finite.
    """
    keep_freed_memory()
    with joined_world() as world, kept_threads():
        trainer = Trainer(config, world, log, **parts)
        for line in trainer.about():
            log(line)
        seconds = []
        for step in range(steps + 2):
            began = time.perf_counter()
            trainer.step(step)
            seconds.append(time.perf_counter() - began)
        # the first two make the optimiser's state and settle the caches
        each = statistics.median(seconds[2:])
        return {
            "parameters": trainer.parameters,
            "seconds_per_step": each,
            "fields_per_second": config.training.batch_size / each,
            "hours": each * config.training.steps / 3600,
            "peak_memory_gib": peak_memory(world.device) / 2**30,
            "state_gib": 16 * trainer.parameters / 2**30,
        }


def trained(
    config: Config,
    progress: Progress = lambda step, loss: None,
    log: Log = lambda line: None,
    overwrite: bool = False,
    record: Record = nowhere,
    **parts: Any,
) -> tuple[Path, Model | None]:
    """Run, or go on with, a training: its inference checkpoint; the model if it was trained now.

    Under torchrun all processes call it; process 0 alone writes and calls ``progress``, ``log`` and
    ``record``.
    SIGINT and SIGTERM end it after the current step, with that step's state saved.

    Args:
        config: the run.
        progress: called after every step with the number of steps done and a running loss.
        log: receives lines of text about the run.
        overwrite: discard an existing run in the same folder.
        record: receives the numbers of every line of metrics.jsonl, and its step.
        parts: what is not as the configuration says, see
            :class:`skild_physics.training.trainer.Trainer`.

    Raises:
        InputError: inputs are missing or do not fit together, or the folder holds another run.
        FloatingPointError: the loss became nan or infinite; the last saved state stays.
        OSError: a state cannot be written; the last saved one stays.
        KeyboardInterrupt: SIGINT, once the state is saved; SystemExit(143): SIGTERM.
    """
    with joined_world() as world, kept_threads(), _stop_signals() as caught:
        if not world.is_main:
            progress, log = lambda step, loss: None, lambda line: None
        # where nothing can be written, a run may still be finished
        writes = world.is_main and (not config.out.exists() or os.access(config.out, os.W_OK))
        with filling(config.out) if writes else nullcontext():
            return _run(config, world, progress, log, overwrite, record, caught, parts)


def run(config: Config, **how: Any) -> Path:
    """The inference checkpoint of a training, see :func:`trained`."""
    return trained(config, **how)[0]


def _run(
    config: Config,
    world: World,
    progress: Progress,
    log: Log,
    overwrite: bool,
    record: Record,
    caught: list[int],
    parts: Mapping[str, Any],
) -> tuple[Path, Model | None]:
    settings, out = config.training, config.out
    model_path, state_path = out / "model.safetensors", out / "state.pt"
    check_ours(out, overwrite)
    state, source = (None, None) if overwrite else _state_of(config, state_path, log)
    if state is not None and state["step"] >= settings.steps and is_whole(model_path):
        log(f"{model_path}: trained already, {settings.steps} steps")
        return model_path, None
    if world.is_main:
        # the folder itself is made once the inputs are known to fit
        check_folder(next(each for each in (out, *out.parents) if each.exists()))
    check_installed(settings.log)
    keep_freed_memory()
    trainer = Trainer(config, world, log, None if overwrite else _recorded(config), **parts)
    start, running = 0, math.nan
    if state is not None:
        trainer.load(state, str(source))
        start, running = state["step"], state["running_loss"]
    del state
    world.barrier()
    if world.is_main:
        _claim(config, trainer, overwrite, source)
    logged = _say_skipped(trainer, 0, log)
    log(f"all settings: {out / NOTE}")
    *lines_about, steps = trainer.about()
    for line in (*lines_about, steps + (f", going on from step {start:,}" if start else "")):
        log(line)

    def save(step: int) -> None:
        if world.is_main:
            # the model first: where there is a state, there is a model that is no older
            save_model(model_path, trainer.model(step))
            run = {"step": step, "running_loss": running, "config": json.dumps(config.to_json())}
            save_state(state_path, run | trainer.state())
        world.barrier()

    if start == settings.steps:
        trainer.calibrate(start, FIELDS)
        save(start)

    began = time.perf_counter()
    metrics = _metrics_until(out / "metrics.jsonl", start) if world.is_main else None
    with ExitStack() as stack:
        lines = stack.enter_context(metrics.open("a")) if metrics else None
        send = stack.enter_context(recording(settings.log if lines else None, out, start))

        def note(line: dict[str, Any]) -> None:
            if lines is not None:
                lines.write(json_text(line) + "\n")
                lines.flush()
                for receiver in (send, record):
                    receiver(flat(line), line["step"])

        for step in range(start, settings.steps):
            try:
                done = trainer.step(step)
            except FloatingPointError as error:
                kept = "keeps the last saved state" if state_path.exists() else "is not written yet"
                raise FloatingPointError(f"{error}; {state_path} {kept}") from None
            step += 1
            running = done.loss if math.isnan(running) else 0.99 * running + 0.01 * done.loss
            progress(step, running)
            last = step == settings.steps
            saving = step % settings.checkpoint_every == 0 or last
            if saving:
                seconds = time.perf_counter() - began
                each = settings.batch_size * (step - start) / seconds
                note(
                    {
                        "step": step,
                        "loss": running,
                        "gradient_norm": round(done.gradient_norm, 6),
                        "learning_rate": learning_rate(settings, step - 1),
                        "fields_per_second": round(each, 1),
                        "peak_memory_gib": round(peak_memory(world.device) / 2**30, 3),
                    }
                )
            if step == start + TIMED and not last:
                log(_expected(time.perf_counter() - began, settings.steps - step))
            if (step % settings.evaluate_every == 0 or last) and world.is_main:
                _show(trainer, step, note, log)
            if settings.keep_every and step % settings.keep_every == 0 and world.is_main:
                trainer.calibrate(step, FIELDS)
                save_model(numbered(out, KEPT, step), trainer.model(step))
            if saving:
                logged = _say_skipped(trainer, logged, log)
                save(step)
            number = _caught_by_any(world, caught)
            if number and not last:
                if not saving:
                    save(step)
                log(f"stopped by {signal.Signals(number).name} after step {step:,}, which is saved")
                raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
    log(f"peak memory {peak_memory(world.device) / 2**30:.2f} GiB")
    return model_path, trainer.model(settings.steps)


def _say_skipped(trainer: Trainer, logged: int, log: Log) -> int:
    """Name the pictures that were left out since ``logged`` of them; returns how many there are."""
    skipped = list(trainer.fields.skipped.items())
    for name, reason in skipped[logged:]:
        log(f"skipped {name}: {reason}")
    if len(skipped) > logged:
        log(f"{len(skipped)} pictures skipped so far")
    return len(skipped)


def _expected(seconds: float, left: int) -> str:
    """How long the rest takes, after the first steps took so many seconds."""
    rest = timedelta(seconds=round(left * seconds / TIMED))
    end = (datetime.now() + rest).strftime("%H:%M" if rest < timedelta(days=1) else "%d %B, %H:%M")
    return f"{seconds / TIMED:.3g} s a step: {rest} to go, until about {end}"


def _show(trainer: Trainer, step: int, note: Callable[[dict[str, Any]], None], log: Log) -> None:
    """Held-out losses and a picture of samples."""
    fields = trainer.heldout_fields(FIELDS)
    trainer.calibrate(step, FIELDS)
    model = trainer.model(step)
    if len(fields) > 1:
        found = heldout_loss(
            model.network, trainer.objective, trainer.process, fields, trainer.part, trainer.dtype
        )
        note({"step": step} | found.to_json())
        bands = " ".join(f"{loss:.4f}" for loss in found.loss)
        spread = f" +- {found.mean_stderr:.5f}"
        if not math.isfinite(found.mean_stderr):
            spread = f" (no error bar from {len(fields)} fields)"
        log(f"step {step:,}: held-out loss {found.mean:.5f}{spread}; in eighths of t from 0 to T:")
        log(f"  {bands}")
    truth = fields[:PICTURES].to(trainer.world.device)
    made = model.preview(truth)
    rows = {"held out": truth.cpu(), "start": made.start, "sample": made.result}
    # only here, so that nothing else of a training loads matplotlib
    from skild_physics.plots import samples_figure, save_figure

    figure = samples_figure({name: row.numpy() for name, row in rows.items()}, f"step {step:,}")
    save_figure(figure, numbered(trainer.config.out, SAMPLES, step))


def _identity(config: Config) -> dict[str, Any]:
    """What makes two runs the same, wherever they are started from."""
    values = config.with_paths(lambda path: Path(path.name)).to_json()
    # how steps are computed is chosen once, and kept in run.json; what is kept changes no step
    training = values["training"] | {"compile": None, "threads": None, "keep_every": None}
    data = values["data"] | {"data_dir": None}
    return values | {"out": None, "data": data, "training": training}


def _is_this_run(values: dict[str, Any], config: Config, source: str = "config") -> bool:
    """Whether a configuration that was saved as plain values is that of the same run."""
    # values that a newer version has more of take their defaults
    return _identity(parse_config(values, source)) == _identity(config)


def _recorded(config: Config) -> Execution | None:
    """How this very run computes its steps, if it began before."""
    try:
        note = json.loads((config.out / NOTE).read_text())
        same = _is_this_run(note["config"], config)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return recorded(note.get("execution"), config.training) if same else None


def _state_of(
    config: Config, path: Path, log: Log
) -> tuple[dict[str, Any], Path] | tuple[None, None]:
    """The newest readable state of this very run and its file, if there is one."""
    broken: list[InputError] = []
    for candidate in (path, previous(path)):
        if not candidate.exists():
            continue
        try:
            state = load_state(candidate)
        except InputError as error:
            log(str(error))
            broken.append(error)
            continue
        if not _is_this_run(json.loads(state["config"]), config, str(candidate)):
            raise InputError(
                f"{config.out}: holds a run of another configuration; choose another folder, or "
                "pass `overwrite=True` to discard it"
            )
        return state, candidate
    if broken:
        raise InputError(f"{broken[0]}; pass `overwrite=True` to start again")
    return None, None


def _claim(config: Config, trainer: Trainer, overwrite: bool, source: Path | None) -> None:
    """Save the configuration and what it is run with; discard another run if asked to."""
    state_path = config.out / "state.pt"
    note = {
        "package_version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "run": trainer.summary(),
        "execution": trainer.execution.to_json(),
        "config": config.to_json(),
    }
    with replacing(config.out / NOTE) as temporary:
        temporary.write_text(json_text(note, indent=2))
    if overwrite:
        discard_run(config.out)
    elif source not in (None, state_path):
        # lest the broken one becomes the previous one
        source.replace(state_path)


def _caught_by_any(world: World, caught: list[int]) -> int:
    """A signal that one of the processes caught, or 0."""
    number = max(caught, default=0)
    if world.size == 1:
        return number
    return int(world.gathered(torch.tensor([number], device=world.device)).max())


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM are added to; a second signal ends the process at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, before[number])

    before = {int(each): signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _metrics_until(path: Path, step: int) -> Path:
    """The metrics file without what a resumed run writes again, or an interruption left half."""
    kept = []
    text = path.read_text(errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError, RecursionError):
            break
        kept.append(line + "\n")
    with replacing(path) as temporary:
        temporary.write_text("".join(kept))
    return path
