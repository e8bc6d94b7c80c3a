"""Why fields may get smaller as the noise grows, and what that saves.

    python paper_figures/levels.py

Left, the signal-to-noise ratio of the modes of photographs, from the spectrum of the bundled model,
where the levels of Scale Space Diffusion end (arXiv 2603.08709, four levels of 64 x 64): the modes
that the next level cannot hold, right of the dotted line of the same colour, are below the noise.
Right, the arithmetic of an evaluation of the published Flexi-UNet along the way, for one, two and
four levels; the mean over all steps is in the legend.
"""

from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import skild_physics as sk
from skild_physics.diffusion.scale_space import level_ends
from skild_physics.networks import GuidedUNet
from skild_physics.plots import Figure, save_figure
from skild_physics.spectrum.radial import radial_mean, shells

N, LEVELS = 64, (1, 2, 4)
COLOURS = ("#0072b2", "#d55e00", "#009e73")
MARKERS = ("o", "s", "^")


def gflop(network: GuidedUNet, side: int) -> float:
    """Of one evaluation for one field, counted on shapes."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, side, side, device="meta"), torch.ones(1, device="meta"))
    return counter.get_total_flops() / 1e9


def draw() -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    process = sk.load("bundled-photographs", device="cpu").process
    space = sk.load_config("celeba64-ssd4").process.space()
    k = shells(N, process.basis).k / np.pi
    S0 = radial_mean(process.S0.numpy(), process.basis)
    seen = (k >= 1) & (k < N)
    for level, (end, colour, marker) in enumerate(zip(space.ends, COLOURS, MARKERS, strict=False)):
        u, side = space.u(end), space.sizes[level + 1]
        snr = S0[seen] / np.expm1(u)
        label = f"n = {end}: {space.sizes[level]} to {side}"
        left.plot(k[seen], snr, color=colour, marker=marker, ms=4, markevery=0.12, label=label)
        left.axvline(side, color=colour, ls=":")
    left.axhline(1, color="0.5", lw=0.8)
    left.set(xscale="log", yscale="log", xlabel="half waves per side", ylabel="signal to noise")
    left.set_title("(a)", loc="left", fontsize=10)
    left.legend(fontsize=8)

    with torch.device("meta"):
        network = GuidedUNet(N)
    costs = [gflop(network, N >> level) for level in range(max(LEVELS))]
    for levels, colour, style in zip(LEVELS, COLOURS, ("-", "--", "-."), strict=True):
        ends = level_ends(levels, 1000)
        steps = np.diff((0, *ends))
        mean = float(steps @ costs[:levels]) / 1000
        label = f"{levels} level{'s'[: levels > 1]}, mean {mean:.1f}"
        right.stairs(costs[:levels], (0, *ends), baseline=None, color=colour, ls=style, label=label)
    right.set(xlabel="step n", ylabel="GFLOP of an evaluation", ylim=(0, None))
    right.set_title("(b)", loc="left", fontsize=10)
    right.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    save_figure(draw(), Path(__file__).with_suffix(".png"), overwrite=True)
