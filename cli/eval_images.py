"""skild-physics eval-images."""

from pathlib import Path
from typing import Any

import click

from skild_physics.cli.console import progress, show
from skild_physics.cli.help import Command
from skild_physics.cli.inputs import array_options, choose_option, labelled
from skild_physics.fields.clipping import ROUNDINGS
from skild_physics.files import json_text
from skild_physics.quality.metrics import METRICS
from skild_physics.quality.results import DEFAULT, eval_images
from skild_physics.quality.summary import RESAMPLES


def _sources(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    return labelled(values, "SOURCE")


@click.command("eval-images", cls=Command)
@click.argument("sources", nargs=-1, required=True, metavar="[LABEL=]SOURCE...", callback=_sources)
@click.option(
    "--metrics",
    callback=lambda ctx, param, value: value.split(","),
    default=",".join(DEFAULT),
    show_default=True,
    help=f"Separated by commas, out of {', '.join(METRICS)}.",
)
@click.option("--samples", type=click.IntRange(min=1), help="The first N pictures of each source.")
@choose_option
@click.option(
    "--size",
    type=click.IntRange(min=1),
    help="Of folders: the central N x N pixels.  [default: all]",
)
@click.option("--resize", is_flag=True, help="Of folders: shrink pictures to --size first.")
@click.option("--grey", is_flag=True, help="Of folders: luminance instead of colours.")
@click.option(
    "--luminance",
    is_flag=True,
    help="psnr, ssim, ms-ssim of Y of BT.601, 16 .. 235, as papers on super-resolution report.",
)
@click.option(
    "--shave",
    type=click.IntRange(min=0),
    default=0,
    help="psnr, ssim, ms-ssim without a border of N pixels; in papers the factor.",
)
@array_options("L", "dims", "data_range")
@click.option(
    "--rounding",
    type=click.Choice(ROUNDINGS),
    default="nearest",
    show_default=True,
    help="Of fields in [-1, 1] to bytes; floor cuts off, as published code does before FID.",
)
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
    out: Path | None,
    csv: Path | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Image quality: PSNR, SSIM, MS-SSIM, LPIPS, FID, KID, IS, MUSIQ, CLIP-IQA, with errors.

    The first SOURCE is the reference. A source is a folder of pictures of any sizes, a single
    one, an .npz or .npy archive, an HDF5 file of this package, cifar10, cifar10-test, photographs
    or photographs-test. psnr, ssim, ms-ssim and lpips compare pictures in pairs: of folders those
    of one name, as 7.png and 0007.jpg, of arrays those of one position. fid and kid compare
    ensembles, of which the numbers may differ; is, musiq and clipiqa judge every source alone, the
    reference too.

    Metrics are computed on 8-bit pixels: fields in [-1, 1] are rounded to 0 .. 255 first, and what
    lies outside is clipped, counted and said.

    fid, kid, is and lpips need pip install 'skild_physics[images]' and these files in --weights:
    weights-inception-2015-12-05-6726825d.pth (fid, kid, is), alexnet-owt-7be5be79.pth (lpips).
    musiq and clipiqa need 'skild_physics[iqa]', whose package pyiqa may not be used commercially,
    and musiq_koniq_ckpt-e95806b9.pth or RN50.pt. A missing file is named with its address.

    \b
    Example:
      skild-physics eval-images truth=held skild=made bicubic=up.npz --csv all.csv
      skild-physics eval-images truth=Set5/HR made=Set5/x4 --luminance --shave 4
    """
    out = out or Path("eval-images.nc")
    quality = eval_images(
        sources, out=out, csv=csv, overwrite=overwrite, progress=progress, **options
    )
    if as_json:
        click.echo(json_text(quality.to_json()))
        return
    show(quality)
    click.echo(out)
