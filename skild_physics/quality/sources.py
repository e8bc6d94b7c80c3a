"""Sources of pictures: whether they can be compared, how many there are, and their 8-bit pixels."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_physics.fields import FieldStream
from skild_physics.fields.writing import pixels
from skild_physics.files import InputError
from skild_physics.quality.metrics import METRICS


def pictures_to_read(
    sources: Mapping[str, FieldStream], metrics: Sequence[str], samples: int | None
) -> dict[str, int]:
    """The number of pictures of each source, if they can be compared.

    Args:
        sources: streams by label, the reference first.
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
    for label, stream in sources.items():
        if len(stream.channels) not in (1, 3):
            raise InputError(
                f"{label}: {len(stream.channels)} channels; pictures have one or three"
            )
        if len(stream.channels) != len(first.channels):
            kinds = {1: "grey", 3: "in colour"}
            raise InputError(
                f"{reference} is {kinds[len(first.channels)]}, {label} is "
                f"{kinds[len(stream.channels)]}; `grey=True` opens folders as grey pictures"
            )
        for metric in metrics:
            if stream.size < METRICS[metric].smallest:
                raise InputError(
                    f"{metric} needs at least {METRICS[metric].smallest} pixels per side; "
                    f"{label} has {stream.size}"
                )
        if paired and stream.size != first.size:
            raise InputError(
                f"{', '.join(paired)} compare pairs: {reference} has {first.size} x {first.size} "
                f"pixels, {label} {stream.size} x {stream.size}; fid, kid and is need no pairs"
            )
    counts = {label: _count(stream) for label, stream in sources.items()}
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


def _count(stream: FieldStream) -> int:
    """Fields of a stream; an item may give many, then all are read."""
    first = sum(map(len, stream.read(0, 1)))
    return stream.count if first == 1 else sum(map(len, stream.read(0, stream.count)))


def check_none_skipped(sources: Mapping[str, FieldStream]) -> None:
    """Pairs hold only if no picture was left out.

    Raises:
        InputError: a picture was damaged or too small, and skipped.
    """
    for label, stream in sources.items():
        for name, reason in stream.skipped.items():
            raise InputError(
                f"{label}: {name} cannot be used ({reason}), and pictures are compared in pairs; "
                "remove it and its partners"
            )


def batches_of(label: str, stream: FieldStream, count: int, length: int) -> Iterator[Tensor]:
    """The first ``count`` pictures as pixels, uint8 (image, channel, y, x), ``length`` at a time.

    Raises:
        InputError: fields with nan or infinity, or that cannot be read.
    """
    batch: list[NDArray[np.uint8]] = []
    for field in islice(chain.from_iterable(stream.read(0, stream.count)), count):
        if not np.isfinite(field).all():
            raise InputError(f"{label}: fields with nan or infinity")
        batch.append(pixels(field))
        if len(batch) == length:
            yield torch.from_numpy(np.stack(batch))
            batch = []
    if batch:
        yield torch.from_numpy(np.stack(batch))
