"""Fields of spins of which each is made by itself, in memory or shard by shard into a file."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, SupportsFloat

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_physics.data_gen.parameters import number
from skild_physics.fields.lazy import slices
from skild_physics.fields.writing import (
    in_memory,
    output_kind,
    reopened,
    requested,
    write_fields,
)
from skild_physics.files import InputError
from skild_physics.observables.exact import BETA_CRITICAL
from skild_physics.progress import Progress, logger
from skild_physics.requests import REQUEST, is_made, matches
from skild_physics.shards import Arrays, in_shards, read_shards

SHARD_SITES = 2**20
Make = Callable[[int], NDArray[np.int8]]
"""Number of a field -> its spins (L, L)."""


def shard_fields(side: int) -> int:
    """How many fields of this side are made, and kept, at a time."""
    return max(1, SHARD_SITES // side**2)


def made_one_by_one(
    prepare: Callable[[int, int], Make],
    given: xr.DataArray,
    side: int,
    attributes: dict[str, Any],
    title: str,
    *,
    threads: int,
    out: str | Path | None,
    overwrite: bool,
    progress: Progress,
) -> xr.DataArray:
    """As many fields as given, each of which depends on its number and its input alone.

    Args:
        prepare: of the first number and the one after the last: what makes these fields, on any
            thread.
        given: one for each, which they are named and numbered after.
        side: L.
        attributes: all that they depend on, and how they were made.
        title: what is done, for the progress.
        threads: that share the work.
        out: file or folder to write, see :func:`skild_physics.fields.writing.save`; None: in
            memory.
        overwrite: replace an existing result.
        progress: shows how many fields are done.

    Returns:
        int8 (sample, y, x).

    Raises:
        InputError: as writing.
    """
    count, length = len(given), shard_fields(side)
    if out is not None:
        out = Path(out)
        attributes[REQUEST] = requested(out, attributes, given)
        if is_made(out, attributes[REQUEST], overwrite):
            return reopened(out, attributes, given)
    with ThreadPoolExecutor(threads) as pool:

        def shard(first: int, last: int) -> dict[str, NDArray[Any]]:
            make = prepare(first, last)

            def made(run: NDArray[np.int64]) -> list[NDArray[np.int8]]:
                return [make(number) for number in run.tolist()]

            # a few runs for each thread: starting one takes as long as a small field
            runs = np.array_split(np.arange(first, last), min(last - first, 4 * threads))
            return {"field": np.concatenate(list(pool.map(made, runs)))[:, None]}

        if out is None:
            with progress(title, count) as show:
                parts = []
                for part in slices(0, count, length):
                    parts.append(shard(part.start, part.stop)["field"])
                    show(part.stop)
            return in_memory({"field": np.concatenate(parts)}, attributes, given)

        def fits(arrays: Arrays, number: int) -> bool:
            spins = arrays["field"]
            is_shaped = spins.dtype == np.int8 and spins.shape == (number, 1, side, side)
            return is_shaped and bool((np.abs(spins) == 1).all())

        def write() -> None:
            if not matches(out, attributes[REQUEST], overwrite):
                write_fields(out, read_shards(out, count, length), count, attributes, given)

        settings = attributes | {"output": output_kind(out)}
        in_shards(
            out, settings, count, length, shard, fits, write, title, progress, overwrite=overwrite
        )
    return reopened(out, attributes, given)


def chosen_beta(
    beta: SupportsFloat | Literal["critical"] | None, said: float | None, source: str, whose: str
) -> float:
    """The inverse temperature that is asked for, or else what the fields say.

    Args:
        beta: what is asked for.
        said: what the fields say, if anything.
        source: their name, for messages.
        whose: which fields these are, likewise.

    Raises:
        InputError: no finite number, or nobody says any.
    """
    wanted = said if beta is None else beta
    if wanted is None:
        raise InputError(f"{source}: does not say its temperature; pass `beta`, as `beta=critical`")
    chosen = BETA_CRITICAL if wanted == "critical" else number("beta", wanted)
    if not np.isfinite(chosen):
        raise InputError(f"`beta` must be finite, got {chosen}")
    if said is not None and abs(chosen - said) > 1e-9:
        logger.warning(f"{whose} are at beta = {said:.10g}, not these")
    return chosen
