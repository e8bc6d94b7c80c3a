"""Critical Ising lattices in one call, in memory or in a file that grows."""

import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import xarray as xr

from skild_physics.data_gen.ensemble import generate
from skild_physics.data_gen.parameters import IsingParameters, integer, number, threads_of
from skild_physics.data_gen.store import independence, shard_length
from skild_physics.fields.lattice import field_file
from skild_physics.files import check_none_given, check_output
from skild_physics.memory import MOST_COMPRESSED, check_disk, check_memory
from skild_physics.observables.exact import BETA_CRITICAL
from skild_physics.progress import Progress, logger, silent

LARGE = 512
"""Sides from which on the pilot run takes seconds."""
BYTES_OF_FIELD = 28
"""Energy, magnetisation, chain and update."""


def generate_ising(
    L: int,
    *,
    samples: int = 1000,
    beta: float | Literal["critical"] = "critical",
    seed: int = 0,
    updates: int | Literal["auto"] = "auto",
    sweeps: int | Literal["auto"] = "auto",
    workers: int | Literal["auto"] = "auto",
    out: str | Path | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> xr.DataArray:
    """Make an ensemble of 2D Ising lattices with Wolff's cluster algorithm.

    Independent Markov chains start ordered, are thermalised, and are saved after a fixed number of
    updates: a few sweeps of Metropolis' rule, which move the small scales, and the flip of one
    cluster (Wolff, PRL 62, 361 (1989)). The spins depend on L, beta, seed, updates and sweeps
    alone; those of fewer samples are the first of those of more.

    H = -sum of s s' over nearest neighbours, J = 1: a negative beta is that of an antiferromagnet,
    whose fields are those of the ferromagnet at -beta, turned over on every other site. At beta = 0
    all spins are drawn independently.

    Args:
        L: side of the L x L torus, 3 or more.
        samples: number of fields.
        beta: inverse temperature in units of 1/J, or "critical", ln(1 + sqrt 2)/2; 0, or negative
            on a torus of even L.
        seed: integer root of all random numbers.
        updates: updates between saved fields of a chain; "auto": three times the larger tau_int,
            of energy or of m^2, in a pilot run (of an antiferromagnet of the staggered m).
        sweeps: of Metropolis before each cluster; "auto": 4, or 0 where L is odd or abs(beta) below
            0.05. With 0 the fields are those of earlier versions.
        workers: threads; "auto": one per processor.
        out: HDF5 file to make, to go on with after an interruption, or to extend; None: in memory.
        scheduler: address of a Dask scheduler whose workers run the chains instead.
        overwrite: replace a file made with other parameters.
        progress: shows how many fields are done, see :mod:`skild_physics.progress`.

    Returns:
        Spins +1 and -1, int8 (sample, y, x), read from ``out`` where they are needed. Coordinates
        along sample: `chain` and `update`, the updates of the chain since its start;
        `energy` in J and `magnetization`, per spin. The attributes say how the fields were made
        (model, L, beta, boundary, seed, ...) and how independent they are: `tau_int_energy` and
        `tau_int_magnetization_squared` in fields of a chain, and the effective sample size
        `n_effective`.

    Raises:
        InputError: a value out of range, ``out`` holds something else, or another process is
            writing it.
        OSError: the file cannot be written; what was committed stays.

    Example:
        >>> import skild_physics as sk
        >>> fields = sk.generate_ising(L=8, samples=16)
        >>> fields.shape
        (16, 8, 8)
    """
    samples = integer("samples", samples, 1)
    spacing = None if updates == "auto" else integer("updates", updates, 1, " or 'auto'")
    swept = None if sweeps == "auto" else integer("sweeps", sweeps, 0, " or 'auto'")
    threads = threads_of(workers)
    if out is None:
        check_none_given({"overwrite": overwrite}, "goes with `out`")
    else:
        out = check_output(out, overwrite=True)
    given = (
        integer("L", L, 3),
        BETA_CRITICAL if beta == "critical" else number("beta", beta),
        integer("seed", seed, 0),
    )
    _check_possible(IsingParameters(*given, spacing or 1, 0, sweeps=swept or 0), samples, out)
    if given[0] >= LARGE:
        logger.info(f"pilot run on {given[0]} x {given[0]} sites, which sets the spacing")
    shown = progress if given[0] >= LARGE else silent
    parameters = IsingParameters.planned(*given, spacing, progress=shown, sweeps=swept)

    def make(path: Path) -> xr.DataArray:
        how = {"workers": threads, "scheduler": scheduler, "overwrite": overwrite}
        _make(path, parameters, samples, progress, **how)
        return _read(path, parameters, samples)

    if out is not None:
        return make(out)
    with tempfile.TemporaryDirectory() as folder, make(Path(folder) / "ising.h5") as fields:
        return fields.load().drop_encoding().assign_attrs(source=f"ising-L{parameters.L}")


def _check_possible(p: IsingParameters, samples: int, out: Path | None) -> None:
    """Refuse ensembles that neither the memory nor the disk can hold.

    Raises:
        InputError: saying what they would take.
    """
    what = f"{samples:,} fields of {p.L} x {p.L}"
    # chains, as they are and as they will be, and the fields of a shard, as made and as written
    at_a_time = 2 * p.n_chains + 2 * min(samples, shard_length(p))
    in_memory = 2 * samples if out is None else 0
    check_memory(what, p.L**2 * (at_a_time + in_memory))
    folder = Path(tempfile.gettempdir()) if out is None else out.parent
    # all spins alike, and what is known of each field
    check_disk(what, folder, samples * (BYTES_OF_FIELD + p.L**2 / MOST_COMPRESSED))


def _make(
    path: Path,
    p: IsingParameters,
    samples: int,
    progress: Progress,
    **how: Any,
) -> None:
    how_far = (
        f"{p.updates_between_samples} updates ({p.algorithm}) apart, after "
        f"{p.thermalization_updates} updates of thermalisation, {p.n_chains} chains"
    )
    logger.info(
        f"{samples} fields of {p.L} x {p.L} at beta = {p.beta:.6f}, "
        + (how_far if p.beta else "independent spins")
    )
    began = time.perf_counter()
    with progress("generate", samples) as show:
        made = generate(path, p, samples, progress=show, **how)
    speed = made / (time.perf_counter() - began)
    digits = 0 if speed >= 10 else 2
    logger.info(f"{made} made at {speed:.{digits}f} fields/s" if made else "nothing left to make")


def _read(path: Path, p: IsingParameters, samples: int) -> xr.DataArray:
    """The first fields of the file and what is known of them, as if it held no others."""
    whole = field_file(path)
    fields = whole[:samples]
    if samples < len(whole):
        fields.attrs |= independence(fields["energy"].values, fields["magnetization"].values, p)
    fields.encoding["source"] = str(path)
    fields.set_close(whole.close)
    return fields
