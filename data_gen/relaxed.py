"""Made fields of spins, after a few Monte Carlo sweeps that know their Hamiltonian.

Sweeps leave the Boltzmann distribution as it is, and bring any other closer to it. Those of single
spins, by the heat bath, repair the smallest scales first and the largest last: a scale r takes some
r^z sweeps, z = 2.17 at the critical point. Exchanges within blocks leave the sums of the blocks,
that is the coarse field, as they are, and converge to the Boltzmann distribution of the fields that
have these sums, so they have nothing to repair that is much larger than a block.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import BaseModel, FiniteFloat

from skild_physics.data_gen.draws import TOLERANCE
from skild_physics.data_gen.exchange import exchange_samples, exchange_thresholds
from skild_physics.data_gen.heat_bath import heat_bath_sweeps, heat_bath_thresholds
from skild_physics.data_gen.one_by_one import Make, chosen_beta, made_one_by_one, shard_fields
from skild_physics.data_gen.parameters import MAX_L, integer, sweeps_of, threads_of
from skild_physics.fields import open_fields
from skild_physics.fields.lazy import basis_of, batches, content, slices
from skild_physics.fields.sources import Boundary, Opening
from skild_physics.fields.values import DataRange
from skild_physics.fields.writing import check_fields_output
from skild_physics.files import InputError, check_apart, check_none_given, check_seed
from skild_physics.memory import check_disk, check_memory
from skild_physics.progress import Progress, logger, silent
from skild_physics.schema import plain_attributes, validated
from skild_physics.xoshiro import BIT_GENERATOR, seed_state


def relax(
    fields: Any,
    sweeps: int,
    *,
    factor: int | None = None,
    beta: float | Literal["critical"] | None = None,
    samples: int | None = None,
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    L: int | None = None,
    dims: Sequence[str] | None = None,
    data_range: DataRange | None = None,
    boundary: Boundary | None = None,
) -> xr.DataArray:
    """A few Monte Carlo sweeps of the 2D Ising model, from made fields: no model's own output.

    With ``factor`` unlike spins of a block change places with Metropolis' probability, which leaves
    block averages as they are, see :mod:`skild_physics.data_gen.exchange`; without, every spin is
    drawn given its neighbours, see :mod:`skild_physics.data_gen.heat_bath`. What was done is among
    the attributes of the result, in words as `relaxed`.

    Fields that are not spins are taken by their signs, 0 as +1; with ``factor`` each block has as
    many spins up as its average says, or nearly says, those where the field is the largest.

    Every field is relaxed by itself, and depends on its place among the fields, its spins, beta,
    sweeps, factor and seed alone. After relaxing again with the same seed, random numbers are
    others.

    Args:
        fields: lattices on a torus, anything that :func:`skild_physics.fields.open_fields` takes.
        sweeps: of every site, 1 or more; of exchanges as many proposals as there are sites.
        factor: side of the blocks that keep their sums, a whole number of at least 2; None: single
            spins.
        beta: inverse temperature in units of 1/J, of any sign, or "critical", ln(1 + sqrt 2)/2;
            None: that of the fields, as they say.
        samples: the first so many of them; None: all.
        seed: integer root of all random numbers.
        workers: threads; "auto": one per processor.
        out: file or folder to write, see :func:`skild_physics.fields.writing.save`; the same call
            goes on after an interruption, and returns what is there already. None: in memory.
        overwrite: replace an existing result.
        progress: shows how many fields are done.
        L: side of flattened fields, of arrays of which nothing is known, as the next three.
        dims: what each axis is.
        data_range: the values of spins down and up, or of black and white.
        boundary: "periodic", where neither the fields nor their edges say so.

    Returns:
        Spins +1 and -1, int8 (sample, y, x).

    Raises:
        InputError: coarse fields, fields of several channels or that are no torus, integers other
            than spins, a factor that does not divide the lattice, a parameter out of range or a
            beta that nobody says, more than the memory or the disk holds, or as opening and
            writing.

    Example:
        >>> import skild_physics as sk
        >>> made = sk.load("bundled").generate(2, sampler=sk.Multistep(4))
        >>> sk.relax(made, 3).relaxed
        '3 sweeps of heat bath, beta = 0.4406867935'
    """
    sweeps = sweeps_of(sweeps, 1)
    factor = factor if factor is None else integer("factor", factor, 2)
    seed = integer("seed", seed, 0)
    check_seed(seed)
    threads = threads_of(workers)
    if out is None:
        check_none_given({"overwrite": overwrite}, "goes with `out`")
    else:
        check_fields_output(out)
        check_apart({"out": out}, fields)
    said: Opening = {"L": L, "dims": dims, "data_range": data_range, "boundary": boundary}
    given, about = _opened(fields, samples, said)
    name, side = str(given.attrs.get("source", "fields")), given.shape[-1]
    if not 3 <= side <= MAX_L:
        raise InputError(f"{name}: {side} x {side} fields; sides lie in 3 .. {MAX_L}")
    if factor is not None and side % factor:
        raise InputError(f"`factor` must divide {side}, got {factor}")
    coupling = chosen_beta(beta, about.beta, name, name)
    length = min(len(given), shard_fields(side))
    what = f"{len(given):,} fields of {side} x {side}"
    # as numbers, the order of these in their blocks, and as spins; two at a time of each thread
    check_memory(f"{what}, {length} at a time,", (25.0 * length + 18 * threads) * side**2)
    if out is None:
        check_memory(what, 2.0 * given.size)
    else:
        check_disk(what, Path(out).parent, float(given.size))
    # what cannot be is said before anything is made
    rounded = 0.0
    for part in slices(0, len(given), length):
        rounded += _spins(given, part.start, part.stop, factor)[1] / len(given)
    if rounded:
        logger.warning(
            f"{name}: {100 * rounded:.3g} % of the blocks have averages that {factor} x {factor} "
            "spins have not; they get the nearest"
        )
    kind = "heat bath" if factor is None else f"exchanges within {factor} x {factor} blocks"
    done = f"{sweeps} sweep{'s' * (sweeps > 1)} of {kind}, beta = {coupling:.10g}"
    attributes = {
        "protocol": "relaxation",
        "relaxed": done if about.relaxed is None else f"{about.relaxed}; {done}",
        "input": name,
        "input_fields": len(given),
        "input_sha256": content(given),
        "protocol_of_input": about.protocol_of_input or about.protocol,
        "checkpoint_sha256_of_input": about.checkpoint_sha256_of_input or about.checkpoint_sha256,
        "factor": factor,
        "L": side,
        "beta": coupling,
        "J": 1.0,
        "boundary": "periodic",
        "basis": "periodic",
        "channels": "spin",
        "algorithm": kind,
        "sweeps": sweeps,
        "rounded_blocks": rounded or None,
        "bit_generator": BIT_GENERATOR,
        "seed": seed,
    }
    attributes = {name: value for name, value in attributes.items() if value is not None}
    logger.info(f"{what}: {done}")

    def prepare(first: int, last: int) -> Make:
        spins = _spins(given, first, last, factor)[0]
        return lambda number: relaxed(spins[number - first], sweeps, factor, coupling, seed, number)

    return made_one_by_one(
        prepare,
        given,
        side,
        attributes,
        "relax",
        threads=threads,
        out=out,
        overwrite=overwrite,
        progress=progress,
    )


def relaxed(
    spins: NDArray[np.int8], sweeps: int, factor: int | None, beta: float, seed: int, number: int
) -> NDArray[np.int8]:
    """A field (L, L) after ``sweeps`` sweeps.

    Args:
        spins: the field before; stays.
        sweeps: how many.
        factor: side of the blocks that keep their sums; None: single spins.
        beta: inverse temperature, J = 1.
        seed: integer root seed.
        number: of the field. Its stream of random numbers is also that of its spins: of a field
            that is relaxed again another one, or else it would know these numbers already.
    """
    known = hashlib.sha256(spins.tobytes()).digest()[:16]
    rng = seed_state(seed, number, int.from_bytes(known, "little"))
    after = spins.copy()
    if factor is None:
        heat_bath_sweeps(after, rng, heat_bath_thresholds(beta), sweeps)
    else:
        out = np.empty((1, *spins.shape), np.int8)
        exchange_samples(after, factor, rng, exchange_thresholds(beta), sweeps, out)
    return after


def by_rank(values: NDArray[np.floating], b: int) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Spins of which as many are up in every block as its average says, where values are largest.

    Args:
        values: (n, L, L), L a multiple of b.
        b: side of the blocks.

    Returns:
        The spins, and how far the average of each block is from theirs, in spins, (n, M, M).
    """
    n, L, _ = values.shape
    M = L // b
    blocks = values.reshape(n, M, b, M, b).swapaxes(2, 3).reshape(n, M, M, b * b)
    wanted = (blocks.mean(axis=-1, dtype=np.float64) + 1) / 2 * b**2
    ups = np.clip(np.rint(wanted), 0, b**2)
    spins = np.full(blocks.shape, -1, np.int8)
    order = np.argsort(-blocks, axis=-1, kind="stable")
    chosen = np.where(np.arange(b * b) < ups[..., None], 1, -1).astype(np.int8)
    np.put_along_axis(spins, order, chosen, axis=-1)
    whole = spins.reshape(n, M, M, b, b).swapaxes(2, 3).reshape(n, L, L)
    return whole, np.abs(wanted - ups)


