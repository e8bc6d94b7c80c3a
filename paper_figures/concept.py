"""The forward process on one critical lattice, mode by mode.

    python paper_figures/concept.py

Above, the lattice of hero.py at five effective resolutions. Below, what is left of the signal and
what is noise in the variance of every mode: their sum is the spectrum of the data at every step.
The bundled model's process; the lattice is in the results of four_point.py.
"""

import torch
import xarray as xr
from ising import HERE

import skild_physics as sk
from skild_physics import kspace
from skild_physics.diffusion.schedule import lambda_at_resolution
from skild_physics.plots import Figure, save_figure
from skild_physics.spectrum.radial import radial_mean, shells

PICTURE, RESOLUTIONS = 1, (64, 32, 16, 8, 4)
SIGNAL, NOISE = "#0072b2", "#d55e00"


def draw(results: xr.Dataset) -> Figure:
    model = sk.load("bundled", device="cpu")
    process, basis = model.process, model.basis
    x = torch.as_tensor(results["picture_truth"][PICTURE].values, dtype=torch.float64)
    X = kspace.forward(x, basis)
    eps = torch.randn(X.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    k = shells(model.size, basis).k[1:]
    figure = Figure(figsize=(9, 4), layout="constrained")
    top, bottom = figure.subplots(2, len(RESOLUTIONS), height_ratios=(1, 0.9))
    for letter, R, above, below in zip("abcde", RESOLUTIONS, top, bottom, strict=True):
        lam = torch.tensor(lambda_at_resolution(R, model.snr))
        alpha, sigma = process.marginal(float(process.schedule.time(lam)) * process.T)
        field = kspace.inverse(alpha * X + sigma * eps, basis)
        above.imshow(field.numpy(), cmap="gray", vmin=-1.5, vmax=1.5, interpolation="nearest")
        above.set_title(f"({letter}) $R$ = {R}", fontsize=9)
        above.set_xticks([])
        above.set_yticks([])
        signal, noise = alpha**2 * process.S0, sigma**2
        shown = {
            "$S_0$": (process.S0, "black", "-"),
            "signal": (signal, SIGNAL, "-"),
            "noise": (noise, NOISE, "--"),
        }
        for label, (variance, color, line) in shown.items():
            mean = radial_mean(variance.numpy(), basis)[1:]
            width = 2.5 if color == "black" else 1.4
            shade = "0.75" if color == "black" else color
            below.plot(k, mean, line, color=shade, linewidth=width, label=label)
        below.set(xscale="log", yscale="log", ylim=(3e-2, 3e2))
        below.set_xlabel("$k$  (radian / side)", fontsize=8)
        below.tick_params(labelsize=7)
        if letter != "a":
            below.set_yticklabels([])
    bottom[0].set_ylabel("variance of a mode", fontsize=8)
    bottom[-1].legend(frameon=False, fontsize=7, loc="upper right")
    return figure


if __name__ == "__main__":
    with xr.open_dataset(HERE / "four_point.nc", engine="h5netcdf") as results:
        save_figure(draw(results), HERE / "concept.png")
