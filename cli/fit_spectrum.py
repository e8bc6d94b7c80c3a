"""skild-physics fit-spectrum."""

import json
from pathlib import Path

import click
from rich.table import Table
from skild_physics.cli.console import answers, progress, say, with_error

from skild_physics.fields import load_fields
from skild_physics.files import check_output
from skild_physics.kspace import BASES, Basis
from skild_physics.plots import check_figure, save_figure, spectrum_figure
from skild_physics.spectrum import Spectrum, measure_blocks, spectrum_from_blocks
from skild_physics.spectrum.fit import METHODS, Method


@click.command("fit-spectrum")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--basis",
    type=click.Choice(BASES),
    default="periodic",
    show_default=True,
    help="periodic for lattices on a torus; cosine is the paper's.",
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
    "--out", type=click.Path(path_type=Path), help="NetCDF file.  [default: SOURCE.spectrum.nc]"
)
@click.option("--plot", type=click.Path(path_type=Path), help="Figure, .png, .pdf or .svg.")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    source: Path,
    basis: Basis,
    method: Method,
    k_min: float | None,
    k_max: float | None,
    out: Path | None,
    plot: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    r"""Measure the variance spectrum of SOURCE and fit S0(k) = C (k^2 + k0^2)^(-alpha).

    SOURCE is an HDF5 file of generate-ising or super-resolve. Spectra are in the normalisation of
    the paper, k in radians per box side.

    \b
    Example:
      skild-physics fit-spectrum ising-L128.h5 --plot spectrum.png
    """
    out = check_output(out or source.with_suffix(".spectrum.nc"), overwrite)
    if plot:
        check_figure(plot, overwrite)
    with load_fields(source) as fields, progress("measure", len(fields)) as show:
        blocks = measure_blocks(fields, basis, progress=show)
    spectrum = spectrum_from_blocks(blocks, basis, method, k_min, k_max, source.name)
    spectrum.save(out)
    if plot:
        save_figure(spectrum_figure(spectrum), plot)
    if as_json:
        attrs = spectrum.to_dataset().attrs
        click.echo(json.dumps({**attrs, "file": str(out)}, default=str))
        return
    show_fit(spectrum)
    click.echo(out)


def show_fit(spectrum: Spectrum) -> None:
    """Print the fitted parameters with their errors."""
    fit, (C, k02, alpha) = spectrum.fit, spectrum.fit_stderr
    table = Table("parameter", "value", title="S0(k) = C (k^2 + k0^2)^(-alpha)")
    table.add_row("C", with_error(fit.law.C, C))
    table.add_row("k0^2  [(rad/side)^2]", with_error(fit.law.k0_squared, k02))
    table.add_row("alpha", with_error(fit.law.alpha, alpha))
    answers.print(table)
    say(
        f"{fit.method} fit, k = {spectrum.fit_range[0]:.3g} .. {spectrum.fit_range[1]:.4g}, "
        f"{spectrum.basis} basis, {spectrum.n_samples} fields; errors: jackknife over "
        f"{spectrum.n_blocks} blocks; deviance {fit.deviance:.1f} for {fit.degrees_of_freedom} "
        "degrees of freedom"
    )
    if fit.on_bound:
        say(f"warning: on its bound, so no optimum and no error bar: {', '.join(fit.on_bound)}")
    if fit.p_value < 1e-3:
        say(
            f"note: a pure power law is rejected (p = {fit.p_value:.1e}): the errors are those of "
            "the best approximation to it in this range"
        )
