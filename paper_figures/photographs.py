"""Photographs that the bundled model never saw, enlarged by 2, 3 and 4; and its spectrum.

    python paper_figures/photographs.py [--measure]

Draws photographs.png and photographs_spectrum.png from the files beside it, and prints the README's
table. --measure runs `skild-physics reproduce photographs` in runs/photographs first.
"""

import shutil
from pathlib import Path

import click
import xarray as xr

from skild_physics.cli.reproduce_photographs import quality_table, reproduce_photographs
from skild_physics.plots import enlargements_figure, save_figure, spectrum_figure
from skild_physics.spectrum import Spectrum

HERE = Path(__file__).parent
RESULTS, SPECTRUM = HERE / "photographs.nc", HERE / "photographs_spectrum.nc"


@click.command()
@click.option("--measure", is_flag=True, help="Make the results again.")
def main(measure: bool) -> None:
    if measure:
        run = Path("runs/photographs")
        reproduce_photographs(run, 20, False, (), False)
        shutil.copyfile(run / "photographs.nc", RESULTS)
        shutil.copyfile(run / "photographs64-spectrum.nc", SPECTRUM)
    with xr.open_dataset(RESULTS, engine="h5netcdf") as results:
        save_figure(enlargements_figure(results), HERE / "photographs.png")
        for row in quality_table(results):
            click.echo(f"| {' | '.join(row)} |")
    save_figure(spectrum_figure([Spectrum.load(SPECTRUM)]), HERE / "photographs_spectrum.png")


if __name__ == "__main__":
    main()
