"""Dask clusters, which are optional."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import xarray as xr

from skild_physics.files import InputError


def check_in_file(fields: xr.DataArray) -> None:
    """Refuse fields that workers elsewhere cannot open.

    Raises:
        InputError: they were not opened from a file.
    """
    if fields.encoding.get("source") is None:
        raise InputError("only fields in files can be measured by a scheduler's workers")


@contextmanager
def dask_client(address: str) -> Iterator[Any]:
    """A client of the scheduler at an address, closed at the end.

    Raises:
        InputError: Dask is not installed.
        OSError: nobody answers.
    """
    try:
        from distributed import Client
    except ImportError:
        raise InputError(
            "a scheduler needs Dask: pip install 'skild_physics[distributed]'"
        ) from None
    with Client(address, timeout="10s") as client:  # type: ignore[no-untyped-call]
        yield client
