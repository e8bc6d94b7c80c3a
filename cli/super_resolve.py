"""skild-physics super-resolve."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_physics.baselines.interpolation import interpolate
from skild_physics.cli.console import say, speaks
from skild_physics.cli.inputs import check_all_usable, fields_output, size_option
from skild_physics.cli.protocols import route
from skild_physics.cli.sampling import (
    open_model,
    provenance,
    sample_to,
    sampling_options,
)
from skild_physics.diffusion.downsampling import DOWNSAMPLINGS, Downsampling, downsample
from skild_physics.diffusion.superresolution import Sampled, Sampling
from skild_physics.fields.images import picture_size
from skild_physics.fields.lattice import open_fields
from skild_physics.fields.writing import check_fields_output
from skild_physics.files import InputError, check_none_given, check_output
from skild_physics.plots import check_figure, samples_figure, save_figure
from skild_physics.training.checkpoint import Model
from skild_physics.training.data import TrainingFields, open_training_fields
from skild_physics.training.distributed import joined_world

KEEP = 0.5
"""Where the rescaled protocol starts unless told otherwise."""


@click.command("super-resolve")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("input", type=click.Path(path_type=Path))
@click.option("--factor", type=float, required=True, help="Ratio of resolutions, any number >= 1.")
@click.option(
    "--protocol",
    type=click.Choice(["paired", "observed", "rescaled"]),
    default="paired",
    show_default=True,
    help="paired: diffuse INPUT, which has the full resolution, and reconstruct it; observed: "
    "INPUT holds real coarse fields; rescaled: INPUT holds critical fields, whose large scales "
    "those of larger lattices resemble (inverse renormalisation).",
)
@click.option(
    "--keep",
    type=click.FloatRange(0, 1, min_open=True),
    help=f"rescaled: effective resolution at the start over the side of INPUT.  [default: {KEEP}]",
)
@click.option(
    "--downsampling",
    type=click.Choice(DOWNSAMPLINGS),
    help="observed: how INPUT was made.  [default: what coarse-grain wrote in it]",
)
@click.option("--samples", type=int, help="Use the first fields of INPUT only.")
@size_option
@sampling_options
@fields_output
@click.option(
    "--start-out",
    type=click.Path(path_type=Path),
    help=".npy file of what the reversed process starts from, in pixels, for other codes.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    help="Picture of the first 8 results, with bicubic and Lanczos interpolations beside them.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing result.")
def command(
    checkpoint: Path,
    input: Path,
    factor: float,
    protocol: str,
    keep: float | None,
    downsampling: Downsampling | None,
    samples: int | None,
    size: int | None,
    out: Path,
    start_out: Path | None,
    plot: Path | None,
    overwrite: bool,
    live_threshold: float | None,
    **sampling: Any,
) -> None:
    """Raise fields to a higher resolution with the model of CHECKPOINT.

    Paired, the paper's protocol: fields that the model was not trained on are diffused to the step
    whose effective resolution is N/factor, and reconstructed from there. Observed: from M x M
    fields that were coarse-grained in a known way, fields of factor M per side are made that agree
    with them. Rescaled: M x M critical fields become the large scales of fields of factor M per
    side, and what is smaller is drawn anew. Other sizes than the model's keep its lattice spacing.
    A model of Scale Space Diffusion goes on from the level of size N/factor, in both of the first
    protocols. An HDF5 file OUT holds the results as `field` and what the model saw as `start`.

    CHECKPOINT is a file, the folder of a run, or the word bundled: the model of critical Ising
    lattices that comes with the package. INPUT is a file of fields, a folder of pictures, a .npz or
    .npy stack, or one of the words that fit-spectrum takes. Every field has a seed of its own, so
    neither the start nor the result depends on the batch size or the number of processes of
    torchrun. Interrupted, the same command goes on.

    \b
    Example:
      skild-physics super-resolve bundled heldout.h5 --factor 4 --out sr4.h5
      skild-physics super-resolve runs/ising coarse.h5 --protocol observed --factor 4 --out o4.h5
      skild-physics super-resolve runs/ising heldout.h5 --protocol rescaled --factor 2 --out r2.h5
      skild-physics super-resolve runs/photos small/ --protocol observed --downsampling bicubic \\
          --factor 2.5 --out large --plot large.png
    """
    check_fields_output(out, overwrite)
    for other in (start_out, plot):
        if other:
            (check_figure if other == plot else check_output)(other, overwrite)
    run_super_resolution(
        checkpoint,
        input,
        out,
        factor,
        sampling,
        samples,
        protocol,
        downsampling,
        live_threshold,
        keep,
        size,
        start_out,
        plot,
        overwrite,
    )
    if speaks:
        click.echo(out)


def run_super_resolution(
    checkpoint: Path,
    source: Path,
    out: Path,
    factor: float,
    options: Mapping[str, Any],
    samples: int | None = None,
    protocol: str = "paired",
    downsampling: Downsampling | None = None,
    live_threshold: float | None = None,
    keep: float | None = None,
    size: int | None = None,
    start_out: Path | None = None,
    plot: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Super-resolve fields, with a progress display; all processes of torchrun call it."""
    if samples is not None and samples < 1:
        raise InputError(f"`samples` must be at least 1, got {samples}")
    if not 1 <= factor < float("inf"):
        raise InputError(f"factor must be at least 1, got {factor:g}")
    if protocol != "observed":
        check_none_given({"downsampling": downsampling}, "goes with the protocol observed")
    if protocol != "rescaled":
        check_none_given({"keep": keep}, "goes with the protocol rescaled")
    keep = KEEP if keep is None else keep
    with joined_world() as world:
        model, sampling = open_model(checkpoint, world, options)
        threshold = model.live_threshold(live_threshold)
        fields, kind = _opened(source, model, size, downsampling)
        count = min(samples or fields.count, fields.count)
        way = route(model, fields.size, factor, protocol, kind, live_threshold, keep)
        process = way.process
        say(
            f"{count} fields to {way.size} x {way.size}, {protocol} protocol, "
            f"{sampling.calls} network calls ({sampling.sampler}) from n = {way.n:.1f} of "
            f"{process.T}, effective resolution {way.resolution:.4g}"
        )

        def taken(first: int, last: int) -> Tensor:
            return fields.take(torch.arange(first, last))

        def make(first: int, last: int, part: Sampling) -> Sampled:
            done = way.run(taken(first, last), part)
            check_all_usable(source, fields.skipped)
            return done

        def finish(made: NDArray[np.float32]) -> dict[str, Any]:
            if plot:
                rows = _rows(taken(0, min(len(made), 8)).numpy(), made[:8], factor, protocol)
                save_figure(samples_figure(rows, f"{checkpoint.name}, {factor:g}x"), plot)
            if way.seen is None:
                return {}
            residual = way.seen.residual(torch.from_numpy(made), taken(0, len(made)))
            say(
                f"coarse-graining the result again differs from {source.name} by {residual:.2g} of "
                "its root mean square"
            )
            return {"consistency_residual": residual}

        sample_to(
            out,
            count,
            make,
            sampling,
            {
                "input": source.name,
                "input_fields": fields.count,
                "input_modified_ns": source.stat().st_mtime_ns if source.exists() else 0,
                "protocol": protocol,
                "factor": factor,
                "starting_step": way.n,
                "effective_resolution": way.resolution,
                "tau": way.tau,
                "downsampling_of_input": kind if protocol == "observed" else None,
                "keep": keep if protocol == "rescaled" else None,
                **provenance(checkpoint, model, sampling, threshold),
            },
            world,
            overwrite,
            start_out,
            True,
            finish,
        )


