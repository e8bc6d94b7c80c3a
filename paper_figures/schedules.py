"""The published schedules, and what of a picture is left where they pass a resolution.

    python paper_figures/schedules.py [--measure]

(a) lambda(t) of the published configurations, in units of the side squared, and (b) the effective
resolution over the side, R(t) / N (arXiv 2605.26032, figures 4a and E.12). (c) What survives at R =
N / factor, the modes of a photograph times alpha_k = exp(-k^2 lambda / 2), beside the same
photograph made coarse and large again by a bicubic kernel: the peak signal-to-noise ratio of the
difference (table E.5, there of ImageNet). At the published threshold of the signal-to-noise ratio,
0.1, what diffusion leaves is what the kernel leaves to 1 % of the range of pixels (40 dB). The
photographs are patches of 96 x 96 of a cat and of a cup of coffee.
"""

import numpy as np
import torch
import xarray as xr
from ising import script

import skild_physics as sk
from skild_physics import kspace
from skild_physics.config import load_config
from skild_physics.diffusion.schedule import effective_resolution, lambda_at_resolution
from skild_physics.plots import Figure, new_figure
from skild_physics.plots.style import PAGE, bars, lettered, looks, side_by_side

CONFIGURATIONS = (
    *("cifar10-linear", "cifar10-log-linear", "imagenet128-x4", "imagenet128-x8"),
    *("imagenet256-x4", "ising128-x4"),
)
FACTORS, SNR, SIZE = (2, 3, 4, 6, 8), (0.01, 0.1, 1.0), 96
TIMES = np.linspace(0, 1, 201)[1:]


def schedules() -> xr.Dataset:
    """lambda and R / N of every configuration at every time."""
    rows = []
    for name in CONFIGURATIONS:
        process = load_config(name).process
        S0, _ = process.modes()
        N = S0.shape[-1]
        lam = process.schedule.build(N, process.snr).lam(torch.as_tensor(TIMES))
        rows.append((lam.numpy(), (effective_resolution(lam, process.snr) / N).numpy()))
    each = ("configuration", "t")
    lam, R = (np.stack(values) for values in zip(*rows, strict=True))
    coordinates = {"configuration": list(CONFIGURATIONS), "t": TIMES}
    return xr.Dataset({"lam": (each, lam), "resolution": (each, R)}, coordinates)


def survives(fields: torch.Tensor, factor: float, snr: float) -> torch.Tensor:
    """The signal alpha x_0 where the effective resolution is N / factor."""
    N = fields.shape[-1]
    lam = float(lambda_at_resolution(N / factor, snr))
    alpha = np.exp(-(kspace.wavenumbers(N, "cosine") ** 2) * lam / 2)
    modes = kspace.forward(fields.double(), "cosine")
    return kspace.inverse(torch.as_tensor(alpha) * modes, "cosine")


def measure(fields: int) -> xr.Dataset:
    truth = sk.open("photographs-test", size=SIZE)[:fields].load()
    x = torch.as_tensor(truth.values)
    found = np.empty((len(FACTORS), len(SNR), len(x)))
    for row, factor in zip(found, FACTORS, strict=True):
        coarse = sk.coarse_grain(truth, factor=factor, kernel="bicubic")
        large = torch.as_tensor(sk.interpolate(coarse, factor=factor).values).double()
        for at, snr in enumerate(SNR):
            mse = (survives(x, factor, snr) - large).square().mean(dim=(1, 2, 3))
            row[at] = 10 * torch.log10(4 / mse)
    psnr = xr.Dataset(
        {"psnr": (("factor", "snr", "image"), found)}, {"factor": list(FACTORS), "snr": list(SNR)}
    )
    return schedules().merge(psnr)


def draw(results: xr.Dataset) -> Figure:
    with new_figure(PAGE, 2.6) as figure:
        left, middle, right = figure.subplots(1, 3)
        for label, look in looks(list(results["configuration"].values)).items():
            row = results.sel(configuration=label)
            left.plot(row["t"], row["lam"], color=look["color"], label=label)
            middle.plot(row["t"], row["resolution"], color=look["color"])
        left.set(yscale="log", xlabel="$t$", ylabel=r"$\lambda(t)$", title="schedules")
        middle.set(yscale="log", ylim=(0.01, 2), xlabel="$t$", ylabel="$R(t) / N$")
        middle.set_title("effective resolution")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        shifts = side_by_side(len(SNR))
        labels = [f"SNR {snr:g}" for snr in SNR]
        for at, (label, look) in enumerate(looks(labels).items()):
            psnr = results["psnr"].isel(snr=at)
            mean, error = psnr.mean("image"), psnr.std("image", ddof=1) / psnr.sizes["image"] ** 0.5
            bars(right, np.array(FACTORS) * shifts[at], mean, error, **look, label=label)
        right.set_xscale("log", base=2)
        right.set_xticks(FACTORS, [str(factor) for factor in FACTORS])
        right.set(xlabel="factor", ylabel="PSNR  (dB)", title="survives, or bicubic")
        right.set_ylim(28, 50)
        right.legend(loc="upper right")
        lettered((left, middle, right))
    for factor in FACTORS:
        row = results["psnr"].sel(factor=factor).mean("image").values
        print(f"| {factor}x | {' | '.join(f'{value:.1f}' for value in row)} |")
    return figure


if __name__ == "__main__":
    script("schedules", measure, draw, 36)
