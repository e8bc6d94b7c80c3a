"""What generate and super-resolve share: the options of sampling, making and writing in parts."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from skild_physics.cli.console import progress, say
from skild_physics.diffusion.sampler import SPACINGS
from skild_physics.diffusion.superresolution import ORDER, SAMPLERS, Sampled, Sampling
from skild_physics.fields import save_fields
from skild_physics.fields.stream import scaled
from skild_physics.fields.writing import output_kind, pixels, write_npy, write_npz, write_png
from skild_physics.parts import discard_parts, make_parts, read_parts
from skild_physics.training.checkpoint import (
    SAMPLING_PRECISIONS,
    Model,
    checkpoint_digest,
    load_model,
)
from skild_physics.training.distributed import World

_OPTIONS = (
    click.option(
        "--steps",
        "calls",
        type=click.IntRange(min=1),
        help="Network calls per field.  [default: 20; 40 for a scale-space model]",
    ),
    click.option(
        "--sampler",
        type=click.Choice(SAMPLERS),
        help="multistep: deterministic; stochastic: the same with noise; ancestral: the paper's, "
        "wants 100s of steps.  [default: multistep; stochastic for a scale-space model]",
    ),
    click.option(
        "--order",
        type=click.IntRange(1, 3),
        help="Estimates that a step of the multistep and stochastic samplers uses.  "
        f"[default: {ORDER}]",
    ),
    click.option(
        "--spacing",
        type=click.Choice(SPACINGS),
        default="log-resolution",
        show_default=True,
        help="What the steps are evenly spaced in.",
    ),
    click.option(
        "--last-snr",
        type=float,
        help="Signal-to-noise ratio of the finest mode at the last call; raise it, and --steps, "
        "for fields of Gaussian detail; not with --spacing time.  [default: steps / 4]",
    ),
    click.option(
        "--live-threshold",
        type=float,
        help="Show the network only the modes of a larger signal-to-noise ratio, on a smaller "
        "lattice; for models trained so; 0: all modes.  [default: as trained]",
    ),
    click.option(
        "--precision",
        type=click.Choice(SAMPLING_PRECISIONS),
        default="float32",
        show_default=True,
        help="What the network computes in; bfloat16 is up to twice as fast, depending on the "
        "processor.",
    ),
    click.option("--batch-size", type=int, default=64, show_default=True, help="Fields at a time."),
    click.option("--seed", type=int, default=0, show_default=True, help="Field i has its own."),
)


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of sampling to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def open_model(
    checkpoint: Path, world: World, options: Mapping[str, Any]
) -> tuple[Model, Sampling]:
    """The model, and the options of sampling with what suits it where none was given."""
    given = {name: value for name, value in options.items() if value is not None}
    model = load_model(checkpoint, world.device, given.pop("precision", "float32"))
    usual: dict[str, Any] = {"calls": 20, "sampler": "multistep"}
    if model.scale_space is not None:
        # errors of the deterministic sampler stay, above all those of a change of level
        usual = {"calls": 40, "sampler": "stochastic"}
    return model, Sampling(**{**usual, **given})


def provenance(
    checkpoint: Path, model: Model, sampling: Sampling, live_threshold: float | None
) -> dict[str, Any]:
    """What a file of sampled fields says about the model and the sampling; None: does not apply."""
    return {
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": checkpoint_digest(checkpoint),
        "trained_steps": model.trained_steps,
        **sampling.provenance(),
        "precision": model.precision,
        "live_threshold": live_threshold,
        "process": model.config.process.kind,
        "basis": model.process.basis,
        "channels": ",".join(model.channels),
    }


Make = Callable[[int, int, Sampling], Sampled]
"""(first, last, sampling) -> what the fields with these numbers start from, and the fields."""


def sample_to(
    out: Path,
    count: int,
    make: Make,
    sampling: Sampling,
    made: Mapping[str, Any],
    world: World,
    overwrite: bool,
    start_out: Path | None = None,
    keep_start: bool = False,
    finish: Callable[[NDArray[np.float32]], Mapping[str, Any]] = lambda fields: {},
) -> NDArray[np.float32]:
    """Make fields in parts and write them; an interrupted call is gone on with by the same one.

    Args:
        out: folder of PNG pictures, .npz, or HDF5.
        count: number of fields.
        make: makes some of them.
        sampling: how; its batch is a part.
        made: how they are made, for the file and to recognise parts of the same run; None stands
            for what does not apply.
        world: the processes that share the work; the main one writes.
        overwrite: replace another result, and discard parts of one.
        start_out: .npy file of the fields that the reversed process starts from.
        keep_start: write these into an HDF5 file, too.
        finish: what else the file is to say, from the first fields.

    Returns:
        The first 16 fields, in the main process.
    """
    kind = output_kind(out)
    made = {name: value for name, value in made.items() if value is not None}
    starts = (keep_start and kind == "hdf5") or start_out is not None

    def arrays(first: int, last: int) -> dict[str, NDArray[Any]]:
        done = make(first, last, replace(sampling, first=first, batch_size=last - first))
        result = done.result.numpy()
        found = {"field": result if kind == "hdf5" else pixels(result)}
        return found | ({"start": done.start.numpy()} if starts else {})

    settings = {**made, "count": count, "output": kind, "starts": starts}
    with progress(str(made["protocol"]), count) as show:
        make_parts(out, settings, count, sampling.batch_size, arrays, world, show, overwrite)
    if not world.is_main:
        return np.empty(0, np.float32)
    say(f"writing {out}")
    first_ones = np.concatenate(list(islice(read_parts(out, "field"), 16)))[:16]
    shown = first_ones if kind == "hdf5" else scaled(first_ones)
    made = {**made, **finish(shown)}
    shape = (count, *first_ones.shape[1:])
    if start_out is not None:
        write_npy(start_out, read_parts(out, "start"), shape)
    if kind == "hdf5":
        names = ("field", "start") if keep_start else ("field",)
        whole = {name: np.concatenate(list(read_parts(out, name))) for name in names}
        if shape[1] == 1:
            whole = {name: fields[:, 0] for name, fields in whole.items()}
        save_fields(out, whole.pop("field"), made, **whole)
    elif kind == "npz":
        write_npz(out, read_parts(out, "field"), shape, made)
    else:
        write_png(out, read_parts(out, "field"), made)
    discard_parts(out)
    return shown
