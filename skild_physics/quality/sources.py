"""Sources of pictures: whether they can be compared, how many there are, and their 8-bit pixels."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from skild_physics.fields import batches, channels_of
from skild_physics.fields.lazy import UnusableError
from skild_physics.fields.writing import pixels
from skild_physics.files import InputError
from skild_physics.quality.metrics import METRICS


def pictures_to_read(
    sources: Mapping[str, xr.DataArray], metrics: Sequence[str], samples: int | None
) -> dict[str, int]:
    """The number of pictures of each source, if they can be compared.

    Args:
        sources: fields by label, the reference first.
        metrics: what they are to be compared by.
        samples: the first so many of each; None: all.

    Raises:
        InputError: other numbers of channels; sizes or numbers of pictures that make no pairs;
            pictures that are too small or fewer than ``samples``; nothing to compare with.
    """
    reference, *others = sources
    first = sources[reference]
    comparing = [metric for metric in metrics if METRICS[metric].compares]
    paired = [metric for metric in metrics if METRICS[metric].paired]
    if comparing and not others:
        raise InputError(
            f"{', '.join(comparing)} compare with a reference: give it and another source"
        )
    colours, size = len(channels_of(first)), first.shape[-1]
    for label, fields in sources.items():
        channels, side = len(channels_of(fields)), fields.shape[-1]
        if channels not in (1, 3):
            raise InputError(f"{label}: {channels} channels; pictures have one or three")
        if channels != colours:
            kinds = {1: "grey", 3: "in colour"}
            raise InputError(
                f"{reference} is {kinds[colours]}, {label} is {kinds[channels]}; `grey=True` opens "
                "folders as grey pictures"
            )
        for metric in metrics:
            if side < METRICS[metric].smallest:
                raise InputError(
                    f"{metric} needs at least {METRICS[metric].smallest} pixels per side; "
                    f"{label} has {side}"
                )
        if paired and side != size:
            raise InputError(
                f"{', '.join(paired)} compare pairs: {reference} has {size} x {size} pixels, "
                f"{label} {side} x {side}; fid, kid and is need no pairs"
            )
    counts = {label: len(fields) for label, fields in sources.items()}
    for label, count in counts.items():
        if samples is not None and count < samples:
            raise InputError(f"{label} has {count} pictures, fewer than `samples={samples}`")
        if paired and samples is None and count != counts[reference]:
            raise InputError(
                f"{', '.join(paired)} compare pairs: {reference} has {counts[reference]} pictures, "
                f"{label} {count}; `samples=N` takes the first N of each, and fid, kid and is need "
                "no pairs"
            )
    return {label: samples or count for label, count in counts.items()}


def batches_of(
    label: str,
    fields: xr.DataArray,
    count: int,
    length: int,
    skipped: dict[str, str] | None,
) -> Iterator[Tensor]:
    """The first ``count`` pictures as pixels, uint8 (image, channel, y, x), ``length`` at a time.

    Args:
        label: of the source.
        fields: its pictures.
        count: how many are wanted.
        length: pictures of a batch.
        skipped: takes those that cannot be used; None: they are compared in pairs, which hold only
            if none is left out.

    Raises:
        InputError: fields with nan or infinity, or that cannot be read or used.
    """
    batch: list[NDArray[np.uint8]] = []
    try:
        for field in islice(chain.from_iterable(batches(fields, skipped=skipped)), count):
            if not np.isfinite(field).all():
                raise InputError(f"{label}: fields with nan or infinity")
            batch.append(pixels(field))
            if len(batch) == length:
                yield torch.from_numpy(np.stack(batch))
                batch = []
    except UnusableError as error:
        raise InputError(
            f"{label}: {error.file} cannot be used ({error.reason}), and pictures are compared in "
            "pairs; remove it and its partners"
        ) from None
    if batch:
        yield torch.from_numpy(np.stack(batch))
