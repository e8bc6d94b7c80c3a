"""Error against evaluations of the network for all samplers, with denoisers that are exact.

    python benchmarks/samplers.py [--measure] [--samples 60000] [--out benchmarks]

Weak error: every mode of an 8 x 8 field is +-0.95 sqrt(S0) blurred to variance S0, so that the
exact denoiser, variance and fourth cumulant are known. Samples start from pure noise; the error is
the root mean square, over shells of k, of the deviation of the variance and of the fourth cumulant
from theirs, in units of S0 and S0^2. Its floor is the scatter of that many exact samples.

Strong error: translated stripes, a mixture in which all modes depend on each other; the root mean
square distance of deterministic results from those of 2,000 evaluations from the same start, and
the orders observed.

Also: the arithmetic that showing the network active modes only saves, computed from the schedules.

Prints samplers.nc and draws samplers.png of it; with --measure it makes this file again first.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from arithmetic import arithmetic_saved

import skild_physics as sk
from skild_physics.claims import replacing
from skild_physics.diffusion.integrators import ancestral, multistep, step_grid, steps_between
from skild_physics.diffusion.oracle import GaussianMixture, TwoPoint
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.schedule import LinearSchedule, linear_to_resolution
from skild_physics.kspace import forward, wavenumbers
from skild_physics.plots import Figure, looks, new_figure, save_figure
from skild_physics.plots.style import BLACK, PAGE, lettered
from skild_physics.spectrum.radial import radial_mean

N = 8
FEW = [4, 6, 8, 10, 14, 20, 30, 50, 100]
MANY = [200, 500, 1000]
LAST_SNR = 30.0


class Noise:
    """Draws from one generator: samples need no streams of their own here."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def like(self, x: torch.Tensor) -> torch.Tensor:
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


def process_for(S0: torch.Tensor) -> Process:
    """For unconditional samples: the published kind of schedule that ends below one pixel."""
    return Process(S0, linear_to_resolution(N, 0.4, 5, 1e-4), "periodic", k_c=3.0)


def along(p: Process, n_evals: int, spacing: str = "log-resolution") -> torch.Tensor:
    return step_grid(p, p.T, n_evals, spacing, LAST_SNR)  # type: ignore[arg-type]


def flow(order: int, tau: float = 0.0, corrector: bool = True) -> Callable:
    return lambda p, d, x, n_evals, noise: multistep(
        p, d, x, along(p, n_evals), order, tau, noise, corrector
    )


SAMPLERS: dict[str, Callable] = {
    "ancestral, even in n (paper)": lambda p, d, x, n_evals, noise: ancestral(
        p, d, x, along(p, n_evals, "time"), noise
    ),
    "ancestral": lambda p, d, x, n_evals, noise: ancestral(p, d, x, along(p, n_evals), noise),
    "flow, order 1": flow(1),
    "flow, order 2, predicted": flow(2, corrector=False),
    "flow, order 2": flow(2),
    "flow, order 3": flow(3),
    "stochastic, order 2": flow(2, 1.0),
    "stochastic, order 3, predicted": flow(3, 1.0, corrector=False),
}


def cumulant_errors(x: torch.Tensor, S0: torch.Tensor) -> float:
    z = x[:, 0] / S0.sqrt().to(x)
    variance = z.square().mean(0).double()
    kappa4 = z.pow(4).mean(0).double() - 3 * variance**2
    away = torch.stack([variance - 1, kappa4 + 2 * 0.95**4]).numpy()
    return float(np.sqrt(np.mean(radial_mean(away, "periodic") ** 2)))


def weak(samples: int) -> xr.Dataset:
    S0 = torch.tensor((wavenumbers(N, "periodic") ** 2 + 3) ** -0.875)
    process = process_for(S0)
    data = TwoPoint(0.95 * S0.sqrt(), (1 - 0.95**2) * S0)
    denoise = data.denoiser(process)
    n_evals = FEW + MANY
    error = np.full((len(SAMPLERS), len(n_evals)), np.nan)
    for i, (name, sample) in enumerate(SAMPLERS.items()):
        with sk.bar(name, len(n_evals)) as show:
            for j, count in enumerate(n_evals):
                # beyond a hundred only the slow samplers have anything left to gain
                if count in FEW or name.startswith("ancestral"):
                    noise = Noise(j)
                    x = S0.sqrt().float() * noise.like(torch.empty(samples, 1, N, N))
                    error[i, j] = cumulant_errors(sample(process, denoise, x, count, noise), S0)
                show(j + 1)
    generator = torch.Generator().manual_seed(1)
    floor = cumulant_errors(data.sample(samples, generator).float(), S0)
    return xr.Dataset(
        {
            "weak_error": (("sampler", "calls"), error),
            "weak_error_floor": ((), floor),
        },
        coords={"sampler": list(SAMPLERS), "calls": n_evals},
    )


def stripes() -> tuple[Process, GaussianMixture]:
    """All translations of a half-up, half-down stripe along both axes, slightly blurred."""
    stripe = np.sign(np.arange(N) - N / 2 + 0.5)
    rows = [np.tile(np.roll(stripe, shift), (N, 1)) for shift in range(N)]
    means = forward(torch.tensor(np.array(rows + [row.T for row in rows])), "periodic")
    weights = torch.full((len(means),), 1 / len(means), dtype=torch.float64)
    mixture = GaussianMixture(weights, means, torch.full((N, N), 0.15**2, dtype=torch.float64))
    return process_for(mixture.variance()), mixture


