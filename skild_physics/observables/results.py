"""What an evaluation of correlators found: arrays with errors, tables, a figure, a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import BaseModel, NonNegativeInt, PositiveInt
from rich.table import Table

from skild_physics.disk import write_netcdf
from skild_physics.fields.hdf5_files import loaded, open_netcdf
from skild_physics.files import InputError
from skild_physics.heaps import open_hdf5
from skild_physics.observables.arrays import SCHEMA, SCHEMA_VERSION
from skild_physics.observables.compare import Comparison, compare_with_exact
from skild_physics.observables.formulas import OBSERVABLES
from skild_physics.observables.jackknife import (
    CONSISTENT,
    MIN_BLOCKS,
    Array,
    Replicas,
)
from skild_physics.observables.sources import relaxed_notes, shown_labels
from skild_physics.schema import plain_attributes, validated
from skild_physics.tables import Printed, with_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROUND = "block_spins_"
WIDEST = 13
"""Characters of a line of a column's title, so that a table takes 80."""
ENDS = ("", "_stderr", "_residual", "_residual_stderr")

SHOWN = (
    ("energy", "energy per spin"),
    ("abs_magnetization", "|m| per spin"),
    ("susceptibility", "susceptibility"),
    ("specific_heat", "specific heat"),
    ("binder", "Binder parameter"),
    ("correlation_length", "correlation length"),
    ("eta", "eta of G(r)"),
    ("near_zero", "sites near zero"),
    ("clusters", "clusters per site"),
    ("largest_cluster", "largest cluster"),
)


@dataclass(frozen=True)
class Resampled:
    """Jackknife replicas of a source.

    Attributes:
        ensemble: label of the source whose fields these are paired with; its own if with none.
        replicas: of every observable, on blocks that sources of an ensemble have in common.
    """

    ensemble: str
    replicas: Mapping[str, Replicas]


