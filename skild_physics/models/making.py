"""Many fields made by the reverse process: in memory, or shard by shard into a file."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from skild_physics import kspace
from skild_physics.diffusion.noise import SampleNoise
from skild_physics.diffusion.reverse import Start, run
from skild_physics.diffusion.sampler import Sampler
from skild_physics.fields import batches, open_fields
from skild_physics.fields.arrays import tensor_names
from skild_physics.fields.clipping import outside, pixels
from skild_physics.fields.lazy import content
from skild_physics.fields.writing import (
    START,
    check_fields_output,
    in_memory,
    output_kind,
    reopened,
    requested,
    values_digest,
    write_fields,
    write_npy,
)
from skild_physics.files import (
    HDF5,
    InputError,
    check_apart,
    check_output,
    check_seed,
    split_array,
)
from skild_physics.kspace import Basis
from skild_physics.progress import Progress, logger
from skild_physics.requests import REQUEST, clear, matches, recorded
from skild_physics.shards import Arrays, in_shards, read_shards

PARAMETERS = ("model", "beta", "boundary")
"""Attributes of lattices that say what ensemble they are of."""
GIVEN_START = "given_start_sha256"
"""Attribute of fields whose reverse process was given where to start: what that holds."""
MODES = "x_init_k"
"""Name of modes to start from."""
CHECKED = 16
"""Fields of which it is measured how well they agree with what was given."""
BATCH_SITES = 2**22
"""Sites made at a time at most, which bounds the memory of large fields; two fields always are."""
SHARD_VALUES = 2**20
SHARD_FIELDS = 16
"""Values of a shard at most, and fields."""
SHARDS = 16
"""Shards of few fields, which processes share."""
Load = Callable[[int, int], Tensor]
"""(first, last) -> these of the given fields, (B, C, M, M)."""


@dataclass(frozen=True)
class How:
    """How fields are made, and where to: what the verbs of a model have in common.

    Raises:
        InputError: batch_size < 1, a seed out of range, or outputs that may not be written.
    """

    sampler: Sampler
    seed: int
    batch_size: int
    out: str | Path | None
    start_out: str | Path | None
    overwrite: bool
    progress: Progress

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"`batch_size` must be at least 1, got {self.batch_size}")
        check_seed(self.seed)
        if self.out is not None:
            check_fields_output(self.out)
        if self.start_out is not None:
            # what is made into a file is known again when it is there
            check_output(self.start_out, self.overwrite or self.out is not None)

    def at_once(self, side: float) -> int:
        """Fields of this side in a batch."""
        return min(self.batch_size, max(2, int(BATCH_SITES / max(1.0, side) ** 2)))

    def check_inputs(self, *inputs: Any) -> None:
        """Refuse outputs that are inputs, or one file."""
        check_apart({"out": self.out, "start_out": self.start_out}, *inputs)


def sampled(
    start: Start,
    load: Load,
    count: int,
    attributes: Mapping[str, Any],
    how: How,
    given: xr.DataArray | None,
    weights: Callable[[], str],
    begin: xr.DataArray | None = None,
) -> xr.DataArray:
    """Run the reverse process of many fields, in memory or into a file, shard by shard.

    Args:
        start: where it starts.
        load: gives the fields ``first`` .. ``last`` - 1 to start from, (B, C, M, M).
        count: how many there are.
        attributes: how they are made, plain values.
        how: sampler, seed, batch and outputs.
        given: the fields that are loaded; None: nothing is given.
        weights: gives a digest of the model.
        begin: states to start from, as fields; None: they are drawn.

    Raises:
        InputError: outputs that hold something else, or another process is writing them.
    """
    attributes, title = dict(attributes), str(attributes["protocol"])
    batch_size = how.at_once(start.size)

    def begun(low: int, high: int) -> Tensor | None:
        return None if begin is None else loaded(begin, low, high).float()

    def made_of(first: int, last: int, show: Callable[[int], None]) -> dict[str, NDArray[Any]]:
        parts = []
        for low in range(first, last, batch_size):
            high = min(low + batch_size, last)
            noise = SampleNoise(how.seed, range(low, high))
            done = run(start, load(low, high), how.sampler, noise, begun(low, high))
            parts.append({"field": done.result.numpy(), "start": done.start.numpy()})
            show(high)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    if how.out is None:
        with how.progress(title, count) as show:
            whole = made_of(0, count, show)
        attributes |= _agreement(start, whole["field"], load)
        if how.start_out is not None:
            write_npy(Path(how.start_out), [whole["start"]], count)
        if given is None:
            del whole["start"]
        return in_memory(whole, attributes, given)

    out, kind = Path(how.out), output_kind(Path(how.out))
    start_out = None if how.start_out is None else Path(how.start_out)
    keeps_start = start_out is not None or (given is not None and kind == "hdf5")
    shape = (int(attributes["channels"].count(",")) + 1, start.size, start.size)
    length = max(1, min(SHARD_FIELDS, SHARD_VALUES // int(np.prod(shape)), count // SHARDS))

    def stored(first: int, last: int) -> dict[str, NDArray[Any]]:
        arrays = made_of(first, last, lambda done: None)
        if not keeps_start:
            del arrays["start"]
        if kind != "hdf5":
            arrays["outside"] = outside(arrays["field"])
            arrays["field"] = pixels(arrays["field"])
        return arrays

    def fits(arrays: Arrays, number: int) -> bool:
        expected: dict[str, Any] = {"field": np.float32 if kind == "hdf5" else np.uint8}
        expected |= {"start": np.float32} if keeps_start else {}
        return all(
            arrays[name].dtype == dtype and arrays[name].shape == (number, *shape)
            for name, dtype in expected.items()
        )

    settings = {"count": count, "starts": keeps_start, "weights": weights()}
    attributes[REQUEST] = requested(out, attributes, given, **settings)
    done = matches(out, attributes[REQUEST], how.overwrite)
    has_start = start_out is not None and _has_start(start_out, out if done else None, how)
    if done and (start_out is None or has_start):
        for each in filter(None, (out, start_out)):
            clear(each)
        logger.info(f"{out}: made already")
        return reopened(out, attributes, given)

    def shards() -> Iterator[dict[str, NDArray[Any]]]:
        return read_shards(out, count, length)

    def write() -> None:
        logger.info(f"writing {out}")
        if start_out is not None:
            attributes[START] = values_digest(part["start"] for part in shards())
        if kind == "hdf5":
            fields = (part["field"] for part in shards())
            first_ones = np.concatenate(list(islice(fields, CHECKED)))[:CHECKED]
            attributes.update(_agreement(start, first_ones, load))
        if not matches(out, attributes[REQUEST], how.overwrite):
            write_fields(out, shards(), count, attributes, given)
        if start_out is not None and not has_start:
            write_npy(start_out, (part["start"] for part in shards()), count)

    in_shards(
        out,
        attributes | settings | {"output": kind},
        count,
        length,
        stored,
        fits,
        write,
        title,
        how.progress,
        at_once=max(1, batch_size // length),
        overwrite=how.overwrite,
    )
    return reopened(out, attributes, given)


def opened_states(source: Any, basis: Basis) -> xr.DataArray:
    """States to start from: fields, those that a result in HDF5 started from, or modes.

    A tensor called x_init_k in a file of torch is what the evaluation of published code keeps:
    modes in the cosine basis, in the paper's normalisation.

    Raises:
        InputError: nothing there, or no fields.
    """
    array = ""
    if isinstance(source, str | Path):
        file, array = split_array(source)
        if not array and os.path.isfile(file):
            with open(file, "rb") as opened:
                source = f"{file}:start" if opened.read(len(HDF5)) == HDF5 else source
            if file.endswith((".pt", ".pth")) and MODES in tensor_names(Path(file)):
                source, array = f"{file}:{MODES}", MODES
    states = open_fields(source, data_range=(-1, 1), basis=basis)
    if array != MODES:
        return states
    factor = kspace.normalization_factor(states.shape[-1], "cosine")
    parts = [kspace.inverse(each / factor, "cosine") for each in batches(states)]
    values = np.concatenate(parts).astype(np.float32)
    return states.copy(data=values.reshape(states.shape))


def loaded(fields: xr.DataArray, first: int, last: int) -> Tensor:
    """These of some fields, (B, C, M, M)."""
    return torch.from_numpy(next(batches(fields, first, last, length=last - first)))


def _has_start(start_out: Path, made: Path | None, how: How) -> bool:
    """Whether there is what the fields of a result started from.

    Raises:
        InputError: there is something else of that name.
    """
    if how.overwrite or not start_out.exists():
        return False
    if made is not None:
        try:
            values = np.load(start_out, mmap_mode="r", allow_pickle=False)
            if values_digest(values) == recorded(made, START):
                return True
        except Exception:
            # whatever it is, it is not that
            pass
    raise InputError(f"{start_out}: exists already; pass `overwrite=True` to replace it")


def parameters_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What attributes of fields say about the ensemble that they are of, as plain values."""
    said = {name: attributes[name] for name in PARAMETERS if name in attributes}
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in said.items()}


def input_attributes(given: xr.DataArray) -> dict[str, Any]:
    """What a result says of the fields that it was made of."""
    return {
        "input": given.attrs.get("source", "fields"),
        "input_fields": len(given),
        "input_sha256": content(given),
    }


def _agreement(start: Start, made: NDArray[np.float32], load: Load) -> dict[str, float]:
    if start.residual is None:
        return {}
    first = torch.from_numpy(made[:CHECKED])
    residual = start.residual(first, load(0, len(first)).float())
    logger.info(
        f"coarse-graining the result again differs from what was given by {residual:.2g} of its "
        "root mean square"
    )
    return {"consistency_residual": residual}