def strong(samples: int = 256) -> xr.Dataset:
    process, mixture = stripes()
    denoise = mixture.denoiser(process)
    noise = Noise(5)
    x = process.S0.sqrt() * noise.like(torch.empty(samples, 1, N, N, dtype=torch.float64))
    n_last = process.step_at(np.log1p(1 / 100.0) / process.k_max**2)

    def run(order: int, n_evals: int, corrector: bool) -> torch.Tensor:
        # to a common last step: the jump from there to 0 is not part of the integrator's order
        steps = steps_between(process, process.T, n_last, n_evals, "log-resolution")
        return multistep(process, denoise, x, steps, order, corrector=corrector)

    exact = run(3, 2000, True)
    n_evals = [10, 20, 40, 80, 160, 320]

    def away(order: int, count: int, corrector: bool) -> float:
        square = (run(order, count, corrector) - exact).square().mean((1, 2, 3))
        # the median sample: a few start so near a watershed that they end in another stripe
        return float(square.sqrt().median())

    error = [[[away(p, c, corrector) for c in n_evals] for corrector in (0, 1)] for p in (1, 2, 3)]
    return xr.Dataset(
        {"strong_error": (("order", "corrected", "strong_calls"), np.array(error))},
        coords={"order": [1, 2, 3], "corrected": [False, True], "strong_calls": n_evals},
    )


def arithmetic() -> xr.Dataset:
    """Full over adaptive evaluations, for 20 of them, by task, spacing and threshold."""
    S0 = torch.tensor((wavenumbers(128, "cosine") ** 2 + 3) ** -0.875)
    tasks = {
        "32 -> 128": Process(S0, linear_to_resolution(128, 32, 9, 0.1), "cosine"),
        "16 -> 128": Process(S0, linear_to_resolution(128, 16, 5, 0.1), "cosine"),
        "generation, 128": Process(S0, linear_to_resolution(128, 0.4, 9, 0.1), "cosine", 3.0),
        "generation, CIFAR-10": Process(
            S0[:32, :32], LinearSchedule(137.7294, 1.57, 5), "cosine", 3.0
        ),
    }
    spacings, thresholds = ["time", "log-resolution"], [0.01, 0.1]
    saved = [
        [
            [arithmetic_saved(p, step_grid(p, p.T, 20, spacing), least) for least in thresholds]
            for spacing in spacings
        ]
        for p in tasks.values()
    ]
    return xr.Dataset(
        {"arithmetic_saved": (("task", "spacing", "threshold"), np.array(saved))},
        coords={"task": list(tasks), "spacing": spacings, "threshold": thresholds},
    )


def figure(data: xr.Dataset) -> Figure:
    looked = looks(data["sampler"].values.tolist())
    with new_figure(PAGE, 3.6) as drawn:
        left, right = drawn.subplots(1, 2)
        for name, look in looked.items():
            row = data["weak_error"].sel(sampler=name).dropna("calls")
            left.plot(row["calls"], row, label=name, **look)
        floor = float(data["weak_error_floor"])
        left.axhline(floor, color=BLACK, linestyle=":", linewidth=0.8, label="noise floor")
        left.set_title("variance and fourth cumulant, two-point data")
        for order in data["order"].values:
            for corrected, style in ((True, "-"), (False, ":")):
                row = data["strong_error"].sel(order=order, corrected=corrected)
                filled = {} if corrected else {"markerfacecolor": "none"}
                look = looked[f"flow, order {order}"] | filled
                right.plot(row["strong_calls"], row, linestyle=style, **look)
        right.set_title("distance from the exact flow, stripes (median; open: predicted)")
        for ax in (left, right):
            ax.set(xscale="log", yscale="log", xlabel="evaluations of the network", ylabel="error")
        lettered((left, right), 42)
        drawn.legend(loc="outside lower center", ncols=3)
    return drawn


def show(data: xr.Dataset) -> None:
    print(data["weak_error"].round(4).to_pandas().to_string())
    print(f"noise floor {float(data['weak_error_floor']):.4f}")
    print(data["strong_error"].to_series().unstack().to_string())
    orders = -np.diff(np.log2(data["strong_error"].values), axis=-1)[..., -1]
    print("observed orders:", np.round(orders, 2).tolist())
    print(data["arithmetic_saved"].round(2).to_series().to_string())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--measure", action="store_true", help="make the file again first")
    given = parser.parse_args()
    path = given.out / "samplers.nc"
    if given.measure:
        made = xr.merge([weak(given.samples), strong(), arithmetic()])
        made.attrs = {"package_version": sk.__version__, "samples": given.samples, "N": N}
        with replacing(path) as temporary:
            made.to_netcdf(temporary, engine="h5netcdf")
    with xr.open_dataset(path, engine="h5netcdf") as data:
        save_figure(figure(data), path.with_suffix(".png"))
        show(data)


if __name__ == "__main__":
    main()
