"""What no field holds: nan, infinity, and the numbers that stand for missing values."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_physics.files import InputError

MISSING = np.array(
    [
        *(-99, -999, -9999, -99999, 999, 9999, 99999),
        *(-999.9, -9999.9, -1e10, 1e10),
        *(-32767, -32768, -2147483647, -2147483648, 32767, 65535, 2147483647),
        *(1e20, 1e30, 1e33, 1e34, 1e35, 1e36),
        *(-1e20, -1e30, -1e33, -1e34, -1e35, -1e36),
        # of NetCDF; the lowest numbers of single and double precision
        9.969209968386869e36,
        *(np.finfo(np.float32).min, np.finfo(np.float64).min),
        *(np.finfo(np.float32).max, np.finfo(np.float64).max),
    ],
    np.float64,
)
"""What files mark missing values with."""
SAME, LARGE = 1e-6, 1e6


def check_values(values: NDArray[Any], fields: xr.DataArray) -> None:
    """Refuse nan, infinity and codes of missing values, naming the file and the first such field.

    A value is taken for such a code if it is one of :data:`MISSING`, and as far from all others as
    these are from each other, or farther.

    Args:
        values: of these fields, of any shape (sample, ...) and type.
        fields: what they are, for their name and numbers.

    Raises:
        InputError: they hold such values.
    """
    for about in (fields.attrs, fields.encoding):
        for code in (about.get(name) for name in ("_FillValue", "missing_value")):
            if code is not None and (values == code).any():
                where = _first(values == code, fields)
                raise InputError(
                    f"{where} holds {float(code):.7g}, which marks missing values; leave it out, "
                    "or fill it in"
                )
    lowest, highest = values.min(), values.max()
    # nan in a field is the lowest and the highest of all
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        bad = ~np.isfinite(values)
        found = values[bad][0]
        what = "nan" if np.isnan(found) else "infinity"
        raise InputError(f"{_first(bad, fields)} holds {what}; leave it out, or fill it in")
    for code in (lowest, highest):
        if not np.abs(float(code) / MISSING - 1).min() < SAME:
            continue
        bad = values == code
        others = values[~bad].astype(np.float64)
        if 0 < float(code) < LARGE and bad.sum() == 1 and (others == np.rint(others)).all():
            # a count may be as large, once
            continue
        if not len(others) or np.abs(others - float(code)).min() >= np.ptp(others):
            raise InputError(
                f"{_first(bad, fields)} holds {float(code):.7g}, far from all other values, as "
                "missing ones are marked; leave it out, or fill it in"
            )


def check_spins(values: NDArray[np.int8], fields: xr.DataArray) -> None:
    """Refuse what is no spin, naming the file and the first such field.

    Args:
        values: of these fields, shape (sample, ...).
        fields: what they are, for their name and numbers.

    Raises:
        InputError: values other than -1 and +1.
    """
    bad = np.abs(values) != 1
    if bad.any():
        raise InputError(
            f"{_first(bad, fields)} holds {values[bad][0]}, no spin: they are -1 or +1"
        )


def _first(bad: NDArray[np.bool_], fields: xr.DataArray) -> str:
    where = int(bad.reshape(len(bad), -1).any(axis=1).argmax())
    number = fields["sample"].values[where] if "sample" in fields.coords else where
    return f"{fields.attrs.get('source', 'fields')}: field {number}"
