"""What is in a file: fields of anybody, a spectrum, correlators, a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import xarray as xr
from rich.table import Table

from skild_physics.fields import channels_of, open_fields
from skild_physics.fields.edges import compare_edges
from skild_physics.fields.hdf5_files import open_netcdf
from skild_physics.fields.lattice import schema_of
from skild_physics.fields.lazy import BATCH_VALUES, batches
from skild_physics.fields.sources import Opening
from skild_physics.files import InputError
from skild_physics.tables import Printed, with_error

FIRST = 256
"""Fields that are looked at."""
_SHOWN = (
    *("model", "beta", "boundary", "protocol", "relaxed", "input", "factor", "downsampling"),
    "seed",
)
_RESULTS = (
    "skild_physics.spectrum",
    "skild_physics.correlators",
    "skild_physics.draws",
    "skild_physics.image_quality",
)
_MAKERS = ("package_version", "checkpoint", "trained_steps")


@dataclass(frozen=True, repr=False)
class Info(Printed):
    """What there is to know about something, by name.

    >>> import numpy as np
    >>> import skild_physics as sk
    >>> sk.info(np.ones((3, 8, 8), np.int8)).values["fields"]
    '3 of 8 x 8, spin'
    """

    values: dict[str, str]

    def tables(self) -> Sequence[Table]:
        """Names and what is known."""
        table = Table(show_header=False)
        for name, value in self.values.items():
            table.add_row(name, value)
        return [table]

    def to_dict(self) -> dict[str, str]:
        """Plain values by name."""
        return dict(self.values)


def info(source: Any, **opening: Unpack[Opening]) -> Info:
    """What something holds: how many fields of which size, their range, basis, slope, and maker.

    Args:
        source: anything that :func:`skild_physics.fields.open_fields` takes; a model's checkpoint
            or the folder of its run; or a file of a spectrum, of correlators, of a comparison with
            exact draws or of image quality that was written here.
        opening: what fields cannot say themselves, see :func:`skild_physics.fields.open_fields`.

    Raises:
        InputError: it cannot be read.

    >>> import skild_physics as sk
    >>> print(sk.info(sk.generate_ising(L=8, samples=64)).values["basis"])
    periodic
    """
    if isinstance(source, str | Path):
        found = _of_result(Path(source))
        if found is not None:
            return found
    fields = open_fields(source, **opening)
    try:
        return _of_fields(fields)
    finally:
        if fields is not source:
            fields.close()


def _of_result(path: Path) -> Info | None:
    """What a file is that holds no fields but what was made of them; None: it is none of these."""
    is_model = path.suffix.lower() == ".safetensors" or (path / "model.safetensors").is_file()
    if is_model or (str(path).startswith("bundled") and not path.exists()):
        from skild_physics.models.checkpoint import load

        model = load(path)
        process = model.config.process
        return Info(
            {"model": repr(model), "process": process.kind, "basis": model.basis}
            | {name: str(value) for name, value in model.origin.items()}
        )
    schema = schema_of(path) if path.is_file() else None
    if schema not in _RESULTS:
        return None
    with open_netcdf(path) as data:
        attributes = {name: str(data.attrs[name]) for name in _MAKERS if name in data.attrs}
        if schema != "skild_physics.spectrum":
            if "source" not in data.coords:
                raise InputError(f"{path}: names no sources")
            sources = np.atleast_1d(data["source"].values)
            what = schema.partition(".")[2]
            return Info({"results": what, "of": ", ".join(map(str, sources))} | attributes)
    from skild_physics.spectrum.types import Spectrum

    return Info({"spectrum": str(Spectrum.load(path))} | attributes)


def _of_fields(fields: xr.DataArray) -> Info:
    channels, attrs = channels_of(fields), fields.attrs
    N, count = fields.shape[-1], len(fields)
    values = 16 * BATCH_VALUES // fields[0].size
    first = next(batches(fields, length=min(FIRST, max(8, values))))
    low, high = float(first.min()), float(first.max())
    are_spins = fields.dtype == np.int8 and (np.abs(first) == 1).all()
    kind = "spins -1 and +1" if are_spins else f"{low:.4g} .. {high:.4g}"
    of_first = "" if len(first) == count else f" (of the first {len(first)})"
    known = {
        "source": str(attrs.get("source", "array")),
        "fields": f"{count:,} of {N} x {N}, {', '.join(channels)}",
        "values": f"{kind}{of_first}; mean {first.mean():.4g}, deviation {first.std():.4g}",
        "basis": str(attrs.get("basis", "unknown")),
        "edges": str(compare_edges(first)),
        "slope": _slope(fields, len(first)),
    }
    known |= {name: _shown(attrs[name]) for name in (*_SHOWN, *_MAKERS) if name in attrs}
    if "chain" in fields.coords:
        known["chains"] = str(len(np.unique(fields["chain"].values)))
    return Info(known)


def _shown(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float | np.floating) else str(value)


def _slope(fields: xr.DataArray, count: int) -> str:
    from skild_physics.spectrum.measure import fit_spectrum

    try:
        fit = fit_spectrum(fields[:count])
    except InputError as error:
        return f"none: {error}"
    alpha = with_error(fit.fit.law.alpha, float(np.sqrt(fit.covariance[2, 2])))
    return f"S0(k) = C (k^2 + k0^2)^(-alpha), alpha = {alpha} from {count} fields, all k"
