"""The exponent of the critical spectrum, and what a cosine basis costs on a torus.

    python paper_figures/ising_spectrum.py [--measure]

S0 = C (k^2 + k0^2)^(-alpha) is fitted by likelihood to a critical L = 256 ensemble, in windows of
momentum, in both bases and with both momenta.

The cost of a basis is the information that a process diagonal in it throws away. If the fields were
Gaussian, of the covariance that is diagonal in the periodic basis with the measured spectrum S, the
cosine modes would have variances (Q o Q) S (Q o Q)^T, Q = B_cos B_per^T, and treating them as
independent costs

    1/2 sum_modes [ln Var_cos - ln S]

nats per field: the Kullback-Leibler divergence between the diagonal Gaussian and the true one.
"""

import numpy as np
import xarray as xr
from ising import script, truth

import skild_physics as sk
from skild_physics.kspace import BASES, MOMENTA, basis_matrix
from skild_physics.plots import Figure, looks, new_figure
from skild_physics.plots.style import BLACK, PAGE, bars, zero_line
from skild_physics.spectrum import FitOptions, measure_blocks, spectrum_from_blocks
from skild_physics.tables import with_error

L, SEED = 256, 7
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


def measure(fields: int) -> xr.Dataset:
    x = truth(L, fields, SEED)
    blocks = {basis: measure_blocks(x, basis, progress=sk.bar) for basis in BASES}
    shape = (len(BASES), len(MOMENTA), len(WINDOWS))
    alpha, stderr, p = np.empty(shape), np.empty(shape), np.empty(shape)
    with sk.bar("fits", alpha.size) as show:
        for done, where in enumerate(np.ndindex(shape), 1):
            basis, momentum = BASES[where[0]], MOMENTA[where[1]]
            how = FitOptions("likelihood", *window(*WINDOWS[where[2]]), momentum)
            found = spectrum_from_blocks(blocks[basis], basis, how, normalization="isotropic")
            alpha[where], stderr[where] = found.fit.law.alpha, found.law_stderr[2]
            p[where] = found.goodness.p_value
            show(done)
    S = spectrum_from_blocks(
        blocks["periodic"], "periodic", FitOptions(momentum="lattice")
    ).per_mode()
    dims = ("basis", "momentum", "window")
    data = xr.Dataset(
        {
            "alpha": (dims, alpha),
            "alpha_stderr": (dims, stderr),
            "p_value": (dims, p, {"long_name": "goodness of fit, from blocks of fields"}),
            "cosine_cost": ((), cosine_cost(S), {"units": "nat / field"}),
        },
        coords={
            "basis": list(BASES),
            "momentum": list(MOMENTA),
            "window": [f"{low}-{high}" for low, high in WINDOWS],
            "mode_min": ("window", [w[0] for w in WINDOWS], {"units": "2 pi / box side"}),
            "mode_max": ("window", [w[1] for w in WINDOWS], {"units": "2 pi / box side"}),
        },
        attrs={
            "schema": "skild_physics.ising_spectrum",
            "package_version": sk.__version__,
            "L": L,
            "n_samples": fields,
            "seed": SEED,
            "stderr": "delete-one jackknife over 32 blocks of consecutive fields",
            "exact": EXACT,
        },
    )
    print(data[["alpha", "alpha_stderr", "p_value"]].to_dataframe().round(4).to_string())
    chosen = data.sel(basis="periodic", momentum="lattice", window="{}-{}".format(*STATED))
    print(
        f"alpha = {with_error(float(chosen['alpha']), float(chosen['alpha_stderr']))} from modes "
        f"{STATED[0]} to {STATED[1]}, exact {EXACT}; a diagonal cosine process loses "
        f"{float(data['cosine_cost']):.0f} nats per field of {L} x {L}"
    )
    return data


def draw(data: xr.Dataset) -> Figure:
    """Alpha against the window, one line of points for each basis and momentum."""
    x = np.arange(data.sizes["window"])
    ways = [(basis, momentum) for basis in BASES for momentum in MOMENTA]
    looked = looks([str(i) for i in range(len(ways))]).values()
    with new_figure(PAGE, 4) as drawn:
        # the last window of the continuum is far from the rest: two parts of one axis
        top, bottom = axes = drawn.subplots(2, 1, sharex=True, height_ratios=(5, 1))
        for number, ((basis, momentum), look) in enumerate(zip(ways, looked, strict=True)):
            one, at = data.sel(basis=basis, momentum=momentum), x + 0.16 * (number - 1.5)
            rejected = one["p_value"].values <= 1e-3
            alpha, stderr = one["alpha"].values, one["alpha_stderr"].values
            for ax in axes:
                bars(ax, at, alpha, stderr, **look)
                ax.plot(at[rejected], alpha[rejected], ls="none", mfc="white", zorder=3, **look)
            top.plot([], [], ls="none", label=f"{basis} basis, {momentum} momentum", **look)
        zero_line(top, EXACT)
        top.text(x[0] - 0.45, EXACT, "7/8", va="bottom")
        top.plot([], [], "o", color=BLACK, mfc="white", label="law rejected, p < 0.001")
        top.set(ylim=(0.822, 0.918), ylabel=r"$\alpha$")
        top.spines.bottom.set_visible(False)
        top.tick_params(bottom=False)
        bottom.set(ylim=(0.761, 0.78))
        bottom.set_xticks(x, data["window"].values)
        bottom.set_xlabel(f"modes fitted, of L = {L}  (multiples of $2\\pi$ / side)")
        drawn.legend(loc="outside lower center", ncols=2)
    return drawn


if __name__ == "__main__":
    script("ising_spectrum", measure, draw, 10_000)
