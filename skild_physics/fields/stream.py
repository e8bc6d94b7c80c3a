"""A stream of square fields: what every kind of data looks like to a measurement or a training."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from skild_physics.kspace import Basis

Split = Literal["train", "test"]

BATCH_VALUES = 2**20


@dataclass(frozen=True, eq=False)
class FieldStream:
    """Square fields read in batches, in bounded memory and in a fixed order.

    Attributes:
        name: shown to people.
        size: sites N per axis.
        channels: names of the channels.
        count: independent items. All tiles of one picture are one item: they are correlated.
        basis: natural basis of the modes.
        read: ``read(start, stop)`` yields float batches (n, channel, N, N) of the items
            start .. stop - 1, at most about 2**20 values each. The number of fields can differ from
            the number of items: a picture may give many tiles, or none if it is skipped. Raises
            InputError if the data cannot be read.
        skipped: why an item was left out, by name; grows while reading.
        close: releases the file; also done at the end of a ``with`` block.
    """

    name: str
    size: int
    channels: tuple[str, ...]
    count: int
    basis: Basis
    read: Callable[[int, int], Iterator[NDArray[np.floating]]]
    skipped: dict[str, str] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def batch_length(channels: int, size: int) -> int:
    """Fields (channel, size, size) in a batch of about 2**20 values, at least one."""
    return max(1, BATCH_VALUES // (channels * size**2))


def slices(start: int, stop: int, step: int) -> Iterator[slice]:
    """Consecutive slices of at most ``step`` items that cover start .. stop - 1."""
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))


def scaled(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Pixels 0 .. 255 as float32 in [-1, 1]."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)
