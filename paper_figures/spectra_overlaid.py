"""Spectra of critical lattices, photographs and published variance maps, overlaid with their fits.

    python paper_figures/spectra_overlaid.py [--measure] [MAP ...]

After figure 2 of arXiv 2605.26032: variances of |X| in the cosine basis, in the paper's
normalisation, fitted by least squares without weights. With --measure the spectra of lattices and
photographs are measured again first, half a minute. MAP is the variance map of a dataset, such as
the authors publish of CIFAR-10 and ImageNet (cifar10_var.npy); maps are drawn beside the others,
in a figure of its own, spectra_overlaid_maps.
"""

from dataclasses import replace
from pathlib import Path

import click
from ising import HERE, save, truth

import skild_physics as sk
from skild_physics.plots import spectrum_figure

NAME = "spectra_overlaid"
L, SEED, SIZE = 128, 7, 64
TITLES = {"lattices": f"critical Ising, L = {L}", "photographs": f"photographs, {SIZE} pixels"}


def measure(fields: int) -> None:
    sources = {"lattices": truth(L, fields, SEED), "photographs": sk.open("photographs", size=SIZE)}
    for name, source in sources.items():
        sk.fit_spectrum(
            source,
            basis="cosine",
            method="paper",
            statistic="magnitude",
            out=HERE / f"{NAME}_{name}.nc",
            overwrite=True,
            progress=sk.bar,
        )


@click.command()
@click.argument("maps", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--measure", "again", is_flag=True, help="Measure lattices and photographs first.")
@click.option("--fields", default=3000, show_default=True, help="Lattices to measure on.")
def main(maps: tuple[Path, ...], again: bool, fields: int) -> None:
    if again:
        measure(fields)
    spectra = [
        replace(sk.Spectrum.load(HERE / f"{NAME}_{name}.nc"), source=title)
        for name, title in TITLES.items()
    ]
    spectra += [
        replace(sk.fit_spectrum(path, variance_map=True, method="paper"), source=path.stem)
        for path in maps
    ]
    for each in spectra:
        law = each.fit.law
        print(
            f"| {each.source} | {law.C:.5f} | {law.k0_squared:.6f} | {law.alpha:.6f} |", flush=True
        )
    save(spectrum_figure(spectra), f"{NAME}_maps" if maps else NAME)


if __name__ == "__main__":
    main()
