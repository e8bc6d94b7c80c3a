"""What a comparison with exact draws found: arrays with errors, tables, a file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from pydantic import BaseModel, Field, PositiveInt
from rich.table import Table

from skild_physics.disk import write_netcdf
from skild_physics.fields.hdf5_files import loaded, open_netcdf
from skild_physics.files import InputError
from skild_physics.observables.jackknife import CONSISTENT
from skild_physics.observables.sources import relaxed_notes
from skild_physics.requests import REQUEST
from skild_physics.schema import plain_attributes, validated
from skild_physics.tables import Printed, with_error

SCHEMA, SCHEMA_VERSION = "skild_physics.draws", 1
STATISTICS = ("energy", "boundary_energy", "staggered_moment")
"""Per spin; per bond between blocks; (sum (-1)^(x+y) s)^2 / b^2 of a block."""
_OF_SOURCE, _OF_STATISTIC, _OF_SUM = ("source",), ("source", "statistic"), ("source", "block_sum")
_ESTIMATES = {
    "overlap": _OF_SOURCE,
    "overlap_of_draws": _OF_SOURCE,
    "right_sums": _OF_SOURCE,
    "value": _OF_STATISTIC,
    "difference": _OF_STATISTIC,
    "inner": _OF_SUM,
    "inner_difference": _OF_SUM,
}
_OTHERS = {
    "draws": _OF_SOURCE,
    "share": ("block_sum",),
    **{
        f"{name}{end}": _OF_STATISTIC for name in ("rank", "truth_rank") for end in ("", "_p_value")
    },
}


@dataclass(frozen=True, repr=False, eq=False)
class Draws(Printed):
    """How sources of fields compare with exact draws of the same block sums.

    Attributes:
        dataset: of dimensions source (the truth, the exact draws, the others), statistic and
            block_sum, the absolute sum of the spins of a block. `overlap` is <s s'> with the truth,
            `overlap_of_draws` that of two draws, `right_sums` the share of blocks whose sum is the
            given one; `value` and `difference`, from the exact draws, of each statistic; `inner`
            and `inner_difference` the energy per bond within blocks of such a sum, and `share` that
            of such blocks; all with `_stderr`. `rank` is the mean rank of the first draw of each
            field among the exact ones, from 0 to 1, `truth_rank` that of the truth among the draws
            of the source, each with the `_p_value` of all ranks being equally probable.

    Example:
        >>> import skild_physics as sk
        >>> truth = sk.generate_ising(L=16, samples=40)
        >>> exact = sk.sample_exact(sk.coarse_grain(truth, factor=4), factor=4, draws=2)
        >>> result = sk.eval_draws(truth=truth, exact=exact)
        >>> result.dataset["inner"].dims
        ('source', 'block_sum')
    """

    dataset: xr.Dataset

    def tables(self) -> list[Table]:
        """Means, energies within blocks by their sums, and ranks."""
        return [self._means(), self._inner(), self._ranks()]

    def notes(self) -> list[str]:
        """How errors were made, and of what, and last what was found, in words."""
        about = self.dataset.attrs
        counts = ", ".join(
            f"{label}: {int(draws)}"
            for label, draws in zip(
                self.dataset["source"].values, self.dataset["draws"].values, strict=True
            )
        )
        of_errors = f"({about['stderr']}, {about['n_fields']:,} of them; draws of each: {counts})"
        return [*relaxed_notes(about), of_errors, *self.in_words()]

    def in_words(self) -> list[str]:
        """Whether the truth and the fields can be told from exact draws; a line for each.

        p is that of all ranks among these being equally probable, the smallest of the three
        statistics, times three (Bonferroni). Fields that break block averages are told by that.
        """
        truth, exact, *others = self.dataset["source"].values.tolist()
        ranks = {truth: (exact, "truth_rank")} | {label: (label, "rank") for label in others}
        return [self._told(label, exact, *ranked) for label, ranked in ranks.items()]

    def _told(self, label: str, exact: str, row: str, name: str) -> str:
        found = self.dataset[f"{name}_p_value"].sel(source=row).values
        p = float(np.minimum(1, len(found) * found.min()))
        ranked = f"p = {p:.2g}" if np.isfinite(p) else "too few fields"
        right = float(self.dataset["right_sums"].sel(source=label))
        if right < 1:
            share = f"{1 - right:.2g} of its blocks have other averages"
            return f"{label}: told from {exact}, for {share}; by ranks alone {ranked}"
        which = "told" if p < CONSISTENT else "not told"
        return f"{label}: {which} from {exact} by ranks, {ranked}"

    def save(self, path: str | Path, request: str | None = None) -> None:
        """Write a NetCDF-4 file, replacing a file at once.

        Args:
            path: the file.
            request: what it was made for, see :mod:`skild_physics.claims`.
        """
        asked = {} if request is None else {REQUEST: request}
        write_netcdf(path, {None: self.dataset.assign_attrs(asked)})

    @classmethod
    def load(cls, path: str | Path) -> "Draws":
        """Read a file written by :meth:`save`.

        Raises:
            InputError: the file is missing, no result of eval-draws, or of a newer version.
        """
        with open_netcdf(path) as data:
            if plain_attributes(data.attrs).get("schema") != SCHEMA:
                raise InputError(f"{path}: not a result of eval-draws")
            dataset = loaded(data, path)
        _check(dataset, path)
        return cls(dataset)

    def _means(self) -> Table:
        exact = self.dataset["source"].values[1]
        names = [f"{title} - {exact}" for title in ("energy", "between blocks", "staggered")]
        table = Table("source", "overlap", "of draws", "right sums", *names)
        for label in self.dataset["source"].values:
            here = self.dataset.sel(source=label)
            cells = [_cell(here, name) for name in ("overlap", "overlap_of_draws", "right_sums")]
            cells += [_cell(here.sel(statistic=each), "difference") for each in STATISTICS]
            table.add_row(label, *cells)
        return table

    def _inner(self) -> Table:
        truth, exact, *others = self.dataset["source"].values
        titles = [f"{label} - {exact}" for label in (truth, *others)]
        table = Table("blocks of |sum|", "share", f"{exact}, per bond", *titles)
        for number in self.dataset["block_sum"].values:
            here = self.dataset.sel(block_sum=number)
            if not here["share"]:
                continue
            cells = [f"{float(here['share']):.4f}", _cell(here.sel(source=exact), "inner")]
            cells += [_cell(here.sel(source=x), "inner_difference") for x in (truth, *others)]
            table.add_row(str(number), *cells)
        return table

    def _ranks(self) -> Table:
        truth, exact, *others = self.dataset["source"].values
        table = Table("mean rank (p of all ranks)", "energy", "between blocks", "staggered")
        for label in (exact, *others):
            table.add_row(f"{truth} among {label}", *self._of_ranks(label, "truth_rank"))
        for label in others:
            table.add_row(f"{label} among {exact}", *self._of_ranks(label, "rank"))
        return table

    def _of_ranks(self, label: str, name: str) -> list[str]:
        here = self.dataset.sel(source=label)
        return [
            f"{float(here[name].sel(statistic=each)):.3f} "
            f"({float(here[f'{name}_p_value'].sel(statistic=each)):.2g})"
            for each in STATISTICS
        ]


def _cell(here: xr.Dataset, name: str) -> str:
    value, stderr = float(here[name]), float(here[f"{name}_stderr"])
    return with_error(value, stderr) if np.isfinite(value) else ""


class _Attributes(BaseModel):
    """What the file of a result says of it."""

    schema_version: int
    L: PositiveInt
    factor: int = Field(ge=2)
    n_fields: PositiveInt
    stderr: str


def _check(data: xr.Dataset, path: str | Path) -> None:
    """Refuse what is no result, or is not complete.

    Raises:
        InputError: naming what is missing or wrong.
    """
    about = validated(_Attributes, plain_attributes(data.attrs), path)
    if about.schema_version > SCHEMA_VERSION:
        raise InputError(f"{path}: written by a newer version of skild_physics")
    for name in ("source", "statistic", "block_sum"):
        if (
            name not in data.coords
            or data[name].dims != (name,)
            or not data.indexes[name].is_unique
        ):
            raise InputError(f"{path}: does not say each `{name}` once")
    if len(data["source"]) < 2 or not all(isinstance(x, str) for x in data["source"].values):
        raise InputError(f"{path}: does not name the truth and exact draws")
    if (
        list(data["statistic"].values) != list(STATISTICS)
        or data["block_sum"].dtype.kind not in "iu"
    ):
        raise InputError(f"{path}: holds other statistics than this version of skild_physics")
    of_errors = {f"{name}_stderr": dims for name, dims in _ESTIMATES.items()}
    for name, dims in (_ESTIMATES | of_errors | _OTHERS).items():
        if name not in data or data[name].dims != dims or data[name].dtype.kind not in "iuf":
            raise InputError(f"{path}: has no numbers `{name}` of every {' and '.join(dims)}")
    if data["draws"].dtype.kind not in "iu":
        raise InputError(f"{path}: its `draws` are no whole numbers")
