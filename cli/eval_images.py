"""skild-physics eval-images."""

import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import xarray as xr
from rich.table import Table

from skild_physics import __version__
from skild_physics.cli.console import answers, progress, say
from skild_physics.cli.inputs import labelled
from skild_physics.fields import FieldStream, open_pictures
from skild_physics.fields.sources import WORDS
from skild_physics.files import check_none_given, check_output, json_text, replacing
from skild_physics.observables.jackknife import MIN_BLOCKS
from skild_physics.quality.evaluate import evaluate, variable
from skild_physics.quality.metrics import METRICS
from skild_physics.quality.summary import RESAMPLES, Row, rows, summarize
from skild_physics.tables import with_error
from skild_physics.training.hardware import default_device, keep_freed_memory

SCHEMA = "skild_physics.image_quality"


def _sources(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    return labelled(values, "SOURCE")


def _metrics(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(value.split(",")))
    for name in names:
        if name not in METRICS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(METRICS)}")
    return names


@click.command("eval-images")
@click.argument("sources", nargs=-1, required=True, metavar="LABEL=SOURCE...", callback=_sources)
@click.option(
    "--metrics",
    callback=_metrics,
    default="psnr,ssim,ms-ssim",
    show_default=True,
    help=f"Separated by commas, out of {', '.join(METRICS)}.",
)
@click.option("--samples", type=click.IntRange(min=1), help="The first N pictures of each source.")
@click.option("--size", type=click.IntRange(min=1), help="Of folders: the central N x N pixels.")
@click.option("--resize", is_flag=True, help="Of folders: shrink pictures to --size first.")
@click.option("--grey", is_flag=True, help="Of folders: luminance instead of colours.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of CIFAR-10's archive.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Folder of the networks' published weights; nothing is downloaded.  "
    "[default: weights in the user's cache]",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="At a time."
)
@click.option(
    "--bootstrap",
    "resamples",
    type=click.IntRange(min=100),
    help=f"Resamples of the pictures for the intervals.  [default: {RESAMPLES}]",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="NetCDF file.  [default: eval-images.nc]"
)
@click.option("--csv", type=click.Path(path_type=Path), help="Values of every picture as CSV.")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    sources: dict[str, str],
    metrics: tuple[str, ...],
    samples: int | None,
    size: int | None,
    resize: bool,
    grey: bool,
    data_dir: Path | None,
    weights: Path | None,
    batch_size: int,
    resamples: int | None,
    out: Path | None,
    csv: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Image quality: PSNR, SSIM, MS-SSIM, LPIPS, FID, KID, IS, MUSIQ, CLIP-IQA, with errors.

    The first LABEL=SOURCE is the reference. A source is a folder of pictures, an .npz or .npy
    archive, an HDF5 file of this package, cifar10, cifar10-test, photographs or photographs-test.
    psnr, ssim, ms-ssim and lpips compare pictures in pairs; fid and kid compare ensembles, of which
    the numbers may differ; is, musiq and clipiqa judge every source alone, the reference too.

    Metrics are computed on 8-bit pixels: fields in [-1, 1] are rounded to 0 .. 255 first, and what
    lies outside is clipped.

    fid, kid, is and lpips need pip install 'skild_physics[images]' and these files in --weights:
    weights-inception-2015-12-05-6726825d.pth (fid, kid, is), alexnet-owt-7be5be79.pth (lpips).
    musiq and clipiqa need 'skild_physics[iqa]', whose package pyiqa may not be used commercially,
    and musiq_koniq_ckpt-e95806b9.pth or RN50.pt. A missing file is named with its address.

    \b
    Example:
      skild-physics eval-images truth=held skild=made bicubic=up.npz --csv pictures.csv
    """
    out = check_output(out or Path("eval-images.nc"), overwrite)
    if csv:
        check_output(csv, overwrite)
    if not any(METRICS[metric].per_picture for metric in metrics):
        of_pictures = {"csv": csv, "resamples": resamples}
        check_none_given(of_pictures, "is for values of every picture, which no metric here has")
    keep_freed_memory()
    opening = {"size": size, "resize": resize, "grey": grey, "data_dir": data_dir}
    with ExitStack() as stack:
        streams = {
            label: stack.enter_context(stream)
            for label, stream in _opened(sources, opening).items()
        }
        total = sum(min(stream.count, samples or stream.count) for stream in streams.values())
        with progress("evaluate", total) as show:
            results = evaluate(
                streams,
                metrics,
                samples=samples,
                batch_size=batch_size,
                weights=weights,
                device=default_device(),
                log=say,
                progress=show,
            )
        for label, stream in streams.items():
            if stream.skipped:
                say(f"{label}: {len(stream.skipped)} skipped: {', '.join(stream.skipped)}")
    results = summarize(results, metrics, resamples or RESAMPLES).assign_attrs(
        schema=SCHEMA,
        schema_version=1,
        package_version=__version__,
        sources=[f"{label}={source}" for label, source in sources.items()],
        reference=next(iter(sources)),
        metrics=list(metrics),
        pixels="8 bits: fields in [-1, 1] rounded to 0 .. 255 and clipped",
    )
    with replacing(out) as temporary:
        results.to_netcdf(temporary, engine="h5netcdf")
    if csv:
        names = [variable(metric) for metric in metrics if METRICS[metric].per_picture]
        with replacing(csv) as temporary:
            results[names].to_dataframe().dropna(how="all").to_csv(temporary)
    found = rows(results, metrics)
    if as_json:
        click.echo(json_text([_plain(row) for row in found]))
        return
    answers.print(_table(results, found))
    _explain(results, found)
    click.echo(out)


def _opened(sources: dict[str, str], opening: dict[str, Any]) -> dict[str, FieldStream]:
    """Streams by label; options of folders go to folders only, and others may stand beside."""
    taken: set[str] = set()
    streams = {}
    for label, source in sources.items():
        if source in WORDS:
            names = {"data_dir"} if source.startswith("cifar10") else {"size"}
        else:
            names = {"size", "resize", "grey"} if os.path.isdir(source) else set()
        taken |= names
        streams[label] = open_pictures(source, **{name: opening[name] for name in names})
    for name, value in opening.items():
        if name not in taken:
            whose = "cifar10" if name == "data_dir" else "folders of pictures"
            check_none_given({name: value}, f"is for {whose}, and none is given")
    return streams


def _plain(row: Row) -> dict[str, Any]:
    # JSON knows no infinity, which the PSNR of equal pictures is
    return {
        name: str(value) if isinstance(value, float) and math.isinf(value) else value
        for name, value in asdict(row).items()
    }


def _table(results: xr.Dataset, found: Sequence[Row]) -> Table:
    first = str(results["source"].values[:2][-1])
    table = Table("metric", "source", "value", "95 % interval")
    has_differences = any(row.difference is not None for row in found)
    if has_differences:
        table.add_column(f"minus {first}")
    before = ""
    for row in found:
        value = _value(row)
        cells = [row.title if row.title != before else "", row.source, value, ""]
        before = row.title
        if row.low is not None and row.high is not None:
            decimals = len(value.partition("(")[0].partition(".")[2])
            cells[-1] = f"{row.low:.{decimals}f} .. {row.high:.{decimals}f}"
        if has_differences and row.difference is not None:
            cells.append(with_error(row.difference, row.difference_stderr or 0.0))
        table.add_row(*cells)
    return table


def _value(row: Row) -> str:
    if row.subset_std is not None:
        return f"{row.value:.5g} (subsets: +- {row.subset_std:.2g})"
    return with_error(row.value, row.stderr or 0.0)


def _explain(results: xr.Dataset, found: Sequence[Row]) -> None:
    """Say how many pictures and what the errors are."""
    numbers = ", ".join(
        f"{int(number):,} of {label}"
        for label, number in zip(results["source"].values, results["n_samples"].values, strict=True)
    )
    errors = []
    if any(row.low is not None for row in found):
        errors.append(
            f"means over pictures with standard errors and percentiles of "
            f"{results.attrs['bootstrap_resamples']} bootstrap resamples"
        )
    if any(row.metric in ("fid", "is") and row.stderr is not None for row in found):
        errors.append("FID and IS with jackknife errors over ten blocks of pictures")
    if any(row.metric == "kid" for row in found):
        errors.append(
            f"KID: mean and standard deviation over random subsets of "
            f"{int(results['kid_subset_size'].max())} pictures, no error of the mean"
        )
    if int(results["n_samples"].min()) < MIN_BLOCKS:
        errors.append(f"no error bars from fewer than {MIN_BLOCKS} pictures")
    say(f"(pictures: {numbers}; {'; '.join(errors)})")
