"""skild-physics fit-spectrum."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from skild_physics import plots
from skild_physics.cli.console import progress, show
from skild_physics.cli.help import Command
from skild_physics.cli.inputs import array_options, picture_options
from skild_physics.files import check_apart, json_text
from skild_physics.kspace import BASES, MOMENTA, NORMALIZATIONS
from skild_physics.requests import check_result
from skild_physics.spectrum import FitOptions, fit_spectra
from skild_physics.spectrum.fit import METHODS
from skild_physics.spectrum.moments import STATISTICS


@click.command("fit-spectrum", cls=Command)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--basis",
    type=click.Choice(BASES),
    help="periodic for lattices on a torus; cosine is the paper's.  [default: periodic for "
    "ensembles, cosine for the rest]",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="likelihood",
    show_default=True,
    help="likelihood weighs every shell by its degrees of freedom; paper: plain least squares.",
)
@click.option("--k-min", type=float, help="Smallest k of the fit, radians per box side.")
@click.option("--k-max", type=float, help="Largest k of the fit, radians per box side.")
@click.option(
    "--momentum",
    type=click.Choice(MOMENTA),
    default="continuum",
    show_default=True,
    help="What k means: pi sqrt(u^2 + v^2), or the lattice momentum 2N sin(k/2N).",
)
@click.option("--k0-squared", type=float, help="Hold k0^2 at this value; 0 fits a pure power of k.")
@click.option(
    "--normalization",
    type=click.Choice(NORMALIZATIONS),
    help="paper doubles the variance of cosine modes with u = 0 or v = 0; isotropic does not.  "
    "[default: paper]",
)
@click.option(
    "--statistic",
    type=click.Choice(STATISTICS),
    help="The variance of the modes, or that of their magnitudes, which published spectra are.  "
    "[default: variance]",
)
@picture_options
@array_options("L", "dims", "data_range", "boundary")
@click.option(
    "--variance-map",
    is_flag=True,
    help="SOURCE holds no fields but a variance map, (N, N) or (channel, N, N), in the "
    "normalisation of the paper.",
)
@click.option("--n-samples", type=int, help="Of a variance map: number of fields behind it.")
@click.option(
    "--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers see the files and measure."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="NetCDF file, of a single source.  [default: NAME.spectrum.nc, in this folder]",
)
@click.option("--plot", type=click.Path(path_type=Path), help="Figure, .png, .pdf or .svg.")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def command(
    sources: tuple[str, ...],
    out: Path | None,
    plot: Path | None,
    overwrite: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Measure the variance spectrum of SOURCE and fit S0(k) = C (k^2 + k0^2)^(-alpha).

    SOURCE is an HDF5 file of generate-ising, super-resolve or prepare-images, a folder of images, a
    .npy or .npz stack, cifar10 or cifar10-test, which are downloaded once, or photographs or
    photographs-test, which come with scikit-image and scikit-learn. Several are fitted in turn and
    overlaid in one figure. Spectra are in the normalisation of the paper, k in radians per box
    side.

    \b
    Example:
      skild-physics fit-spectrum ising-L128.h5 --plot spectrum.png
      skild-physics fit-spectrum photographs/ --size 64 --tile --k-min 10
      skild-physics fit-spectrum cifar10 --method paper --statistic magnitude
      skild-physics fit-spectrum cifar10_var.npy --variance-map --method paper
    """
    if out and len(sources) > 1:
        raise click.UsageError(f"--out names one file, but there are {len(sources)} sources")
    outs = [check_result(out or _default_out(source), overwrite) for source in sources]
    if len(set(outs)) < len(outs):
        raise click.UsageError("two sources would write the same file: fit them one by one")
    if plot:
        plots.check_figure(plot, overwrite, *outs)
    for each in outs:
        check_apart({"out": each, "plot": plot}, *sources)

    law = FitOptions(**{each.name: how.pop(each.name) for each in fields(FitOptions)})
    spectra = fit_spectra(sources, outs, law, overwrite=overwrite, progress=progress, **how)
    if plot:
        plots.save_figure(plots.spectrum_figure(spectra), plot, overwrite)
    if as_json:
        results = [
            {**spectrum.to_dataset().attrs, "file": str(path)}
            for spectrum, path in zip(spectra, outs, strict=True)
        ]
        click.echo(json_text(results if len(results) > 1 else results[0]))
        return
    for spectrum, path in zip(spectra, outs, strict=True):
        show(spectrum)
        click.echo(path)


def _default_out(source: str) -> Path:
    path = Path(source)
    return Path(f"{path.resolve().name if path.is_dir() else path.stem}.spectrum.nc")
