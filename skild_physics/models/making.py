"""Many fields made by the reverse process: in memory, or shard by shard into a file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from skild_physics.diffusion.noise import SampleNoise
from skild_physics.diffusion.reverse import Start, run
from skild_physics.diffusion.sampler import Sampler
from skild_physics.fields import open_fields
from skild_physics.fields.clipping import outside, pixels
from skild_physics.fields.lazy import content, digest
from skild_physics.fields.writing import (
    check_fields_output,
    in_memory,
    output_kind,
    write_fields,
    write_npy,
)
from skild_physics.files import InputError, check_apart, check_output
from skild_physics.machine import joined_world
from skild_physics.progress import Progress, logger
from skild_physics.shards import discard_shards, make_shards, read_shards

PARAMETERS = ("model", "beta", "boundary")
"""Attributes of lattices that say what ensemble they are of."""
CHECKED = 16
"""Fields of which it is measured how well they agree with what was given."""
Load = Callable[[int, int], Tensor]
"""(first, last) -> these of the given fields, (B, C, M, M)."""


@dataclass(frozen=True)
class How:
    """How fields are made, and where to: what the verbs of a model have in common.

    Raises:
        InputError: batch_size < 1, or outputs that may not be written.
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
        if self.out is not None:
            check_fields_output(self.out, self.overwrite)
        if self.start_out is not None:
            check_output(self.start_out, self.overwrite)

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
) -> xr.DataArray:
    """Run the reverse process of many fields, in memory or into a file, shard by shard.

    Args:
        start: where it starts.
        load: gives the fields ``first`` .. ``last`` - 1 to start from, (B, C, M, M).
        count: how many there are.
        attributes: how they are made, plain values.
        how: sampler, seed, batch and outputs.
        given: the fields that are loaded; None: nothing is given.
    """
    attributes, title = dict(attributes), str(attributes["protocol"])

    def shard(first: int, last: int) -> dict[str, NDArray[Any]]:
        noise = SampleNoise(how.seed, range(first, last))
        done = run(start, load(first, last), how.sampler, noise)
        return {"field": done.result.numpy(), "start": done.start.numpy()}

    if how.out is None:
        with how.progress(title, count) as show:
            parts = []
            for first in range(0, count, how.batch_size):
                parts.append(shard(first, min(first + how.batch_size, count)))
                show(min(first + how.batch_size, count))
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        attributes |= _agreement(start, whole["field"], load)
        if how.start_out is not None:
            write_npy(Path(how.start_out), [whole["start"]], count)
        if given is None:
            del whole["start"]
        return in_memory(whole, attributes, given)

    out, kind = Path(how.out), output_kind(Path(how.out))
    keeps_start = given is not None and (kind == "hdf5" or how.start_out is not None)

    def stored(first: int, last: int) -> dict[str, NDArray[Any]]:
        arrays = shard(first, last)
        if not keeps_start:
            del arrays["start"]
        if kind != "hdf5":
            arrays["outside"] = outside(arrays["field"])
            arrays["field"] = pixels(arrays["field"])
        return arrays

    settings = {**attributes, "count": count, "output": kind, "starts": keeps_start}
    if given is not None:
        # other fields of the same file are other fields
        settings["input_samples"] = digest(given["sample"].values)
    with joined_world() as world:
        with how.progress(title, count) as show:
            make_shards(
                out,
                settings,
                count,
                how.batch_size,
                stored,
                world,
                show,
                overwrite=how.overwrite,
            )
        if world.is_main:
            logger.info(f"writing {out}")
            if kind == "hdf5":
                fields = (part["field"] for part in read_shards(out))
                first_ones = np.concatenate(list(islice(fields, CHECKED)))[:CHECKED]
                attributes |= _agreement(start, first_ones, load)
            if how.start_out is not None:
                write_npy(Path(how.start_out), (s["start"] for s in read_shards(out)), count)
            made = write_fields(out, read_shards(out), count, attributes, given)
            discard_shards(out)
        world.barrier()
        if not world.is_main:
            made = open_fields(out)
    return made


def parameters_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What attributes of fields say about the ensemble that they are of, as plain values."""
    said = {name: attributes[name] for name in PARAMETERS if name in attributes}
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in said.items()}


def identity(given: xr.DataArray) -> dict[str, Any]:
    """What the fields are that something is made of: their values, wherever they lie."""
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
