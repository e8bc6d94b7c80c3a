"""The reverse process of the bundled model, step by step: an animation, and a strip of it.

    python paper_figures/reverse.py

Left, or above, one unconditional sample at every evaluation of the network, from noise to spins.
Right, or below, the variance of the modes of such fields, beside the spectrum of the data, and what
of it is signal and what noise. Nothing is measured; it takes half a minute. reverse.gif has every
evaluation, reverse.png those nearest to some effective resolutions R, in sites per side.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from ising import HERE, save
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
from skild_physics.plots import Figure, new_figure
from skild_physics.plots.style import PAGE, Axes
from skild_physics.spectrum.radial import radial_mean, shells

FIELDS, PICTURE, EVALUATIONS, SEED = 12, 8, 40, 4
BINS_PER_DECADE = 24
FRAMES_PER_SECOND, HOLD = 8, 16
SHOWN = (1.0, 4.0, 8.0, 16.0, 32.0)
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


def resolution(model: Skild, n: float) -> float:
    """Effective resolution of the state at step n, in sites per side."""
    lam = model.process.schedule.lam(torch.tensor(n / model.process.T))
    R = float(effective_resolution(lam, model.snr)) if n else model.size
    return min(R, model.size)


class Profiles:
    """Means of what modes have over bins of wavenumbers k, shape (bin,)."""

    def __init__(self, model: Skild):
        self.process, self.basis = model.process, model.basis
        every = shells(model.size, model.basis).k[1:]
        decades = np.floor(BINS_PER_DECADE * np.log10(every))
        self.bins = np.unique(decades, return_inverse=True)[1]
        self.k = self._binned(every)

    def _binned(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(self.bins, values) / np.bincount(self.bins)

    def __call__(self, variance: Tensor) -> NDArray[np.float64]:
        """Means of the variances of modes (y, x), but for the zero mode's."""
        return self._binned(radial_mean(variance.numpy(), self.basis)[1:])

    def of(self, state: State) -> tuple[NDArray[np.float64], ...]:
        """What the fields have, and what is signal and what noise in it, as the process says."""
        alpha, sigma = self.process.marginal(state.n)
        found = state.modes.square().mean(0)
        return self(found), self(alpha**2 * self.process.S0), self(sigma**2)

    def draw(self, ax: Axes, state: State) -> list[Any]:
        """The lines of :meth:`of` on axes, beside the spectrum of the data."""
        ax.plot(self.k, self(self.process.S0), color=S0, linewidth=4, label="$S_0$")
        how = (
            {
                "color": FOUND,
                "marker": "o",
                "ls": "none",
                "markersize": 2.5,
                "label": "these fields",
            },
            {"color": SIGNAL, "linewidth": 1.4, "label": "signal"},
            {"color": NOISE, "ls": "--", "linewidth": 1.4, "label": "noise"},
        )
        lines = [
            ax.plot(self.k, values, **look)[0]
            for values, look in zip(self.of(state), how, strict=True)
        ]
        ax.set(xscale="log", yscale="log", ylim=(3e-2, 3e2))
        return lines


def picture(ax: Axes, model: Skild, state: State) -> Any:
    """One of the fields on axes."""
    field = kspace.inverse(state.modes[PICTURE], model.basis)
    ax.set(xticks=[], yticks=[])
    return ax.imshow(field, cmap="gray", vmin=-1.5, vmax=1.5, interpolation="nearest")


def titled(model: Skild, state: State) -> str:
    """How far it is."""
    return f"$R$ = {resolution(model, state.n):.1f}" if state.n else "made"


def animate(model: Skild, way: Sequence[State], writer: PillowWriter, path: str) -> None:
    profiles = Profiles(model)
    figure = Figure(figsize=(5.6, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    image, lines = picture(left, model, way[0]), profiles.draw(right, way[0])
    right.set(xlabel="$k$  (radian / side)", ylabel="variance of a mode")
    right.legend(frameon=False, fontsize=7, loc="upper right")
    with writer.saving(figure, path, dpi=96):
        for state in way:
            image.set_data(kspace.inverse(state.modes[PICTURE], model.basis))
            for line, values in zip(lines, profiles.of(state), strict=True):
                line.set_ydata(values)
            left.set_title(titled(model, state), fontsize=9)
            writer.grab_frame()
        for _ in range(HOLD):
            writer.grab_frame()


def strip(model: Skild, way: Sequence[State]) -> Figure:
    """The states nearest to some resolutions, and what was made."""
    profiles = Profiles(model)

    def away(R: float) -> Callable[[State], float]:
        return lambda state: abs(np.log(resolution(model, state.n) / R))

    chosen = [min(way[:-1], key=away(R)) for R in SHOWN] + [way[-1]]
    with new_figure(PAGE, 2.7) as figure:
        above, below = figure.subplots(2, len(chosen), height_ratios=(1.3, 1))
        for top, bottom, state in zip(above, below, chosen, strict=True):
            picture(top, model, state)
            top.set_axis_off()
            top.set_title(titled(model, state))
            profiles.draw(bottom, state)
            bottom.set_xlabel("$k$")
            bottom.set_yticks(
                [0.1, 1, 10, 100], ["0.1", "1", "10", "100"] if bottom is below[0] else []
            )
            bottom.set_yticks([], minor=True)
        below[0].set_ylabel("variance of a mode")
        handles = below[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=4)
    return figure


if __name__ == "__main__":
    bundled = sk.load("bundled", device="cpu")
    states_of_it = list(states(bundled))
    with replacing(HERE / "reverse.gif") as temporary:
        animate(bundled, states_of_it, PillowWriter(fps=FRAMES_PER_SECOND), str(temporary))
    save(strip(bundled, states_of_it), "reverse")
