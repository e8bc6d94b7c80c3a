"""Anybody's fields, once made a file of this package."""

from pathlib import Path
from typing import Any, Unpack

import xarray as xr

from skild_physics.fields.lazy import basis_of
from skild_physics.fields.sources import Opening, open_fields
from skild_physics.fields.writing import check_fields_output, save
from skild_physics.files import check_apart


def import_fields(
    source: Any,
    *,
    out: str | Path,
    samples: int | None = None,
    model: str | None = None,
    overwrite: bool = False,
    **opening: Unpack[Opening],
) -> xr.DataArray:
    """Make a file of fields of this package, which says all that is known about them, of others'.

    Args:
        source: anything that :func:`skild_physics.fields.open_fields` takes.
        out: HDF5 file; .npz; or, without a suffix, a folder of PNG pictures. The last two hold 8
            bits.
        samples: the first so many fields; None: all.
        model: "ising": that of nearest neighbours with J = 1, whose exact values are then known.
        overwrite: replace an existing file.
        opening: what the source cannot say, see :func:`skild_physics.fields.open_fields`.

    Returns:
        The fields as they are in the file.

    Raises:
        InputError: what open_fields raises, or an output that may not be written.

    >>> import numpy as np, tempfile
    >>> import skild_physics as sk
    >>> spins = np.random.default_rng(0).integers(0, 2, (5, 8, 8))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = sk.import_fields(spins, out=f"{folder}/a.h5", beta=0.3, model="ising")
    >>> made.dtype, float(made.beta), made.basis
    (dtype('int8'), 0.3, 'periodic')
    """
    check_fields_output(out)
    check_apart({"out": out}, source)
    fields = open_fields(source, samples=samples, **opening)
    said = {"input": str(fields.attrs.get("source", "array"))}
    if model is not None:
        said["model"] = model
    if fields.dtype == "int8" and "boundary" not in fields.attrs:
        said["boundary"] = "periodic" if basis_of(fields) == "periodic" else "open"
    try:
        return save(fields.assign_attrs(said), out, overwrite=overwrite)
    finally:
        if fields is not source:
            fields.close()
