"""The reverse process of the bundled model, step by step, as an animation.

    python paper_figures/reverse.py

Left, one unconditional sample at every evaluation of the network, from noise to spins. Right, the
variance of the modes of such fields, beside the spectrum of the data, and what of it is signal and
what noise. Nothing is measured; it takes half a minute.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from ising import HERE
from matplotlib.animation import PillowWriter
from numpy.typing import NDArray
from torch import Tensor

import skild_physics as sk
from skild_physics import kspace
from skild_physics.claims import replacing
from skild_physics.diffusion.noise import Noise
from skild_physics.diffusion.prediction import Denoiser
from skild_physics.diffusion.reverse import nothing, sample
from skild_physics.diffusion.schedule import effective_resolution
from skild_physics.models.skild import Skild
from skild_physics.plots import Figure
from skild_physics.spectrum.radial import radial_mean, shells

FIELDS, PICTURE, EVALUATIONS, SEED = 12, 8, 40, 4
BINS_PER_DECADE = 24
FRAMES_PER_SECOND, HOLD = 8, 16
S0, SIGNAL, NOISE, FOUND = "0.75", "#0072b2", "#d55e00", "black"


class State(NamedTuple):
    """Modes (field, y, x) at a step n."""

    n: float
    modes: Tensor


def states(model: Skild) -> Iterator[State]:
    """What the network is shown in the course of a sampling, and at n = 0 what was made."""
    start, seen = model.prior(model.size), []

    def draw(given: Tensor, noise: Noise) -> tuple[Tensor, Denoiser]:
        x, denoise = start.draw(given, noise)

        def watched(x: Tensor, n: float) -> Tensor:
            seen.append(State(n, x[:, 0].double()))
            return denoise(x, n)

        return x, watched

    sampler = sk.Multistep(EVALUATIONS)
    made = sample(replace(start, draw=draw), nothing(FIELDS), sampler, seed=SEED)
    yield from seen
    yield State(0.0, kspace.forward(made.result[:, 0].double(), model.basis))


def animate(model: Skild, writer: PillowWriter, path: str) -> None:
    process, basis = model.process, model.basis
    every = shells(model.size, basis).k[1:]
    bins = np.unique(np.floor(BINS_PER_DECADE * np.log10(every)), return_inverse=True)[1]

    def binned(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(bins, values) / np.bincount(bins)

    def profile(variance: Tensor) -> NDArray[np.float64]:
        return binned(radial_mean(variance.numpy(), basis)[1:])

    k = binned(every)
    figure = Figure(figsize=(5.6, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    blank = torch.zeros(model.size, model.size)
    image = left.imshow(blank, cmap="gray", vmin=-1.5, vmax=1.5, interpolation="nearest")
    left.set(xticks=[], yticks=[])

    right.plot(k, profile(process.S0), color=S0, linewidth=4, label="$S_0$")
    (found,) = right.plot(k, k, "o", color=FOUND, markersize=2.5, label="these fields")
    (signal,) = right.plot(k, k, color=SIGNAL, linewidth=1.4, label="signal")
    (noise,) = right.plot(k, k, "--", color=NOISE, linewidth=1.4, label="noise")
    right.set(xscale="log", yscale="log", ylim=(3e-2, 3e2), xlabel="$k$  (radian / side)")
    right.set_ylabel("variance of a mode")
    right.legend(frameon=False, fontsize=7, loc="upper right")
    with writer.saving(figure, path, dpi=96):
        for n, modes in states(model):
            alpha, sigma = process.marginal(n)
            image.set_data(kspace.inverse(modes[PICTURE], basis))
            found.set_ydata(profile(modes.square().mean(0)))
            signal.set_ydata(profile(alpha**2 * process.S0))
            noise.set_ydata(profile(sigma**2))
            lam = process.schedule.lam(torch.tensor(n / process.T))
            R = float(effective_resolution(lam, model.snr)) if n else model.size
            left.set_title(f"$R$ = {min(R, model.size):.1f}" if n else "made", fontsize=9)
            writer.grab_frame()
        for _ in range(HOLD):
            writer.grab_frame()


if __name__ == "__main__":
    with replacing(HERE / "reverse.gif") as temporary:
        bundled = sk.load("bundled", device="cpu")
        animate(bundled, PillowWriter(fps=FRAMES_PER_SECOND), str(temporary))
