"""Random batches of the fields of any source, augmented with symmetries of their distribution.

The Boltzmann weight of the Ising torus without an external field does not change under
translations, the eight symmetries of the square and the global spin flip, so an augmented field is
as good a sample as the stored one. Photographs are taken to be as likely as their mirror images.

Spins and 8-bit pixels are both p / 127.5 - 1 for a byte p, so one byte per value holds them exactly
in memory; everything else is held as float32. What does not fit is read again whenever drawn.
"""

import os
import warnings
from bisect import bisect_right
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from skild_physics.fields import FieldStream, open_source
from skild_physics.fields.stream import scaled
from skild_physics.files import InputError
from skild_physics.kspace import Basis

Symmetry = Literal["torus", "mirror", "none"]
Take = Callable[[Tensor], Tensor]

_SYMMETRIES: dict[tuple[str, ...], Symmetry] = {
    ("spin",): "torus",
    ("grey",): "mirror",
    ("red", "green", "blue"): "mirror",
}


@dataclass(frozen=True, eq=False)
class TrainingFields:
    """Square fields that can be drawn in any order.

    Attributes:
        name: shown to people.
        channels: names of the channels.
        size: sites N per axis.
        basis: natural basis of the modes.
        count: items that can be drawn.
        symmetry: what a batch is augmented with. "torus": translations, the eight symmetries of
            the square and the sign; "mirror": left and right; "none".
        take: ``take(indices)`` gives the fields with these int64 numbers below ``count``, shape
            (B,), in this order and as they are stored, float32 (B, C, N, N). Raises InputError if
            they cannot be read.
        skipped: why a picture was left out, by file; grows while pictures are read.
    """

    name: str
    channels: tuple[str, ...]
    size: int
    basis: Basis
    count: int
    symmetry: Symmetry
    take: Take
    skipped: dict[str, str] = field(default_factory=dict)


def open_training_fields(
    source: str | Path,
    *,
    heldout: int = 0,
    symmetry: Symmetry | None = None,
    size: int | None = None,
    tile: bool = False,
    resize: bool = False,
    grey: bool = False,
    data_dir: str | Path | None = None,
    memory: int = 4 * 2**30,
) -> tuple[TrainingFields, TrainingFields | None]:
    """The fields of a source to train on, and those held out (None if none are).

    All usable fields are loaded if they fit in memory. Otherwise each item is read whenever it is
    drawn, and a picture that must be skipped is replaced by the next usable one of its part.

    Args:
        source: the word ``cifar10``, a folder, a .npy stack or an HDF5 file, see
            :func:`open_source`, as for ``size``, ``tile``, ``resize``, ``grey`` and ``data_dir``.
        heldout: number of items, the last of the source, that are never trained on. All tiles of a
            picture are one item.
        symmetry: None: "torus" for spins, "mirror" for pictures, "none" for others.
        size: sites per axis, of folders of pictures.
        tile: every patch of a picture; only if all of them fit in memory.
        resize: shrink pictures first.
        grey: luminance instead of colours.
        data_dir: folder of the CIFAR-10 archive.
        memory: bytes that loaded fields may take.

    Raises:
        InputError: what :func:`open_source` raises; ``heldout`` leaves nothing to train on; no
            usable picture in a part; tiles that do not fit in memory; "torus" for fields that are
            not periodic.
    """
    stream = open_source(source, size=size, tile=tile, resize=resize, grey=grey, data_dir=data_dir)
    with ExitStack() as stack:
        stack.enter_context(stream)
        if not 0 <= heldout < stream.count:
            raise InputError(
                f"{source}: heldout must be at least 0 and less than the {stream.count:,} items, "
                f"got {heldout:,}"
            )
        if symmetry == "torus" and stream.basis != "periodic":
            raise InputError(
                f"{source}: the symmetry 'torus' is for periodic fields, not for the "
                f"{stream.basis} basis of this source"
            )
        if symmetry is None:
            symmetry = _SYMMETRIES.get(stream.channels, "none")
        first = stream.count - heldout
        parts = [(0, first), (first, stream.count)][: 2 if heldout else 1]
        loaded = _load(stream, parts, memory)
        if loaded is not None:
            found = [(sum(map(len, batches)), _from_memory(stream, batches)) for batches in loaded]
        elif tile:
            raise InputError(
                f"{source}: the tiles of {stream.count:,} pictures take more than "
                f"{memory / 2**30:.3g} GiB of memory; choose fewer pictures, or no tiles"
            )
        else:
            found = [(stop - start, _from_stream(stream, start, stop)) for start, stop in parts]
            # the source stays open, to be read from
            stack.pop_all()
    source_is = stream.name, stream.channels, stream.size, stream.basis
    training, *others = [
        TrainingFields(*source_is, count, symmetry, take, stream.skipped) for count, take in found
    ]
    return training, others[0] if others else None