@dataclass(frozen=True, repr=False, eq=False)
class Correlators(Printed):
    """Observables of several sources of fields, and their residuals from the first, the truth.

    Attributes:
        datasets: one per round of block spins, the fields themselves first, of dimensions source,
            side, side_too, distance, direction, mode, m, size. Every observable comes with
            `_stderr`, `_residual` and `_residual_stderr`; the covariance of kappa4 between sides,
            and chi-square and p-value of its residuals as a whole, are kept, and for every source
            beta in 1/J, tau_int, n_samples, n_blocks and n_pairs, the fields that are compared with
            the truth's one by one.
        pictures: label to the first field (y, x), for :meth:`plot`; none of a file.
        resampled: label to jackknife replicas, for :meth:`to_pyerrors`; None of a file.

    Example:
        >>> import numpy as np
        >>> import skild_physics as sk
        >>> spins = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (64, 8, 8))
        >>> result = sk.eval_correlators(truth=spins[:40], other=spins[40:])
        >>> result.dataset["kappa4"].dims
        ('source', 'side')
    """

    datasets: Sequence[xr.Dataset]
    pictures: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    resampled: Mapping[str, Resampled] | None = None

    @property
    def dataset(self) -> xr.Dataset:
        """Of the fields themselves, before any round of block spins."""
        return self.datasets[0]

    def residual(self, name: str) -> xr.DataArray:
        """Source - truth of an observable, with its standard error as the coordinate `stderr`.

        Args:
            name: of the observable, as "kappa4" or "energy".

        Returns:
            Dimensions (source, ...), without the truth, in the units of the observable.

        Raises:
            InputError: another name.
        """
        self._check_name(name)
        others = self.dataset.isel(source=slice(1, None))
        stderr = others[f"{name}_residual_stderr"].variable
        return others[f"{name}_residual"].assign_coords(stderr=stderr)

    def tables(self) -> list[Table]:
        """Values of every source, residuals with their significance, and exact values.

        Continuous fields that were taken by their signs, too, are shown by these alone.
        """
        shown = []
        for each in self.datasets:
            truth, *others = shown_labels(each)
            pairs: list[str | None] = [*others] or [None]
            shown += [_table(each, truth, label) for label in pairs]
        if self.dataset.attrs.get("model"):
            for labels in self._of_one_temperature().values():
                # two to a table, which a terminal of 80 columns holds
                for start in range(0, len(labels), 2):
                    shown.append(_exact_table(self.dataset, labels[start : start + 2]))
        return [table for table in shown if table.row_count]

    def _of_one_temperature(self) -> dict[float, list[str]]:
        """Labels by beta, those that are shown."""
        first, found = self.dataset, dict[float, list[str]]()
        for label in shown_labels(first):
            here = first.sel(source=label)
            # files of earlier versions have that of the truth alone
            beta = float(here["beta"] if "beta" in here else first.attrs["beta"])
            found.setdefault(beta, []).append(label)
        return found

    def notes(self) -> list[str]:
        """How errors were made, and of what, and last what was found, in words."""
        first, said = self.dataset, relaxed_notes(self.dataset.attrs)
        if first.attrs.get("model"):
            said.append("(in brackets: of the infinite lattice, which this one differs from)")
        if len(shown_labels(first)) < len(first["source"]):
            said.append("(continuous fields are shown by their signs; the file has both)")
        if "beta" in first and not np.isfinite(first["beta"]).all():
            bare = first["source"].values[~np.isfinite(first["beta"].values)]
            said.append(
                "(no inverse temperature beta is known of "
                f"{', '.join(map(str, bare))}: no susceptibility, no specific heat)"
            )
        said.append(f"({first.attrs['stderr']})")
        for label in shown_labels(first):
            here = first.sel(source=label)
            said.append(
                f"({label}: {int(here['n_samples']):,} fields in {int(here['n_blocks'])} blocks, "
                f"tau_int {float(here['tau_int']):.2f})"
            )
        return [*said, *self.in_words()]

    def in_words(self) -> list[str]:
        """Whether kappa4 of each source is consistent with that of the truth; a line for each.

        It is where the test of all sides together gives a probability of 5 % or more.
        """
        truth, *others = shown_labels(self.dataset)
        said = []
        for label in others:
            here = self.dataset.sel(source=label)
            p = float(here["kappa4_residual_p_value"])
            if not np.isfinite(p):
                said.append(f"{label}: too few fields to say whether kappa4 is that of {truth}")
                continue
            sigmas = np.abs(here["kappa4_residual"] / here["kappa4_residual_stderr"])
            which = "is consistent with" if p >= CONSISTENT else "differs from"
            said.append(
                f"{label}: kappa4 {which} that of {truth}: {int((sigmas <= 2).sum())} of "
                f"{sigmas.size} sides within 2 sigma, all together p = {p:.2g}"
            )
        return said

    @overload
    def plot(self, ax: None = None) -> "Figure": ...

    @overload
    def plot(self, ax: "Axes") -> "Axes": ...

    def plot(self, ax: "Axes | None" = None) -> "Figure | Axes":
        """Four-point correlators and residuals below a field of each source; the figure.

        Args:
            ax: draw the residuals of kappa4 here, and nothing else; it is returned then.
        """
        # imported here, as in all results: measuring does not need matplotlib
        from skild_physics.plots import correlator_figure, draw_correlators

        if ax is None:
            return correlator_figure(self.dataset, self.pictures)
        return draw_correlators(ax, self.dataset, "kappa4_residual")

    def save(self, path: str | Path, request: str | None = None) -> None:
        """Write a NetCDF-4 file, rounds of block spins as groups, replacing a file at once.

        Args:
            path: the file.
            request: what it was made for, see :mod:`skild_physics.claims`.
        """
        groups = {f"{ROUND}{k}" if k else None: each for k, each in enumerate(self.datasets)}
        write_netcdf(path, groups, request)

    @classmethod
    def load(cls, path: str | Path) -> "Correlators":
        """Read a file written by :meth:`save`.

        Raises:
            InputError: the file is missing, no result of eval-correlators, or of a newer version.
        """
        datasets: list[xr.Dataset] = []
        group: str | None = None
        while group is None or group in _groups(path):
            with open_netcdf(path, group=group) as data:
                datasets.append(loaded(data, path))
            if group is None and data.attrs.get("schema") != SCHEMA:
                raise InputError(f"{path}: not a result of eval-correlators")
            _check(datasets[-1], path)
            group = f"{ROUND}{len(datasets)}"
        return cls(datasets)

    def to_pyerrors(self, name: str = "kappa4") -> dict[str, Any]:
        """An observable of every source as pyerrors.Obs, for analyses that propagate errors.

        Sources that are paired with the truth share its ensemble, so what they have in common
        cancels in differences.

        Args:
            name: "kappa4", "kappa4_cumulant", or an observable that is a single number.

        Returns:
            Label to an Obs, or, of the correlators, to an array of one per side.

        Raises:
            InputError: another name, fewer than eight blocks, a result that was loaded from a file,
                which keeps no replicas, or pyerrors is not installed.
        """
        self._check_name(name)
        if OBSERVABLES[name].dims not in ((), ("side",)):
            raise InputError(f"{name} is neither a number nor a function of the side")
        if self.resampled is None:
            raise InputError("files keep no jackknife replicas: evaluate the fields again")
        try:
            import pyerrors
        except ImportError:
            raise InputError("this needs pyerrors: pip install pyerrors") from None

        def observable(value: float, replicas: Array, ensemble: str) -> Any:
            found = pyerrors.import_jackknife(np.concatenate([[value], replicas]), ensemble)
            # blocks are long enough to be independent
            found.gamma_method(S=0)
            return found

        made = {}
        for label, each in self.resampled.items():
            if name not in each.replicas:
                continue
            value, replicas = each.replicas[name]
            if len(replicas) < MIN_BLOCKS:
                raise InputError(f"{label}: no errors from fewer than {MIN_BLOCKS} blocks")
            # pyerrors takes what follows a | for the name of a chain
            ensemble = str(each.ensemble).replace("|", "/")
            columns = replicas.reshape(len(replicas), -1).T
            found = [observable(*pair, ensemble) for pair in zip(value.flat, columns, strict=True)]
            made[label] = np.array(found, object) if value.ndim else found[0]
        return made

    def _check_name(self, name: str) -> None:
        if name not in OBSERVABLES or name not in self.dataset:
            known = ", ".join(each for each in OBSERVABLES if each in self.dataset)
            raise InputError(f"no observable {name!r}; there are {known}")


