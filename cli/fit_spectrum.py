"""skild-physics fit-spectrum."""

from pathlib import Path

import click
from rich.table import Table

from skild_physics.cli.console import answers, progress, say, say_skipped
from skild_physics.cli.inputs import picture_options
from skild_physics.fields import is_variance_map, load_variance_map, open_source
from skild_physics.files import check_none_given, check_output, json_text
from skild_physics.kspace import BASES, MOMENTA, NORMALIZATIONS, Basis, Momentum, Normalization
from skild_physics.plots import check_figure, save_figure, spectrum_figure
from skild_physics.spectrum import (
    Spectrum,
    measure_blocks,
    spectrum_from_blocks,
    spectrum_from_variance,
)
from skild_physics.spectrum.fit import METHODS, Method
from skild_physics.tables import with_error

P_REJECTED = 1e-3


@click.command("fit-spectrum")
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
@picture_options
@click.option("--n-samples", type=int, help="Variance maps: number of fields behind them.")
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
    basis: Basis | None,
    method: Method,
    k_min: float | None,
    k_max: float | None,
    momentum: Momentum,
    k0_squared: float | None,
    normalization: Normalization | None,
    size: int | None,
    tile: bool,
    resize: bool,
    grey: bool,
    strict: bool,
    data_dir: Path | None,
    n_samples: int | None,
    out: Path | None,
    plot: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Measure the variance spectrum of SOURCE and fit S0(k) = C (k^2 + k0^2)^(-alpha).

    SOURCE is an HDF5 file of generate-ising, super-resolve or prepare-images, a folder of images, a
    .npy file (a stack of fields, or a variance map in the normalisation of the paper), an .npz
    stack, cifar10 or cifar10-test, which are downloaded once, or photographs or photographs-test,
    which come with scikit-image and scikit-learn. Several are fitted in turn and overlaid in one
    figure. Spectra are in the normalisation of the paper, k in radians per box side.

    \b
    Example:
      skild-physics fit-spectrum ising-L128.h5 --plot spectrum.png
      skild-physics fit-spectrum photographs/ --size 64 --tile --k-min 10
      skild-physics fit-spectrum cifar10 --method paper
    """
    if out and len(sources) > 1:
        raise click.UsageError(f"--out names one file, but there are {len(sources)} sources")
    outs = [check_output(out or _default_out(source), overwrite) for source in sources]
    if len(set(outs)) < len(outs):
        raise click.UsageError("two sources would write the same file: fit them one by one")
    if plot:
        check_figure(plot, overwrite)

    images = {"size": size, "tile": tile, "resize": resize, "grey": grey, "strict": strict}

    def measure(source: str) -> Spectrum:
        if Path(source).suffix == ".npy" and is_variance_map(source):
            of_fields = {"normalization": normalization, **images, "data_dir": data_dir}
            check_none_given(of_fields, f"is for fields; {source} is a variance map")
            return spectrum_from_variance(
                load_variance_map(source),
                n_samples,
                method,
                k_min,
                k_max,
                Path(source).name,
                basis or "cosine",
                momentum,
                k0_squared,
            )
        check_none_given({"n_samples": n_samples}, f"is for variance maps; {source} is counted")
        with open_source(source, **images, data_dir=data_dir) as stream:
            with progress(f"measure {stream.name}", stream.count) as show:
                blocks = measure_blocks(stream, basis, progress=show)
            say_skipped(stream.skipped, stream.count)
            return spectrum_from_blocks(
                blocks,
                basis or stream.basis,
                method,
                k_min,
                k_max,
                stream.name,
                momentum,
                k0_squared,
                stream.channels,
                normalization or "paper",
            )

    spectra = [measure(source) for source in sources]
    for spectrum, path in zip(spectra, outs, strict=True):
        spectrum.save(path)
    if plot:
        save_figure(spectrum_figure(spectra), plot)
    if as_json:
        results = [
            {**spectrum.to_dataset().attrs, "file": str(path)}
            for spectrum, path in zip(spectra, outs, strict=True)
        ]
        click.echo(json_text(results if len(results) > 1 else results[0]))
        return
    for spectrum, path in zip(spectra, outs, strict=True):
        show_fit(spectrum)
        click.echo(path)


def _default_out(source: str) -> Path:
    path = Path(source)
    return Path(f"{path.resolve().name if path.is_dir() else path.stem}.spectrum.nc")


def show_fit(spectrum: Spectrum) -> None:
    """Print the fitted parameters with their errors."""
    fit, (C, k02, alpha) = spectrum.fit, spectrum.law_stderr
    table = Table("parameter", "value", title=f"{spectrum.source}: S0(k) = C (k^2 + k0^2)^(-alpha)")
    table.add_row("C", with_error(fit.law.C, C))
    table.add_row("k0^2  [(rad/side)^2]", with_error(fit.law.k0_squared, k02))
    table.add_row("alpha", with_error(fit.law.alpha, alpha))
    answers.print(table)
    say(
        f"{fit.method} fit, k = {spectrum.fit_range[0]:.4g} .. {spectrum.fit_range[1]:.4g} radians "
        f"per box side ({spectrum.momentum}), {spectrum.basis} basis, "
        f"{spectrum.n_samples or 'unknown number of'} fields; errors: {spectrum.errors}"
    )
    if spectrum.n_samples is None:
        say("give --n-samples, the number of fields behind the map, for error bars")
    say(f"the shells scatter about the law by {100 * fit.scatter:.2g} % (root mean square)")
    if fit.on_bound:
        say(f"warning: on its bound, so no optimum and no error bar: {', '.join(fit.on_bound)}")
    if fit.method == "paper" or spectrum.n_samples is None:
        return
    good = spectrum.goodness
    say(
        f"goodness of fit: chi-square {good.chi_square:.1f} for {good.degrees_of_freedom:.1f} "
        f"degrees of freedom, p = {good.p_value:.2g}"
        + (" (from the blocks: modes need not be Gaussian)" if spectrum.n_blocks else "")
    )
    if good.p_value < P_REJECTED:
        say(
            "warning: this law is rejected in this range of k, so the errors are those of the best "
            "approximation to the data by it; narrow --k-min .. --k-max, or use the measured "
            "spectrum, which needs no law"
        )
