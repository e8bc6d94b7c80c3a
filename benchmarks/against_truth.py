"""How far made Ising lattices are from the truth, in every observable, each with its error.

To what `eval_correlators` measures come, jackknifed on as many blocks of fields,

    S(k)        structure factor in shells half an octave of |k| wide, made / true
    |m|         shares of fields below the octiles of the truth's |m|
    clusters    numbers of clusters per site, by powers of two of their sizes

The p-values are those of Hotelling's T^2 of all shells, octiles or bins together; where there are
too few blocks for it, the deviation of most standard errors is what is left to say. Of fields that
agree with the truth exactly p is 1.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import skild_physics as sk
from skild_physics.observables.energy import magnetization_per_spin
from skild_physics.observables.jackknife import Estimate, Replicas, chi_square, replicas_of
from skild_physics.observables.twopoint import structure_factor
from skild_physics.tables import with_error

Array = NDArray[np.float64]
ENDING = "-measured.nc"
OCTILES = np.arange(1, 8) / 8
SMALLEST = 1e-9
"""Variance of a combination of differences, over the largest, that is more than rounding."""
NUMBERS = {
    "energy": "energy per spin",
    "specific_heat": "specific heat",
    "abs_magnetization": "\\|m\\| per spin",
    "susceptibility": "susceptibility",
    "binder": "Binder parameter",
    "eta": "eta of G(r)",
    "correlation_length": "correlation length",
    "clusters": "clusters per site",
    "largest_cluster": "largest cluster",
}


def shells(L: int) -> tuple[NDArray[np.int64], Array]:
    """The shell of every mode of a structure factor, and its weight in the mean over the shell.

    Shell 0 is k = 0, and shell i > 0 lies about |k| = 2^((i - 1) / 2) in units of 2 pi / L.
    """
    kx = np.arange(L // 2 + 1)
    k = np.hypot.outer(np.fft.fftfreq(L, 1 / L), kx)
    shell = np.where(k > 0, 1 + np.rint(2 * np.log2(np.maximum(k, 1))), 0).astype(np.int64)
    # modes of kx < 0 are those of kx > 0
    counted = np.broadcast_to(np.where((kx > 0) & (2 * kx < L), 2.0, 1.0), k.shape)
    return shell, counted / np.bincount(shell.ravel(), counted.ravel())[shell]


def shell_means(spins: NDArray[Any]) -> Array:
    """Mean of the structure factor over each shell, (sample, L, L) to (sample, shell)."""
    shell, weight = shells(spins.shape[-1])
    onto = np.zeros((shell.size, shell.max() + 1), np.float32)
    onto[np.arange(shell.size), shell.ravel()] = weight.ravel()
    means: Array = (structure_factor(spins).reshape(len(spins), -1) @ onto).astype(np.float64)
    return means


def replicas(values: Array, n_blocks: int) -> Replicas:
    """The mean of values (sample, p), jackknifed on so many blocks."""
    edges = np.linspace(0, len(values), n_blocks + 1).astype(int)
    sums = np.add.reduceat(values, edges[:-1], axis=0)
    return replicas_of({"mean": sums}, np.diff(edges), lambda mean: mean)["mean"]


def p_value(difference: Replicas) -> float:
    """Of differences (p,) as a whole against zero; nan: too few blocks.

    Combinations that are the same in every block, as shares that add up to one, are left out.
    """
    scale = difference.stderr
    varies = np.flatnonzero(scale > 0)
    if not len(varies):
        return float("nan") if difference.replicas.any() else 1.0
    z = Replicas(*(each[..., varies] / scale[varies] for each in difference))
    variances, directions = np.linalg.eigh(z.covariance)
    inside = variances > SMALLEST * variances.max()
    if inside.sum() >= len(z.replicas) - 1:
        return float("nan")
    value = z.value @ directions[:, inside]
    return chi_square(value, np.diag(variances[inside]), len(z.replicas)).p_value


def measured(truth: xr.DataArray, made: xr.DataArray) -> xr.Dataset:
    """All observables of spins and of as many true ones, and their differences.

    Returns:
        What `eval_correlators` gives of the sources truth and made, with the covariance of the
        residuals of kappa4, `shells`, `shells_ratio` and `m_shares`, p-values, and the overlap of
        made fields with their truth.
    """
    result = sk.eval_correlators(truth=truth, made=made, clusters=True)
    assert result.resampled is not None
    theirs, ours = (result.resampled[name].replicas for name in ("truth", "made"))
    n_blocks = len(ours["energy"].replicas)
    S_true, S_made = (replicas(shell_means(each.values), n_blocks) for each in (truth, made))
    ratio = Replicas(S_made.value / S_true.value - 1, S_made.replicas / S_true.replicas - 1)
    m_true, m_made = (np.abs(magnetization_per_spin(each.values)) for each in (truth, made))
    edges = np.quantile(m_true, OCTILES)
    below_true, below_made = (
        replicas((m[:, None] < edges).astype(np.float64), n_blocks) for m in (m_true, m_made)
    )
    overlap = replicas((truth.values * made.values).mean(axis=(1, 2))[:, None], n_blocks)
    wavenumber = np.append(0, 2 ** (np.arange(len(ratio.value) - 1) / 2))

    def both(dim: str, name: str, *pair: Replicas) -> dict[str, Any]:
        return {
            name: (("source", dim), np.stack([each.value for each in pair])),
            f"{name}_stderr": (("source", dim), np.stack([each.stderr for each in pair])),
        }

    clusters = p_value(ours["cluster_sizes"] - theirs["cluster_sizes"])
    covariance = (ours["kappa4"] - theirs["kappa4"]).covariance
    return result.dataset.assign_coords(
        shell=("shell", wavenumber, {"units": "2 pi / L"}), below=("below", edges)
    ).assign(
        **both("shell", "shells", S_true, S_made),
        **both("below", "m_shares", below_true, below_made),
        kappa4_residual_covariance=(("side", "side_too"), covariance),
        shells_ratio=("shell", ratio.value),
        shells_ratio_stderr=("shell", ratio.stderr),
        shells_p_value=p_value(ratio),
        m_shares_p_value=p_value(below_made - below_true),
        cluster_sizes_p_value=clusters,
        overlap=float(overlap.value[0]),
        overlap_stderr=float(overlap.stderr[0]),
    )


def line(name: str, found: xr.Dataset) -> str:
    """The differences of kappa4, energy and specific heat, p-values, and the overlap."""
    made = found.sel(source="made")

    def shown(observable: str) -> list[str]:
        pair = made[f"{observable}_residual"], made[f"{observable}_residual_stderr"]
        return [with_error(*each) for each in zip(*map(np.ravel, pair), strict=True)]

    parts = [*shown("kappa4"), f"p {float(made['kappa4_residual_p_value']):.2g}"]
    parts += [f"e {shown('energy')[0]}", f"C {shown('specific_heat')[0]}"]
    tests = {"S": "shells", "|m|": "m_shares", "clusters": "cluster_sizes"}
    parts += [f"p {title} {float(made[f'{test}_p_value']):.2g}" for title, test in tests.items()]
    parts.append(f"overlap {with_error(float(made['overlap']), float(made['overlap_stderr']))}")
    return f"{name:24s} " + " ".join(parts)


Trainings = Sequence[xr.Dataset]


def across(trainings: Trainings, value: str, stderr: str) -> tuple[Estimate, Array]:
    """Mean over trainings with the error of one, and the standard deviation between trainings.

    The error is not divided by the square root of their number: they share the true fields.
    """
    values, errors = (
        np.stack([each[name].values for each in trainings]) for name in (value, stderr)
    )
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)
    return Estimate(values.mean(axis=0), np.sqrt(np.square(errors).mean(axis=0))), spread


def cell(mean: float, error: float, spread: float) -> str:
    """As 0.0047(19), and of several trainings 0.0047(19) [0.0012]."""
    return with_error(mean, error) + (f" [{spread:.2g}]" if np.isfinite(spread) else "")


def furthest(trainings: Trainings, value: str, stderr: str, where: str, scale: float) -> str:
    """The difference of most standard errors, in units of 1 / scale, and where it is."""
    mean, spread = across(trainings, value, stderr)
    if mean.value.any() and not (mean.stderr > 0).any():
        return "nan"
    sigma = np.divide(*mean, out=np.zeros_like(mean.value), where=mean.stderr > 0)
    i = int(np.abs(sigma).argmax())
    at = float(trainings[0][where][i])
    parts = (scale * each[i] for each in (*mean, spread))
    return f"{cell(*parts)} at {at:.3g}, {sigma[i]:+.1f} sigma"


def rows_of(trainings: Trainings) -> dict[str, str]:
    """What the table says of a setting."""
    trainings = [each.sel(source="made") for each in trainings]
    first, rows = trainings[0], {}

    def difference(name: str) -> list[str]:
        mean, spread = across(trainings, f"{name}_residual", f"{name}_residual_stderr")
        return [cell(*each) for each in zip(*map(np.ravel, (*mean, spread)), strict=True)]

    def p(name: str) -> str:
        return " ".join(f"{float(each[f'{name}_p_value']):.2g}" for each in trainings)

    for side, shown in zip(first["side"].values, difference("kappa4"), strict=True):
        rows[f"kappa4({side})"] = shown
    rows["kappa4, p of all"] = p("kappa4_residual")
    rows |= {title: difference(name)[0] for name, title in NUMBERS.items()}
    rows["\\|m\\|, p of octiles"] = p("m_shares")
    rows["S(k), furthest, %"] = furthest(
        trainings, "shells_ratio", "shells_ratio_stderr", "shell", 100
    )
    rows["S(k), p of all"] = p("shells")
    sizes = ("cluster_sizes_residual", "cluster_sizes_residual_stderr")
    rows["clusters by size, furthest, 1e-4"] = furthest(trainings, *sizes, "size", 1e4)
    rows["clusters by size, p of all"] = p("cluster_sizes")
    mean, spread = across(trainings, "overlap", "overlap_stderr")
    rows["overlap"] = cell(*map(float, (*mean, spread)))
    rows["fields"] = " ".join(str(int(each["n_samples"])) for each in trainings)
    return rows


def read(folders: Sequence[Path]) -> dict[str, list[xr.Dataset]]:
    """What was measured in folders, by settings.

    Raises:
        InputError: nothing was in one of them.
    """
    found: dict[str, list[xr.Dataset]] = {}
    for folder in folders:
        paths = list(folder.glob(f"*{ENDING}"))
        if not paths:
            raise sk.InputError(f"{folder}: nothing was measured there")
        for path in paths:
            each = xr.load_dataset(path, engine="h5netcdf")
            found.setdefault(each.attrs["setting"], []).append(each)
    return found


def table(settings: Mapping[str, Trainings]) -> str:
    """In Markdown: a column for each setting, of one training or several.

    Raises:
        InputError: a setting was compared with different true fields, made in different ways, or
            by one training twice.
    """
    for setting, trainings in settings.items():
        about = [each.attrs for each in trainings]
        if len({each["truth_sha256"] for each in about}) > 1:
            raise sk.InputError(f"{setting}: was compared with different true fields")
        if len({(each.get("sampler"), each.get("n_evals")) for each in about}) > 1:
            raise sk.InputError(f"{setting}: was made with different samplers")
        weights = [each["checkpoint_sha256"] for each in about if "checkpoint_sha256" in each]
        if len(set(weights)) < len(weights):
            raise sk.InputError(f"{setting}: was made by the same training twice")
    columns = [rows_of(settings[setting]) for setting in sorted(settings)]
    # that of the largest lattices has every row
    titles = max(columns, key=len)
    rows = [["made - truth", *sorted(settings)], ["---"] * (1 + len(columns))]
    rows += [[title, *(column.get(title, "") for column in columns)] for title in titles]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