class _Attributes(BaseModel):
    """What the file of a result says of it."""

    schema_version: int
    stderr: str
    block_spin_rounds: NonNegativeInt
    model: str | None = None
    L: PositiveInt | None = None
    boundary: str | None = None
    beta: float | None = None


def _groups(path: str | Path) -> list[str]:
    with open_hdf5(path) as file:
        return list(file)


def _check(data: xr.Dataset, path: str | Path) -> None:
    """Refuse what is no result, or is not complete.

    Raises:
        InputError: naming what is missing or wrong.
    """
    about = validated(_Attributes, plain_attributes(data.attrs), path)
    if about.schema_version > SCHEMA_VERSION:
        raise InputError(f"{path}: written by a newer version of skild_physics")
    labels = data["source"] if "source" in data.coords else None
    if labels is None or labels.dims != ("source",) or not len(labels):
        raise InputError(f"{path}: names no sources")
    if about.model is not None and (about.L is None or about.boundary is None):
        raise InputError(f"{path}: does not say which lattice its fields are of")
    of_source = ("n_samples", "n_blocks", "tau_int")
    tests = [f"kappa4_residual_{end}" for end in ("chi_square", "p_value", "degrees_of_freedom")]
    whole = (*of_source, *tests, "kappa4", "two_point")
    for name in (*of_source, *tests, *OBSERVABLES):
        names = [name] if name in (*of_source, *tests) else [f"{name}{end}" for end in ENDS]
        if name not in whole and not any(each in data for each in names):
            continue
        for each in names:
            if each not in data or data[each].dims[:1] != ("source",):
                raise InputError(f"{path}: has no `{each}` of every source")
            if data[each].dtype.kind not in "iuf" or data[each].shape != data[names[0]].shape:
                raise InputError(f"{path}: its `{each}` is not of numbers like `{names[0]}`")
        if name in of_source and not np.isfinite(data[name]).all():
            raise InputError(f"{path}: its `{name}` holds nan or infinity")


