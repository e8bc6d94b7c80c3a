"""The exponent of the critical spectrum, and what a cosine basis costs on a torus.

    python paper_figures/ising_spectrum.py [--ensemble FILE] [--out FOLDER]

Makes (or takes) a critical L = 256 ensemble, fits S0 = C (k^2 + k0^2)^(-alpha) by likelihood in
windows of momentum, in both bases and with both momenta, and writes ising_spectrum.nc and .png.

The cost of a basis is the information that a process diagonal in it throws away. If the fields were
Gaussian, of the covariance that is diagonal in the periodic basis with the measured spectrum S, the
cosine modes would have variances (Q o Q) S (Q o Q)^T, Q = B_cos B_per^T, and treating them as
independent costs

    1/2 sum_modes [ln Var_cos - ln S]

nats per field: the Kullback-Leibler divergence between the diagonal Gaussian and the true one.
"""

import argparse
from pathlib import Path

import numpy as np
import xarray as xr
from rich.progress import track

from skild_physics import __version__
from skild_physics.data_gen import IsingParameters, generate
from skild_physics.fields import open_source
from skild_physics.files import replacing
from skild_physics.kspace import BASES, MOMENTA, basis_matrix
from skild_physics.plots import COLORS, Figure, save_figure
from skild_physics.spectrum import ModeMoments, measure_blocks, spectrum_from_blocks

L = 256
EXACT = 7 / 8
WINDOWS = [(4, 16), (4, 24), (6, 24), (8, 24), (6, 32), (8, 32), (12, 48), (16, 64), (24, 96)]
STATED = (6, 24)


def window(low: int, high: int) -> tuple[float, float]:
    """Momenta from just below mode ``low`` to just above mode ``high``, radians per box side."""
    return 2 * np.pi * low * 0.999, 2 * np.pi * high * 1.001


def cosine_cost(S: np.ndarray) -> float:
    """Nats per field lost by a diagonal cosine process, from orthonormal periodic variances."""
    Q2 = (basis_matrix(len(S), "cosine") @ basis_matrix(len(S), "periodic").T) ** 2
    return float(0.5 * np.sum(np.log(Q2 @ S @ Q2.T) - np.log(S)))


def fits(blocks: dict[str, list[ModeMoments]]) -> xr.Dataset:
    """Alpha, its error and the p-value in every window, basis and momentum."""
    shape = (len(BASES), len(MOMENTA), len(WINDOWS))
    alpha, stderr, p = np.empty(shape), np.empty(shape), np.empty(shape)
    for where in track(list(np.ndindex(shape)), "fits"):
        basis, momentum = BASES[where[0]], MOMENTA[where[1]]
        k_min, k_max = window(*WINDOWS[where[2]])
        spectrum = spectrum_from_blocks(
            blocks[basis],
            basis,
            k_min=k_min,
            k_max=k_max,
            momentum=momentum,
            normalization="isotropic",
        )
        alpha[where] = spectrum.fit.law.alpha
        stderr[where] = spectrum.law_stderr[2]
        p[where] = spectrum.goodness.p_value
    dims = ("basis", "momentum", "window")
    return xr.Dataset(
        {
            "alpha": (dims, alpha),
            "alpha_stderr": (dims, stderr),
            "p_value": (dims, p, {"long_name": "goodness of fit, from blocks of fields"}),
        },
        coords={
            "basis": list(BASES),
            "momentum": list(MOMENTA),
            "window": [f"{low}-{high}" for low, high in WINDOWS],
            "mode_min": ("window", [w[0] for w in WINDOWS], {"units": "2 pi / box side"}),
            "mode_max": ("window", [w[1] for w in WINDOWS], {"units": "2 pi / box side"}),
        },
    )


def figure(data: xr.Dataset) -> Figure:
    """Alpha against the window, one line of points for each basis and momentum."""
    drawn = Figure(figsize=(7.5, 4), layout="constrained")
    ax = drawn.subplots()
    x = np.arange(data.sizes["window"])
    for number, (basis, momentum) in enumerate(
        (basis, momentum) for basis in BASES for momentum in MOMENTA
    ):
        one = data.sel(basis=basis, momentum=momentum)
        accepted = one["p_value"].values > 1e-3
        for keep, fill in ((accepted, True), (~accepted, False)):
            ax.errorbar(
                x[keep] + 0.1 * (number - 1.5),
                one["alpha"].values[keep],
                one["alpha_stderr"].values[keep],
                fmt="os"[number // 2],
                markersize=5,
                markerfacecolor=COLORS[number] if fill else "none",
                color=COLORS[number],
                capsize=2,
                label=f"{basis} basis, {momentum} momentum" if fill else None,
            )
    ax.axhline(EXACT, color="black", linewidth=0.8)
    ax.text(x[-1] + 0.4, EXACT, " 7/8", va="bottom", ha="right")
    ax.set_xticks(x, data["window"].values)
    ax.set(
        xlabel="modes fitted (multiples of 2 pi / side)",
        ylabel=r"$\alpha$",
        ylim=(0.825, 0.925),
        title=f"critical Ising, L = {L}; open symbols: power law rejected (p < 0.001)",
    )
    ax.legend(frameon=False, fontsize=8, loc="lower left")
    return drawn


def main() -> None:
    """Measure, fit, save and say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ensemble", type=Path, default=Path("ising-L256.h5"))
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    generate(arguments.ensemble, IsingParameters.planned(L, seed=7), arguments.samples, workers=2)
    blocks = {}
    for basis in BASES:
        with open_source(arguments.ensemble) as stream:
            blocks[basis] = measure_blocks(stream, basis)
    data = fits(blocks)
    S = spectrum_from_blocks(blocks["periodic"], "periodic", momentum="lattice").per_mode()
    data["cosine_cost"] = ((), cosine_cost(S), {"units": "nat / field"})
    data.attrs = {
        "schema": "skild_physics.ising_spectrum",
        "package_version": __version__,
        "L": L,
        "n_samples": arguments.samples,
        "seed": 7,
        "stderr": "delete-one jackknife over 32 blocks of consecutive fields",
        "exact": EXACT,
    }
    with replacing(arguments.out / "ising_spectrum.nc") as temporary:
        data.to_netcdf(temporary, engine="h5netcdf")
    save_figure(figure(data), arguments.out / "ising_spectrum.png")
    print(data[["alpha", "alpha_stderr", "p_value"]].to_dataframe().round(4).to_string())
    chosen = data.sel(basis="periodic", momentum="lattice", window="{}-{}".format(*STATED))
    print(
        f"alpha = {float(chosen['alpha']):.4f} +- {float(chosen['alpha_stderr']):.4f} from modes "
        f"{STATED[0]} to {STATED[1]}, exact {EXACT}; a diagonal cosine process loses "
        f"{float(data['cosine_cost']):.0f} nats per field of {L} x {L}"
    )


if __name__ == "__main__":
    main()