def training_batch(
    fields: TrainingFields,
    batch_size: int,
    generator: torch.Generator,
    part: slice = slice(None),
) -> Tensor:
    """A random batch of augmented fields, drawn with replacement, float32 (B, C, N, N).

    Args:
        fields: what to draw from.
        batch_size: size of the whole batch.
        generator: source of the draws, on the CPU.
        part: make only these items. The draws are those of the whole batch, so parts that several
            processes make are together the batch that one would make.

    Raises:
        InputError: fields cannot be read.
    """
    indices = torch.randint(fields.count, (batch_size,), generator=generator)
    if fields.symmetry == "torus":
        elements = _draw_elements(batch_size, fields.size, generator)
        return _moved(fields.take(indices[part]), elements[:, part])
    if fields.symmetry == "mirror":
        mirrored = torch.randint(2, (batch_size, 1, 1, 1), generator=generator)[part] > 0
        batch = fields.take(indices[part])
        return torch.where(mirrored, batch.flip(-1), batch)
    return fields.take(indices[part])


def random_symmetry(fields: Tensor, generator: torch.Generator) -> Tensor:
    """Each sample under its own random translation, point symmetry of the square and sign.

    Args:
        fields: shape (sample, L, L), or (sample, channel, L, L), whose channels move together; of
            any type that has negative values.
        generator: source of the draws, on the CPU.
    """
    return _moved(fields, _draw_elements(len(fields), fields.shape[-1], generator))


def _draw_elements(n: int, L: int, generator: torch.Generator) -> Tensor:
    """Shifts of y and x and four signs: of the field, of y, of x, of their exchange; (6, n)."""
    shifts = torch.randint(L, (2, n), generator=generator)
    return torch.cat([shifts, 1 - 2 * torch.randint(2, (4, n), generator=generator)])


def _moved(fields: Tensor, elements: Tensor) -> Tensor:
    n, L = len(fields), fields.shape[-1]
    site = torch.arange(L)
    shift_y, shift_x, sign, mirror_y, mirror_x, transpose = elements[..., None]
    y = ((mirror_y * site + shift_y) % L)[:, :, None]
    x = ((mirror_x * site + shift_x) % L)[:, None, :]
    origin = torch.where(transpose[..., None] > 0, y * L + x, x * L + y)
    others = [1] * (fields.ndim - 3)
    moved = torch.take_along_dim(fields.flatten(-2), origin.view(n, *others, L * L), -1)
    signed: Tensor = moved.view(fields.shape) * sign.view(n, *others, 1, 1).to(fields.dtype)
    return signed


def _compact(batch: NDArray[np.floating]) -> NDArray[Any]:
    """Bytes that ``scaled`` turns into exactly these values if there are any, else float32."""
    values = batch.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        pixels = np.rint((values + 1) * np.float32(127.5)).astype(np.uint8)
    return pixels if np.array_equal(scaled(pixels), values) else values


def _load(
    stream: FieldStream, parts: list[tuple[int, int]], memory: int
) -> list[list[NDArray[Any]]] | None:
    """Compact batches of each part, or None once they exceed the memory."""
    if stream.count * len(stream.channels) * stream.size**2 > memory:
        return None
    loaded: list[list[NDArray[Any]]] = []
    for start, stop in parts:
        loaded.append([])
        for batch in stream.read(start, stop):
            loaded[-1].append(_compact(batch))
            memory -= loaded[-1][-1].nbytes
            if memory < 0:
                return None
        if not loaded[-1]:
            raise _nothing_usable(stream, start, stop)
    return loaded


def _nothing_usable(stream: FieldStream, start: int, stop: int) -> InputError:
    name, reason = next(reversed(stream.skipped.items()))
    return InputError(
        f"{stream.name}: all pictures {start + 1:,} .. {stop:,} of {stream.count:,} were skipped, "
        f"the last {name}: {reason}"
    )


def _from_memory(stream: FieldStream, batches: list[NDArray[Any]]) -> Take:
    shape = (len(stream.channels), stream.size, stream.size)
    ends = np.cumsum([len(batch) for batch in batches]).tolist()

    def take(indices: Tensor) -> Tensor:
        fields = np.empty((len(indices), *shape), np.float32)
        for i, index in enumerate(indices.tolist()):
            at = bisect_right(ends, index)
            found = batches[at][index - ends[at]]
            fields[i] = scaled(found) if found.dtype == np.uint8 else found
        return torch.from_numpy(fields)

    return take


def _from_stream(stream: FieldStream, start: int, stop: int) -> Take:
    shape = (len(stream.channels), stream.size, stream.size)
    threads = min(8, os.cpu_count() or 1)

    def read(index: int) -> NDArray[Any]:
        item = start + index
        for usable in chain(range(item, stop), range(start, item)):
            for batch in stream.read(usable, usable + 1):
                found: NDArray[Any] = batch[0]
                return found
        raise _nothing_usable(stream, start, stop)

    def take(indices: Tensor) -> Tensor:
        fields = np.empty((len(indices), *shape), np.float32)
        # each read of pictures sets and restores these filters, which belong to the whole process:
        # threads that overlap must find them set already
        with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            for i, values in enumerate(pool.map(read, indices.tolist())):
                fields[i] = values
        return torch.from_numpy(fields)

    return take