def _table(results: xr.Dataset, truth: str, label: str | None) -> Table:
    """The truth alone, or a source beside it."""
    k = results.attrs["block_spin_rounds"]
    table = Table()
    table.add_column(f"block spins, round {k}" if k else "observable", no_wrap=True)
    # of a long label the lines, of a number none
    table.add_column(fill(truth, WIDEST), no_wrap=True)
    if label is not None:
        table.add_column(fill(label, WIDEST), no_wrap=True)
        table.add_column("difference", no_wrap=True, min_width=WIDEST)
        table.add_column("sigma", no_wrap=True, justify="right")
    rows = [(f"kappa4(r = {r})", "kappa4", {"side": r}) for r in results["side"].values]
    rows += [(title, name, {}) for name, title in SHOWN if name in results]
    table.add_row(*_counts(results, truth, label))
    for title, name, where in rows:
        at = results.sel(where)
        cells = [_cell(at.sel(source=truth), name)]
        if label is not None:
            here = at.sel(source=label)
            residual = float(here[f"{name}_residual"])
            stderr = float(here[f"{name}_residual_stderr"])
            cells += [_cell(here, name), _cell(here, f"{name}_residual")]
            cells.append(f"{residual / stderr:+.1f}" if stderr > 0 else "")
        if any(cells):
            table.add_row(title, *cells)
    if label is not None:
        here = results.sel(source=label)
        chi2, p = (float(here[f"kappa4_residual_{n}"]) for n in ("chi_square", "p_value"))
        number = int(here["kappa4_residual_degrees_of_freedom"])
        if np.isfinite(chi2):
            table.add_row("kappa4, all r: T2", "", "", f"{chi2:.1f} / {number}", f"p {p:.2g}")
    return table


def _counts(results: xr.Dataset, truth: str, label: str | None) -> list[str]:
    """How many fields the values are of, and how many pairs of them the difference."""
    here = [results.sel(source=each) for each in (truth, label) if each is not None]
    cells = [f"{int(each['n_samples']):,}" for each in here]
    if label is not None and "n_pairs" in results:
        pairs = int(here[1]["n_pairs"])
        cells.append(f"{pairs:,} pairs" if pairs else "independent")
    return ["fields", *cells]


def _cell(here: xr.Dataset, name: str) -> str:
    value, stderr = float(here[name]), float(here[f"{name}_stderr"])
    return with_error(value, stderr) if np.isfinite(value) else ""


def _exact_table(results: xr.Dataset, labels: list[str]) -> Table:
    table = Table("against exact", "exact")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    rows: dict[str, dict[str, Comparison]] = {}
    for label in labels:
        table.add_column(fill(label, WIDEST), no_wrap=True)
        table.add_column("sigma", no_wrap=True, justify="right")
        for each in compare_with_exact(results, label):
            rows.setdefault(each.observable, {})[label] = each
    for observable, row in rows.items():
        one = next(iter(row.values()))
        exact = f"({one.exact:.6f})" if one.of_infinite_lattice else f"{one.exact:.6f}"
        cells = []
        for label in labels:
            value, z = "", ""
            if label in row:
                value = with_error(row[label].value, row[label].stderr)
                z = f"{row[label].z:+.1f}" if np.isfinite(row[label].z) else ""
            cells += [value, z]
        table.add_row(observable, exact, *cells)
    return table