class _Made(BaseModel):
    """What fields say of themselves."""

    beta: FiniteFloat | None = None
    downsampling: str | None = None
    protocol: str | None = None
    protocol_of_input: str | None = None
    checkpoint_sha256: str | None = None
    checkpoint_sha256_of_input: str | None = None
    relaxed: str | None = None


def _opened(fields: Any, samples: int | None, said: Opening) -> tuple[xr.DataArray, _Made]:
    """Fields of one channel on a torus, (sample, y, x), and what they say of themselves."""
    given = open_fields(fields, samples=samples, **said)
    name = str(given.attrs.get("source", "fields"))
    if "channel" in given.dims:
        raise InputError(f"{name}: has {given.sizes['channel']} channels, not one of spins")
    about = validated(_Made, plain_attributes(given.attrs), name)
    if about.downsampling is not None:
        raise InputError(
            f"{name}: is coarse-grained by {about.downsampling}; what is relaxed are fields of "
            "spins"
        )
    if given.attrs.get("boundary") == "open" or basis_of(given) != "periodic":
        raise InputError(f"{name}: is not known to live on a torus; pass `boundary=periodic`")
    if "beta" in given.coords and given["beta"].ndim:
        raise InputError(f"{name}: fields of several beta; relax those of each alone")
    return given, about


def _spins(
    given: xr.DataArray, first: int, last: int, factor: int | None
) -> tuple[NDArray[np.int8], float]:
    """Fields as spins (n, L, L), and how many fields' worth of blocks had to be rounded.

    Raises:
        InputError: fields cannot be read, or are integers and no spins.
    """
    part = given[first:last]
    values = np.concatenate(list(batches(part)))[:, 0]
    if given.dtype.kind in "iu":
        if not (np.abs(values) == 1).all():
            name = given.attrs.get("source", "fields")
            raise InputError(f"{name}: integers are spins, -1 and +1; give other fields as floats")
        return values.astype(np.int8), 0.0
    if factor is None:
        return np.where(values >= 0, 1, -1).astype(np.int8), 0.0
    spins, away = by_rank(values, factor)
    return spins, float((away > TOLERANCE).mean() * len(spins))
