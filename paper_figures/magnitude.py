"""The variance of modes, that of their magnitudes, and the published law of critical lattices.

    python paper_figures/magnitude.py [--measure]

Published spectra (arXiv 2605.26032) are variances of magnitudes, E|X|^2 - (E|X|)^2. Both are
measured here on lattices of L = 128 in the paper's basis and normalisation, and fitted as the paper
fits.
"""

from itertools import pairwise

import numpy as np
import xarray as xr
from ising import script, truth

import skild_physics as sk
from skild_physics import kspace
from skild_physics.plots import Figure, looks, new_figure
from skild_physics.plots.style import BLACK, COLUMN, lettered, zero_line
from skild_physics.spectrum import PowerLaw
from skild_physics.spectrum.moments import STATISTICS

L, SEED = 128, 7
PUBLISHED = PowerLaw(0.26641, 3.0, 0.811056)
GAUSSIAN = 1 - 2 / np.pi
LABELS = {"variance": "Var $X$", "magnitude": "Var $|X|$"}


def pixel_variance(S: np.ndarray) -> float:
    """Mean square of the sites of fields with these variances of modes (L, L) of the paper."""
    return float((S / kspace.normalization_factor(L, "cosine") ** 2).sum() / L**2)


def measure(fields: int) -> xr.Dataset:
    x = truth(L, fields, SEED)
    spectra = {
        each: sk.fit_spectrum(x, basis="cosine", method="paper", statistic=each, progress=sk.bar)
        for each in STATISTICS
    }
    for spectrum in spectra.values():
        print(spectrum)
    one, law = spectra["variance"], PUBLISHED(kspace.wavenumbers(L, "cosine"))
    sites = [pixel_variance(each.variance[0]) for each in spectra.values()]
    data = xr.Dataset(
        {
            "S": (("statistic", "k"), [each.profile for each in spectra.values()]),
            "S_stderr": (("statistic", "k"), [each.profile_stderr for each in spectra.values()]),
            "law": (
                ("statistic", "parameter"),
                [
                    (each.fit.law.C, each.fit.law.k0_squared, each.fit.law.alpha)
                    for each in spectra.values()
                ],
            ),
            "published": (("k",), PUBLISHED(one.k)),
            "pixel_variance": (("statistic",), sites),
        },
        coords={
            "k": (("k",), one.k, {"units": "radian / box side"}),
            "statistic": list(STATISTICS),
            "parameter": ["C", "k0_squared", "alpha"],
        },
        attrs={
            "schema": "skild_physics.magnitude",
            "package_version": sk.__version__,
            "L": L,
            "n_samples": fields,
            "seed": SEED,
            "stderr": "delete-one jackknife over 32 blocks of consecutive fields",
            "published_pixel_variance": pixel_variance(law),
        },
    )
    S = data["S"]
    ratio = (S.sel(statistic="magnitude") / S.sel(statistic="variance")).values
    print(f"Var|X| / Var X: median {np.median(ratio):.4f}, zero mode {ratio[0]:.4f}")
    for each in STATISTICS:
        over = (S.sel(statistic=each) / data["published"]).values
        print(f"{each} / published law: median {np.median(over):.3f}, zero mode {over[0]:.3f}")
    print(
        f"variance of a site: {dict(zip(STATISTICS, sites, strict=True))}, published law "
        f"{data.attrs['published_pixel_variance']:.4f}"
    )
    return data


def draw(data: xr.Dataset) -> Figure:
    """Both spectra with the published law, and their ratio."""
    k = data["k"].values
    edges = np.unique(np.geomspace(1, len(k), 60).astype(int)) - 1
    groups = list(pairwise(edges))

    def grouped(values: np.ndarray) -> np.ndarray:
        return np.array([values[low:high].mean() for low, high in groups])

    looked = looks(list(LABELS.values()))
    with new_figure(COLUMN, 4.2) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        points = {"linestyle": "none", "markersize": 2.5}
        for each, label in LABELS.items():
            S = data["S"].sel(statistic=each).values
            top.plot(grouped(k), grouped(S), label=label, **looked[label], **points)
        top.plot(k, data["published"], color=BLACK, label="published law")
        ratio = (data["S"].sel(statistic="magnitude") / data["S"].sel(statistic="variance")).values
        bottom.plot(grouped(k), grouped(ratio), **looked[LABELS["magnitude"]], **points)
        zero_line(bottom, GAUSSIAN)
        bottom.text(k[-1], GAUSSIAN - 0.03, r"$1 - 2/\pi$ ", va="top", ha="right")
        # linear up to the first shell above 0
        top.set_xscale("symlog", linthresh=k[1], linscale=0.4)
        top.set_xlim(-0.3 * k[1], 1.1 * k[-1])
        bottom.set_xticks([], minor=True)
        bottom.set_xticks([0, 10, 100], ["0", "$10^1$", "$10^2$"])
        top.set(yscale="log", ylabel="variance, paper normalisation")
        top.set_title(f"critical Ising, L = {L}, cosine basis")
        bottom.set(ylim=(0, 0.55), ylabel=r"Var $|X|$ / Var $X$")
        bottom.set_xlabel("wavenumber $k$  (radian / box side)")
        top.legend()
        lettered((top, bottom))
    return figure


if __name__ == "__main__":
    script("magnitude", measure, draw, 3000)
