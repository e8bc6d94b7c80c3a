"""Exact Ising fields of given block averages, in memory or shard by shard into a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import BaseModel, FiniteFloat

from skild_physics.data_gen.exchange import exchange_draw
from skild_physics.data_gen.one_by_one import Make, chosen_beta, made_one_by_one, shard_fields
from skild_physics.data_gen.parameters import MAX_L, integer, sweeps_of, threads_of
from skild_physics.data_gen.relaxation import (
    PILOT_FIELDS,
    PILOT_STATES,
    sweeps_for,
    tau_int_of_exchanges,
)
from skild_physics.fields import open_fields
from skild_physics.fields.lazy import basis_of, batches, content, slices
from skild_physics.fields.sources import Opening, is_foreign
from skild_physics.fields.writing import check_fields_output
from skild_physics.files import InputError, check_apart, check_none_given, check_seed
from skild_physics.memory import check_disk, check_memory
from skild_physics.progress import Progress, logger, silent
from skild_physics.schema import plain_attributes, validated
from skild_physics.xoshiro import BIT_GENERATOR

TOLERANCE = 0.01
"""How far from a whole number of spins up a block average may be, in spins."""


def sample_exact(
    coarse: Any,
    factor: int,
    *,
    draws: int = 1,
    beta: float | Literal["critical"] | None = None,
    sweeps: int | Literal["auto"] = "auto",
    samples: int | None = None,
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    L: int | None = None,
    dims: Sequence[str] | None = None,
) -> xr.DataArray:
    """Draw Ising fields of given block averages from their exact distribution, by Monte Carlo.

    This is what super-resolution from block averages is to be measured against: the Boltzmann
    distribution of all spins that have these averages. From spins shuffled within their blocks,
    unlike ones of a block change places with Metropolis' probability, see
    :mod:`skild_physics.data_gen.exchange`. Every draw is a chain of its own:
    draws of a field are independent, and depend on its place among the fields, its averages, beta,
    sweeps and seed alone.

    Args:
        coarse: block averages of spins, as :func:`skild_physics.fields.resampling.coarse_grain`
            makes them, or anybody's; anything that :func:`skild_physics.fields.open_fields` takes.
        factor: side of the blocks, a whole number of at least 2.
        draws: of each field, one after another in the result.
        beta: inverse temperature in units of 1/J, of any sign, or "critical", ln(1 + sqrt 2)/2;
            None: that of the fields that were coarse-grained, as the coarse ones say.
        sweeps: of exchanges; "auto": twenty times the largest tau_int, of the energy, of that
            between blocks and of overlaps, in a pilot run with the first eight fields.
        samples: the first so many coarse fields; None: all.
        seed: integer root of all random numbers.
        workers: threads; "auto": one per processor.
        out: file or folder to write, see :func:`skild_physics.fields.writing.save`; the same call
            goes on after an interruption, and returns what is there already. None: in memory.
        overwrite: replace an existing result.
        progress: shows how many fields are done.
        L: side of flattened coarse fields, of arrays of which nothing is known.
        dims: what each axis of such arrays is.

    Returns:
        Spins +1 and -1, int8 (sample, y, x), with the coordinate `sample` of the coarse fields,
        ``draws`` times each, and with `sweeps` and `pilot_tau_int` among the attributes.

    Raises:
        InputError: values that no block of spins averages to, fields of several channels or that
            are no torus, a parameter out of range or a beta that nobody says, more than the memory
            or the disk holds, or as opening and writing.

    Example:
        >>> import skild_physics as sk
        >>> truth = sk.generate_ising(L=16, samples=3)
        >>> coarse = sk.coarse_grain(truth, factor=4)
        >>> drawn = sk.sample_exact(coarse, factor=4, draws=2)
        >>> drawn.shape, bool((sk.coarse_grain(drawn[::2], factor=4) == coarse).all())
        ((6, 16, 16), True)
    """
    factor, draws = integer("factor", factor, 2), integer("draws", draws, 1)
    seed = integer("seed", seed, 0)
    check_seed(seed)
    if sweeps != "auto":
        sweeps = sweeps_of(sweeps, 0, " or 'auto'")
    threads = threads_of(workers)
    if out is None:
        check_none_given({"overwrite": overwrite}, "goes with `out`")
    else:
        check_fields_output(out)
        check_apart({"out": out}, coarse)
    given = _opened(coarse, samples, {"L": L, "dims": dims})
    side = given.shape[-1] * factor
    if not 3 <= side <= MAX_L:
        raise InputError(f"`factor` times {given.shape[-1]} must lie in 3 .. {MAX_L}, got {side}")
    count = len(given) * draws
    _check_possible(side, count, min(count, threads), sweeps == "auto", out)
    name = str(given.attrs.get("source", "fields"))
    said = _about(given).beta_of_input
    coupling = chosen_beta(beta, said, name, "the fields that were coarse-grained")
    # what cannot be is said before anything is made
    for part in slices(0, len(given), shard_fields(side)):
        _ups(given, part.start, part.stop, factor)
    tau_int = None
    if sweeps == "auto":
        tau_int = tau_int_of_exchanges(_ups(given, 0, PILOT_FIELDS, factor), side, coupling, seed)
        sweeps = sweeps_for(tau_int)
    attributes = {
        "protocol": "observed",
        "input": given.attrs.get("source", "fields"),
        "input_fields": len(given),
        "input_sha256": content(given),
        "downsampling_of_input": "box",
        "factor": factor,
        "L": side,
        "beta": coupling,
        "J": 1.0,
        "boundary": "periodic",
        "basis": "periodic",
        "channels": "spin",
        "algorithm": "exchanges within blocks",
        "sweeps": sweeps,
        "pilot_tau_int": tau_int,
        "draws": draws,
        "bit_generator": BIT_GENERATOR,
        "seed": seed,
    }
    attributes = {name: value for name, value in attributes.items() if value is not None}
    logger.info(
        f"{count} fields of {side} x {side} at beta = {coupling:.6f}, {sweeps} sweeps each"
        + (f", tau_int {tau_int:.2f} sweeps" if tau_int is not None else "")
    )
    # every draw has what is known of its coarse field
    of_draws = given["sample"][np.repeat(np.arange(len(given)), draws)]

    def prepare(first: int, last: int) -> Make:
        start = first // draws
        ups = _ups(given, start, (last - 1) // draws + 1, factor)

        def draw(number: int) -> NDArray[np.int8]:
            i, d = divmod(number, draws)
            return exchange_draw(ups[i - start], side, coupling, sweeps, seed, i, d)

        return draw

    return made_one_by_one(
        prepare,
        of_draws,
        side,
        attributes,
        "draw",
        threads=threads,
        out=out,
        overwrite=overwrite,
        progress=progress,
    )


def _check_possible(
    side: int, count: int, at_once: int, is_pilot: bool, out: str | Path | None
) -> None:
    """Refuse draws that neither the memory nor the disk can hold.

    Raises:
        InputError: saying what they would take.
    """
    what, size = f"{count:,} draws of {side} x {side}", float(side) ** 2
    # a chain has its spins three times, and the places of all; of a draw it is known what it is of
    check_memory(f"{what}, {at_once} at a time,", 7 * at_once * size + 16 * count)
    if is_pilot:
        check_memory(f"`sweeps=auto` of {side} x {side}", 2 * PILOT_STATES * size)
    if out is None:
        check_memory(what, 2 * count * size)
    else:
        # shards are not compressed
        check_disk(what, Path(out).parent, count * size)


class _Coarse(BaseModel):
    """What coarse fields say of themselves."""

    boundary: str | None = None
    downsampling: str = "box"
    beta_of_input: FiniteFloat | None = None


def _about(given: xr.DataArray) -> _Coarse:
    name = str(given.attrs.get("source", "fields"))
    return validated(_Coarse, plain_attributes(given.attrs), name)


def _opened(coarse: Any, samples: int | None, of_arrays: Opening) -> xr.DataArray:
    """Coarse fields of one channel on a torus, (sample, y, x)."""
    if is_foreign(coarse):
        # block averages are numbers as they are, of a torus
        of_arrays |= {"data_range": (-1.0, 1.0), "boundary": "periodic"}
    given = open_fields(coarse, samples=samples, **of_arrays)
    name = given.attrs.get("source", "fields")
    if "channel" in given.dims:
        raise InputError(f"{name}: has {given.sizes['channel']} channels, not one of spins")
    about = _about(given)
    if about.boundary == "open" or basis_of(given) != "periodic":
        raise InputError(f"{name}: patches, boundary open; draws are of a torus")
    if about.downsampling != "box":
        raise InputError(
            f"{name}: coarse-grained by {about.downsampling}, not block averages, `kernel=box`"
        )
    return given


def _ups(given: xr.DataArray, first: int, last: int, b: int) -> NDArray[np.int64]:
    """Spins up in every block of these fields, (n, M, M).

    Raises:
        InputError: no block averages of spins.
    """
    part = given[first:last]
    averages = np.concatenate(list(batches(part)))[:, 0].astype(np.float64)
    ups = (averages + 1) / 2 * b**2
    nearest = np.clip(np.rint(ups), 0, b**2)
    off = np.abs(ups - nearest)
    if off.max() > TOLERANCE:
        worst = np.unravel_index(off.argmax(), off.shape)
        number_of_field = part["sample"].values[worst[0]]
        possible = 2 * nearest[worst] / b**2 - 1
        raise InputError(
            f"{given.attrs.get('source', 'fields')}: field {number_of_field} holds "
            f"{averages[worst]:.6g}, no average of {b} x {b} spins: the nearest, {possible:.6g}, "
            f"is {abs(averages[worst] - possible):.2g} away; is `factor={b}` right?"
        )
    return nearest.astype(np.int64)
