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
from skild_physics.plots import Figure
from skild_physics.spectrum import PowerLaw
from skild_physics.spectrum.moments import STATISTICS

L, SEED = 128, 7
PUBLISHED = PowerLaw(0.26641, 3.0, 0.811056)
GAUSSIAN = 1 - 2 / np.pi
COLORS = {"variance": "#0072b2", "magnitude": "#d55e00"}
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
    drawn = Figure(figsize=(7, 5.5), layout="constrained")
    top, bottom = drawn.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    k = data["k"].values
    x = np.where(k > 0, k, k[1] / 2)
    edges = np.unique(np.geomspace(1, len(k), 60).astype(int)) - 1
    groups = list(pairwise(edges))

    def grouped(values: np.ndarray) -> np.ndarray:
        return np.array([values[low:high].mean() for low, high in groups])

    for each in STATISTICS:
        S = data["S"].sel(statistic=each).values
        marker = "o" if each == "variance" else "s"
        top.plot(
            grouped(x), grouped(S), marker, color=COLORS[each], markersize=4, label=LABELS[each]
        )
    top.plot(x, data["published"], color="black", linewidth=1, label="published law")
    ratio = (data["S"].sel(statistic="magnitude") / data["S"].sel(statistic="variance")).values
    bottom.plot(grouped(x), grouped(ratio), "s", color=COLORS["magnitude"], markersize=4)
    bottom.axhline(GAUSSIAN, color="black", linewidth=0.8)
    bottom.text(x[-1], GAUSSIAN, r"$1 - 2/\pi$ ", va="top", ha="right", fontsize=9)
    top.set(
        xscale="log",
        yscale="log",
        ylabel="variance (paper normalisation)",
        title=f"critical Ising, L = {L}, cosine basis",
    )
    bottom.set(
        ylim=(0, 0.55),
        ylabel=r"Var $|X|$ / Var $X$",
        xlabel="wavenumber $k$ (radian / box side; leftmost point: $k = 0$)",
    )
    top.legend(frameon=False)
    return drawn


if __name__ == "__main__":
    script("magnitude", measure, draw, 3000)
