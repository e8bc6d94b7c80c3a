"""The forward process on one critical lattice, mode by mode.

    python paper_figures/concept.py

Above, the lattice of hero.py at five effective resolutions. Below, what is left of the signal and
what is noise in the variance of every mode: their sum is the spectrum of the data at every step.
The bundled model's process; the lattice is in the results of four_point.py.
"""

import numpy as np
import torch
import xarray as xr
from ising import HERE, save
from numpy.typing import NDArray

import skild_physics as sk
from skild_physics import kspace
from skild_physics.diffusion.schedule import lambda_at_resolution
from skild_physics.plots import Figure, draw_field, new_figure
from skild_physics.plots.style import BLUE, PAGE, VERMILLION
from skild_physics.spectrum.radial import radial_mean, shells

PICTURE, RESOLUTIONS = 1, (64, 32, 16, 8, 4)


def binned(k: NDArray[np.float64], S: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Means over bins of k: shells of nearly the same k hold modes of several directions."""
    bins = np.floor(24 * np.log10(k))
    starts = np.flatnonzero(np.diff(bins, prepend=-np.inf))
    counts = np.diff(starts, append=len(k))
    return np.add.reduceat(k, starts) / counts, np.add.reduceat(S, starts) / counts


def draw(results: xr.Dataset) -> Figure:
    model = sk.load("bundled", device="cpu")
    process, basis = model.process, model.basis
    x = torch.as_tensor(results["picture_truth"][PICTURE].values, dtype=torch.float64)
    X = kspace.forward(x, basis)
    eps = torch.randn(X.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    k = shells(model.size, basis).k[1:]
    with new_figure(PAGE, 3.1) as figure:
        top, bottom = figure.subplots(
            2, len(RESOLUTIONS), height_ratios=(1, 0.9), sharey="row", sharex="row"
        )
        for letter, R, above, below in zip("abcde", RESOLUTIONS, top, bottom, strict=True):
            lam = torch.tensor(lambda_at_resolution(R, model.snr))
            alpha, sigma = process.marginal(float(process.schedule.time(lam)) * process.T)
            field = kspace.inverse(alpha * X + sigma * eps, basis)
            draw_field(above, field.numpy() / 1.5).set_title(f"({letter}) $R={R}$", loc="left")
            shown = {
                "$S_0$": (process.S0, "0.75", "-", 3),
                "signal": (alpha**2 * process.S0, BLUE, "-", 1.2),
                "noise": (sigma**2, VERMILLION, "--", 1.2),
            }
            for label, (variance, color, line, width) in shown.items():
                x, mean = binned(k, radial_mean(variance.numpy(), basis)[1:])
                below.plot(x, mean, line, color=color, linewidth=width, label=label)
            below.set(xscale="log", yscale="log", ylim=(3e-2, 3e2))
            below.set_xticks([10, 100])
        bottom[0].set_ylabel("variance of a mode")
        bottom[2].set_xlabel("wavenumber $k$  (radian / box side)")
        figure.legend(*bottom[-1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


if __name__ == "__main__":
    with xr.open_dataset(HERE / "four_point.nc", engine="h5netcdf") as results:
        save(draw(results), "concept")