def _opened(
    source: Path, model: Model, size: int | None, kind: Downsampling | None
) -> tuple[TrainingFields, Downsampling | None]:
    """Fields of the model's channels in any order, and how they were made coarse if that is known.

    Raises:
        InputError: the source cannot be read, or its channels are not those of the model.
    """
    is_folder, channels = source.is_dir(), len(model.channels)
    if is_folder and size is None:
        size = picture_size(source)
    fields, _ = open_training_fields(source, size=size, grey=is_folder and channels == 1)
    if len(fields.channels) != channels:
        raise InputError(
            f"{source}: has {len(fields.channels)} channels ({', '.join(fields.channels)}), the "
            f"model {channels} ({', '.join(model.channels)})"
        )
    check_all_usable(source, fields.skipped)
    is_known = not is_folder and source.is_file() and source.suffix not in (".npy", ".npz")
    if kind is None and is_known:
        opened = open_fields(source)[0]
        kind = opened.attrs.get("downsampling")
        opened.close()
    return fields, kind


def _rows(
    given: NDArray[np.float32], made: NDArray[np.float32], factor: float, protocol: str
) -> dict[str, NDArray[np.float32]]:
    """Rows of a figure: what was given, interpolations of its coarse pixels, and what was made."""
    N = made.shape[-1]
    coarse = given
    if protocol == "paired":
        R = round(given.shape[-1] / factor)
        coarse = downsample(torch.from_numpy(given), "bicubic", max(R, 1), "cosine").numpy()
    rows = {f"{coarse.shape[-1]} pixels": coarse}
    if protocol != "rescaled":
        rows |= {
            "bicubic": interpolate(coarse, N, "bicubic"),
            "Lanczos": interpolate(coarse, N, "lanczos"),
        }
    rows["made"] = made
    return rows | ({"truth": given} if protocol == "paired" else {})
